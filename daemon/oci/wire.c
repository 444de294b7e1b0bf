#include "daemon/oci/wire.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <string.h>
#include <strings.h>

/* ---- challenges ---- */

static const char *skip(const char *s, const char *set)
{
	return s + strspn(s, set);
}

/* One token or quoted string into ret (which may be NULL); behind it, or NULL when it is broken or too long. */
static const char *word(const char *s, char *ret, size_t size)
{
	bool quoted = *s == '"';
	size_t n = 0;

	for (s += quoted; *s && (quoted ? *s != '"' : strchr(" \t,=", *s) == NULL); s++) {
		if (quoted && *s == '\\' && s[1])
			s++;
		if ((unsigned char)*s < 0x20 || n + 1 >= size)
			return NULL;
		ret[n++] = *s;
	}
	ret[n] = '\0';
	if (quoted && *s != '"')
		return NULL;
	return s + quoted;
}

static const char *parameters(const char *s, struct challenge *c)
{
	char key[64], value[sizeof c->realm];

	for (;;) {
		const char *begin = s = skip(s, " \t,");
		if (*s == '\0')
			return begin;
		if ((s = word(s, key, sizeof key)) == NULL)
			return NULL;
		s = skip(s, " \t");
		if (*s != '=')
			return begin; /* the next scheme */
		if ((s = word(skip(s + 1, " \t"), value, sizeof value)) == NULL)
			return NULL;
		if (strcasecmp(key, "realm") == 0)
			(void)fcm_copy(c->realm, sizeof c->realm, value);
		if (strcasecmp(key, "service") == 0 && !fcm_copy(c->service, sizeof c->service, value))
			return NULL;
	}
}

struct challenge challenge_parse(const char *s)
{
	struct challenge c = {0};
	char scheme[32];

	while (s && *(s = skip(s, " \t,"))) {
		c = (struct challenge){0};
		if ((s = word(s, scheme, sizeof scheme)) == NULL ||
			(*s && *s != ' ' && *s != '\t' && *s != ','))
			break;
		const char *next = parameters(s, &c);
		if (next == NULL || next == s)
			break;
		if (strcasecmp(scheme, "basic") == 0)
			c.kind = CHALLENGE_BASIC;
		if (strcasecmp(scheme, "bearer") == 0 && c.realm[0])
			c.kind = CHALLENGE_BEARER;
		if (c.kind != CHALLENGE_NONE)
			return c;
		s = next;
	}
	return (struct challenge){0};
}

/* ---- where ---- */

bool url_host(const char *url, char *ret, size_t size)
{
	size_t scheme = strncasecmp(url, "https://", 8) == 0  ? 8
			: strncasecmp(url, "http://", 7) == 0 ? 7
							      : 0;
	const char *host = url + scheme;
	size_t n = strcspn(host, "/?#");

	if (scheme == 0 || n == 0 || n >= size || memchr(host, '@', n) || memchr(host, '\\', n))
		return false;
	for (size_t i = 0; i < n; i++)
		ret[i] = (char)tolower((unsigned char)host[i]);
	ret[n] = '\0';
	return true;
}

static bool in_net(uint32_t ip, const char *net)
{
	char text[INET_ADDRSTRLEN + 4];
	struct in_addr base;
	int64_t bits = 32;

	if (net == NULL || !fcm_copy(text, sizeof text, net))
		return false;
	char *slash = strchr(text, '/');
	if (slash) {
		*slash = '\0';
		if (!fcm_parse_i64(slash + 1, 1, 32, &bits))
			return false;
	}
	if (inet_pton(AF_INET, text, &base) != 1)
		return false;
	return (ip ^ ntohl(base.s_addr)) >> (32 - bits) == 0;
}

static bool ipv4_allowed(uint32_t ip, const char *pool)
{
	static const char *const never[] = {"0.0.0.0/8", "100.100.100.200/32", "127.0.0.0/8",
		"168.63.129.16/32", "169.254.0.0/16", "224.0.0.0/3"};

	for (size_t i = 0; i < ARRAY_SIZE(never); i++)
		if (in_net(ip, never[i]))
			return false;
	return !in_net(ip, pool);
}

/* The last four bytes of an address of IPv6. */
static uint32_t tail(const struct in6_addr *a)
{
	return (uint32_t)a->s6_addr[12] << 24 | (uint32_t)a->s6_addr[13] << 16 |
	       (uint32_t)a->s6_addr[14] << 8 | a->s6_addr[15];
}

bool address_allowed(const struct sockaddr *sa, const char *pool)
{
	static const unsigned char nat64[12] = {0, 0x64, 0xff, 0x9b};
	struct sockaddr_in in;
	struct sockaddr_in6 in6;

	if (sa->sa_family == AF_INET) {
		memcpy(&in, sa, sizeof in);
		return ipv4_allowed(ntohl(in.sin_addr.s_addr), pool);
	}
	if (sa->sa_family != AF_INET6)
		return false;
	memcpy(&in6, sa, sizeof in6);
	const struct in6_addr *a = &in6.sin6_addr;
	if (IN6_IS_ADDR_V4MAPPED(a) || memcmp(a, nat64, sizeof nat64) == 0)
		return ipv4_allowed(tail(a), pool);
	return !IN6_IS_ADDR_UNSPECIFIED(a) && !IN6_IS_ADDR_LOOPBACK(a) && !IN6_IS_ADDR_LINKLOCAL(a) &&
	       !IN6_IS_ADDR_MULTICAST(a) && !IN6_IS_ADDR_V4COMPAT(a);
}
