#include "images/agent/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "common/core/kv.h"

#define DEVICE "eth0"

static int parse_ip(const void *kv, size_t n, const char *key, struct in_addr *ret, struct fcm_error *err)
{
	const char *s = kv_get(kv, n, key);

	if (s == NULL || inet_pton(AF_INET, s, ret) != 1)
		return fcm_fail_field(err, FCM_INVALID, key, "%s: not an IPv4 address", key);
	return 0;
}

int net_parse(const void *kv, size_t n, struct guest_net *ret, struct fcm_error *err)
{
	struct guest_net net = {0};
	int64_t prefix = kv_i64(kv, n, "prefix", 1, 32, 0);
	const char *hostname = kv_get(kv, n, "hostname");

	if (parse_ip(kv, n, "address", &net.address, err) < 0)
		return -1;
	if (kv_get(kv, n, "gateway") && parse_ip(kv, n, "gateway", &net.gateway, err) < 0)
		return -1;
	if (prefix == 0)
		return fcm_fail_field(err, FCM_INVALID, "prefix", "prefix: not in 1..32");
	if (hostname && !fcm_copy(net.hostname, sizeof net.hostname, hostname))
		return fcm_fail_field(err, FCM_INVALID, "hostname", "hostname: longer than 63 bytes");
	net.mask.s_addr = htonl(UINT32_MAX << (32 - prefix));
	*ret = net;
	return 0;
}

static struct sockaddr in_sockaddr(struct in_addr a)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = a};
	struct sockaddr ret;

	memcpy(&ret, &in, sizeof ret);
	return ret;
}

static int set_up(int fd, const char *device, struct fcm_error *err)
{
	struct ifreq r = {0};

	(void)fcm_copy(r.ifr_name, sizeof r.ifr_name, device);
	if (ioctl(fd, SIOCGIFFLAGS, &r) < 0)
		return fcm_fail_errno(err, "interface %s", device);
	r.ifr_flags |= IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &r) < 0)
		return fcm_fail_errno(err, "bring up %s", device);
	return 0;
}

static int set_address(int fd, const struct guest_net *net, struct fcm_error *err)
{
	struct ifreq r = {.ifr_name = DEVICE};

	r.ifr_addr = in_sockaddr(net->address);
	if (ioctl(fd, SIOCSIFADDR, &r) < 0)
		return fcm_fail_errno(err, "set the address of %s", DEVICE);
	r.ifr_netmask = in_sockaddr(net->mask);
	if (ioctl(fd, SIOCSIFNETMASK, &r) < 0)
		return fcm_fail_errno(err, "set the mask of %s", DEVICE);
	return 0;
}

static int set_route(int fd, const struct guest_net *net, struct fcm_error *err)
{
	struct rtentry r = {.rt_flags = RTF_UP | RTF_GATEWAY};

	if (net->gateway.s_addr == 0)
		return 0;
	r.rt_dst = r.rt_genmask = in_sockaddr((struct in_addr){0});
	r.rt_gateway = in_sockaddr(net->gateway);
	if (ioctl(fd, SIOCADDRT, &r) < 0 && errno != EEXIST)
		return fcm_fail_errno(err, "add the default route");
	return 0;
}

int net_apply(const struct guest_net *net, struct fcm_error *err)
{
	auto_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return fcm_fail_errno(err, "socket");
	if (net->hostname[0] && sethostname(net->hostname, strlen(net->hostname)) < 0)
		return fcm_fail_errno(err, "set the host name");
	if (set_up(fd, "lo", err) < 0 || set_up(fd, DEVICE, err) < 0 || set_address(fd, net, err) < 0)
		return -1;
	return set_route(fd, net, err);
}
