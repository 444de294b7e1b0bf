#include "daemon/net/resolv.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "common/core/fileio.h"
#include "daemon/net/config.h"
#include "daemon/net/link.h"
#include "daemon/net/net.h"

enum { RESOLV_MAX_BYTES = 64 * 1024 };

static bool in_any(struct in_addr ip, const char *const nets[])
{
	struct ip_net net;

	for (; *nets; nets++)
		if (ip_net_parse(*nets, &net) && ip_net_has(&net, ip))
			return true;
	return false;
}

bool ip_is_denied(struct in_addr ip)
{
	static const char *const nets[] = {
		"0.0.0.0/8", "100.100.100.200/32", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", NULL};

	return in_any(ip, nets);
}

bool ip_is_private(struct in_addr ip)
{
	static const char *const nets[] = {
		"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", NULL};

	return ip_is_denied(ip) || in_any(ip, nets);
}

void resolv_parse(const char *text, bool (*usable)(struct in_addr ip), struct strv *ret)
{
	auto_free char *copy = xstrdup(text);
	char *save = NULL, *words = NULL;

	for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		const char *key = strtok_r(line, " \t\r", &words);
		const char *value = key ? strtok_r(NULL, " \t\r", &words) : NULL;
		struct in_addr ip;

		if (value == NULL || strcmp(key, "nameserver") != 0 || inet_pton(AF_INET, value, &ip) != 1)
			continue;
		if (ret->n < RESOLVERS_MAX && usable(ip) && !strv_has(ret, ip_dotted(ip).s))
			strv_add(ret, ip_dotted(ip).s);
	}
}

/* The host is closed to VMs, so a resolver on one of its own addresses is none to them. */
static bool usable_by_vms(struct in_addr ip)
{
	return !ip_is_denied(ip) && !link_has_address(ip);
}

void net_resolvers(struct strv *ret)
{
	static const char *const files[] = {"/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"};
	const struct net_config *config = net_config();

	strv_copy(ret, &config->dns);
	for (size_t i = 0; i < ARRAY_SIZE(files) && ret->n == 0; i++) {
		_cleanup_(buf_done) struct buf text = {0};
		auto_free char *real = realpath(files[i], NULL); /* often a link */
		struct fcm_error ignored;
		if (real && file_read(AT_FDCWD, real, RESOLV_MAX_BYTES, &text, &ignored) == 0)
			resolv_parse(text.p, usable_by_vms, ret);
	}
}

/* The source address that the kernel would use to the internet. connect(2) of a UDP socket sends nothing. */
static struct in_addr default_source(void)
{
	struct sockaddr_in a = {
		.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0xc6336401)};
	socklen_t n = sizeof a; /* 198.51.100.1: TEST-NET-2, RFC 5737 */
	auto_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) < 0 ||
		getsockname(fd, (struct sockaddr *)&a, &n) < 0)
		return (struct in_addr){0};
	return a.sin_addr;
}

bool net_public_ip(struct in_addr *ret)
{
	const struct net_config *config = net_config();

	*ret = config->public_ip.s_addr ? config->public_ip : default_source();
	return config->public_ip.s_addr || !ip_is_private(*ret);
}
