/*
 * What a value of the config may be. Those that are written into a Caddyfile or an argv are held to the characters that
 * such things need, so nothing in them has to be quoted.
 */
#include <arpa/inet.h>
#include <string.h>
#include <sys/un.h>

#include "common/config_internal.h"
#include "common/core/ref.h"

#define LOWER "abcdefghijklmnopqrstuvwxyz"
#define DIGITS "0123456789"
#define LETTERS LOWER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

const char *const config_log_names[] = {"error", "warn", "info", "debug", NULL};

static bool only(const char *s, const char *chars)
{
	return s[strspn(s, chars)] == '\0';
}

static int must(bool good, const char *key, const char *value, const char *what, struct fcm_error *err)
{
	return good ? 0
		    : fcm_fail_field(
			      err, FCM_CONFIG, key, "%s: '%s' is not %s", key, field_clip(value).s, what);
}

static bool path_valid(const char *s)
{
	return s[0] == '/' && only(s, LETTERS DIGITS "/._+@-") && strstr(s, "/../") == NULL;
}

int check_path(const void *value, const char *key, struct fcm_error *err)
{
	return must(path_valid(value), key, value, "an absolute path (letters, digits and /._+@-)", err);
}

int check_path_or_none(const void *value, const char *key, struct fcm_error *err)
{
	return *(const char *)value ? check_path(value, key, err) : 0;
}

int check_program(const void *value, const char *key, struct fcm_error *err)
{
	const char *s = value;
	bool plain = *s && only(s, LETTERS DIGITS "._+-") && s[0] != '-';

	return must(plain || path_valid(s), key, s, "the name or path of a program", err);
}

int check_program_or_none(const void *value, const char *key, struct fcm_error *err)
{
	return *(const char *)value ? check_program(value, key, err) : 0;
}

/* A user or group: useradd(8), CAVEATS. */
int check_user(const void *value, const char *key, struct fcm_error *err)
{
	const char *s = value;

	return must(s[0] && strchr(LOWER "_", s[0]) && only(s, LOWER DIGITS "_-"), key, s,
		"the name of a user or group", err);
}

static bool listen_parse(const char *s, struct in_addr *ret)
{
	const char *colon = strrchr(s, ':');
	char host[INET_ADDRSTRLEN] = "";
	int64_t port;

	if (colon && (size_t)(colon - s) < sizeof host)
		memcpy(host, s, (size_t)(colon - s));
	return inet_pton(AF_INET, host, ret) == 1 && fcm_parse_i64(colon + 1, 1, 65535, &port);
}

int check_listen(const void *value, const char *key, struct fcm_error *err)
{
	const char *s = value;
	struct in_addr ip;

	return must(*s == '\0' || listen_parse(s, &ip), key, s,
		"an IPv4 address and port (like 127.0.0.1:7777)", err);
}

bool config_listens_abroad(const struct fcmd_config *c)
{
	struct in_addr ip;

	return listen_parse(c->listen, &ip) && ntohl(ip.s_addr) >> 24 != IN_LOOPBACKNET;
}

/* A label, which is what a VM's name is, or a whole name. */
int check_api_domain(const void *value, const char *key, struct fcm_error *err)
{
	const char *s = value;

	return must(*s == '\0' || vm_name_valid(s) || dns_name_valid(s), key, s,
		"a label or a domain name (lower case, like api or api.example.com)", err);
}

int check_hosts(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *l = value;

	for (size_t i = 0; i < l->n; i++)
		if (must(strlen(l->v[i]) <= 259 && only(l->v[i], LOWER DIGITS ".:[]-"), key, l->v[i],
			    "a host name (lower case)", err) < 0)
			return -1;
	return 0;
}

int check_vmm(const void *value, const char *key, struct fcm_error *err)
{
	bool good =
		strcmp(value, "auto") == 0 || strcmp(value, "firecracker") == 0 || strcmp(value, "qemu") == 0;

	return must(good, key, value, "one of auto, firecracker, qemu", err);
}

/* https, because the digests come from there too. Short enough that an error message can name a file there. */
int check_mirrors(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *l = value;

	for (size_t i = 0; i < l->n; i++) {
		bool good = strncmp(l->v[i], "https://", 8) == 0 && strlen(l->v[i]) <= 200 &&
			    only(l->v[i] + 8, LETTERS DIGITS ".:/_~%-[]") &&
			    strchr(LETTERS DIGITS "[", l->v[i][8]);
		if (must(good && l->v[i][8], key, l->v[i], "an https URL", err) < 0)
			return -1;
	}
	return 0;
}

/* Where "https://" or "http://" of s ends; NULL when it begins with neither. */
static const char *behind_scheme(const char *s)
{
	if (strncmp(s, "https://", 8) == 0)
		return s + 8;
	return strncmp(s, "http://", 7) == 0 ? s + 7 : NULL;
}

int check_registry_mirrors(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *l = value;

	for (size_t i = 0; i < l->n; i++) {
		const char *equals = strchr(l->v[i], '='), *host = equals ? behind_scheme(equals + 1) : NULL;
		auto_free char *registry = xprintf("%.*s", (int)(equals ? equals - l->v[i] : 0), l->v[i]);
		bool good = ref_registry_valid(registry) && host && *host && strlen(host) <= 255 &&
			    only(host, LETTERS DIGITS ".:-");
		if (must(good, key, l->v[i], "REGISTRY=https://HOST[:PORT]", err) < 0)
			return -1;
	}
	return 0;
}

int check_accel(const void *value, const char *key, struct fcm_error *err)
{
	bool good = strcmp(value, "auto") == 0 || strcmp(value, "kvm") == 0 || strcmp(value, "tcg") == 0;

	return must(good, key, value, "one of auto, kvm, tcg", err);
}

int check_tls(const void *value, const char *key, struct fcm_error *err)
{
	return must(*(const char *)value == '\0' || strcmp(value, "internal") == 0, key, value,
		"internal or empty", err);
}

int check_admin(const void *value, const char *key, struct fcm_error *err)
{
	const char *s = value;

	return must(*s && only(s, LETTERS DIGITS ".:/_[]-"), key, s,
		"an address (like localhost:2019 or unix//run/caddy.sock)", err);
}

int check_url_or_none(const void *value, const char *key, struct fcm_error *err)
{
	const char *s = value;
	bool url = strncmp(s, "https://", 8) == 0 || strncmp(s, "http://", 7) == 0;

	return must(*s == '\0' || (url && only(s, LETTERS DIGITS ".:/_~%=?&-")), key, s, "a URL", err);
}

/* Not "this network", loopback, link-local (metadata services live there) or multicast and above: RFC 6890. */
int check_pool(const void *value, const char *key, struct fcm_error *err)
{
	struct ip_net net;
	bool good = ip_net_parse(value, &net) && net.prefix >= 16 && net.prefix <= 30;
	uint32_t top = good ? ntohl(net.addr.s_addr) >> 16 : 0;

	good = good && top >> 8 != 0 && top >> 8 != IN_LOOPBACKNET && top >> 8 < 224 && top != 0xa9fe;
	return must(good, key, value, "a network of /16 to /30 (like 172.16.0.0/24)", err);
}

int check_dns(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *l = value;
	struct in_addr ip;

	for (size_t i = 0; i < l->n; i++) {
		bool good = inet_pton(AF_INET, l->v[i], &ip) == 1 && ntohl(ip.s_addr) >> 24 != IN_LOOPBACKNET;
		if (must(good, key, l->v[i], "an IPv4 address that guests can reach", err) < 0)
			return -1;
	}
	return 0;
}

static int check_addresses(const struct fcmd_config *c, struct fcm_error *err)
{
	uint32_t size = 1u << (32 - c->pool.prefix),
		 gateway = ntohl(c->gateway.s_addr) - ntohl(c->pool.addr.s_addr);

	if (!ip_net_has(&c->pool, c->gateway) || gateway == 0 || gateway == size - 1)
		return fcm_fail_field(err, FCM_CONFIG, "gateway", "gateway: %s is no address of the pool %s",
			ip_dotted(c->gateway).s, c->pool_text);
	if (c->first_address > c->last_address)
		return fcm_fail_field(err, FCM_CONFIG, "first_address",
			"first_address: %u is behind last_address, %u", c->first_address, c->last_address);
	if (c->last_address > size - 2)
		return fcm_fail_field(err, FCM_CONFIG, "last_address",
			"last_address: %u is outside the pool %s, which has 1..%u", c->last_address,
			c->pool_text, size - 2);
	if (gateway >= c->first_address && gateway <= c->last_address)
		return fcm_fail_field(err, FCM_CONFIG, "gateway",
			"gateway: %s lies in first_address..last_address, %u..%u", ip_dotted(c->gateway).s,
			c->first_address, c->last_address);
	return 0;
}

static int check_insecure_mirrors(const struct fcmd_config *c, struct fcm_error *err)
{
	for (size_t i = 0; i < c->registry_mirrors.n; i++) {
		const char *url = strchr(c->registry_mirrors.v[i], '=') + 1;
		if (strncmp(url, "http://", 7) == 0 && !strv_has(&c->insecure_registries, url + 7))
			return fcm_fail_field(err, FCM_CONFIG, "registry_mirrors",
				"registry_mirrors: %s is plain http, and not in insecure_registries", url);
	}
	return 0;
}

/* fcmd speaks plain HTTP, so it stays on this host unless somebody means it. */
static int fail_abroad(const struct fcmd_config *c, struct fcm_error *err)
{
	fcm_fail_field(err, FCM_CONFIG, "listen",
		"listen: %s isn't loopback, and tokens could be read on the way: "
		"insecure_bind = yes would allow it",
		c->listen);
	return fcm_hint(err, "better: listen = 127.0.0.1:7777 and api_domain = api, which is HTTPS by Caddy");
}

/* With what stands behind it, it is still a domain name, and Caddy can connect to its socket. */
static int check_api_name(const struct fcmd_config *c, struct fcm_error *err)
{
	auto_free char *name = xprintf("%s.%s", c->api_domain, c->domain);
	bool whole = strchr(c->api_domain, '.') || c->domain[0] == '\0';

	if (c->api_domain[0] == '\0')
		return 0;
	if (!whole && !dns_name_valid(name))
		return fcm_fail_field(
			err, FCM_CONFIG, "api_domain", "api_domain: %s is too long for a name", name);
	if (strlen(c->proxy_socket) >= sizeof((struct sockaddr_un *)0)->sun_path)
		return fcm_fail_field(err, FCM_CONFIG, "run_dir",
			"run_dir: %s is too long for the socket that api_domain needs there", c->run_dir);
	return 0;
}

int config_check(struct fcmd_config *c, struct fcm_error *err)
{
	struct ip_net pool;

	if (!ip_net_parse(c->pool_text, &pool))
		return fcm_fail_field(err, FCM_CONFIG, "pool", "pool: '%s' is no network", c->pool_text);
	c->pool = pool;
	if (c->gateway.s_addr == 0)
		c->gateway.s_addr = htonl(ntohl(pool.addr.s_addr) + 1);
	if (check_addresses(c, err) < 0 || check_insecure_mirrors(c, err) < 0)
		return -1;
	if (c->listen[0] == '\0' && c->socket[0] == '\0')
		return fcm_fail_field(err, FCM_CONFIG, "listen", "listen: neither this nor socket is set");
	if (config_listens_abroad(c) && !c->insecure_bind)
		return fail_abroad(c, err);
	fcm_format(c->proxy_socket, sizeof c->proxy_socket, "%s/proxy.sock", c->run_dir);
	if (check_api_name(c, err) < 0)
		return -1;
	if (c->max_anonymous > c->max_connections)
		return fcm_fail_field(err, FCM_CONFIG, "max_anonymous",
			"max_anonymous: %u is above max_connections, %u", c->max_anonymous,
			c->max_connections);
	return 0;
}
