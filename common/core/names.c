#include "common/core/names.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const char alnum[] = "abcdefghijklmnopqrstuvwxyz0123456789";

/* The word lists of the first fcm. */
static const char *const adjectives[] = {"cosmic", "quantum", "stellar", "solar", "lunar", "orbital",
	"nebula", "cyber", "digital", "neural", "binary", "atomic", "photon", "plasma", "misty", "crystal",
	"amber", "coral", "forest", "arctic", "alpine"};
static const char *const nouns[] = {"nova", "comet", "pulsar", "quasar", "aurora", "eclipse", "meteor",
	"circuit", "matrix", "nexus", "vertex", "tensor", "vector", "cipher", "river", "canyon", "glacier",
	"meadow", "reef", "grove", "peak"};

static bool label_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
}

/* Length of the DNS label that s begins with, or 0 when it is none. */
static size_t label_len(const char *s)
{
	size_t n = 0;

	while (label_char(s[n]))
		n++;
	return n >= 1 && n <= 63 && s[0] != '-' && s[n - 1] != '-' ? n : 0;
}

/* "64-34-93-45": in front of sslip.io such a name would be an address. */
static bool reads_as_ip(const char *s)
{
	char dotted[64];
	struct in_addr ip;

	if (!fcm_copy(dotted, sizeof dotted, s))
		return false;
	for (char *p = dotted; *p; p++)
		if (*p == '-')
			*p = '.';
	return inet_pton(AF_INET, dotted, &ip) == 1;
}

bool vm_name_valid(const char *s)
{
	size_t n = label_len(s);

	return n > 0 && s[n] == '\0' && !reads_as_ip(s);
}

bool vm_id_valid(const char *s)
{
	return strspn(s, alnum) == 8 && s[8] == '\0';
}

bool dns_name_valid(const char *s)
{
	if (strlen(s) > 253 || strchr(s, '.') == NULL)
		return false;
	for (;;) {
		size_t n = label_len(s);
		if (n == 0)
			return false;
		if (s[n] == '\0')
			return true;
		if (s[n] != '.')
			return false;
		s += n + 1;
	}
}

bool asset_name_valid(const char *s)
{
	size_t n = 0;

	while (label_char(s[n]) || s[n] == '.' || s[n] == '_')
		n++;
	return n >= 1 && n <= 63 && s[n] == '\0' && isalnum((unsigned char)s[0]);
}

int vm_name_parse(const char *s, const char *field, struct vm_name *ret, struct fcm_error *err)
{
	if (!vm_name_valid(s))
		return fcm_fail_field(err, FCM_INVALID, field,
			"%s: a name is 1 to 63 of a-z, 0-9 and '-', with no '-' at either end, and not an "
			"address",
			field);
	fcm_copy(ret->s, sizeof ret->s, s);
	return 0;
}

int dns_name_parse(const char *s, const char *field, struct dns_name *ret, struct fcm_error *err)
{
	if (!dns_name_valid(s))
		return fcm_fail_field(err, FCM_INVALID, field,
			"%s: not a domain name (lower case, like web.example.com)", field);
	fcm_copy(ret->s, sizeof ret->s, s);
	return 0;
}

int asset_name_parse(const char *s, const char *field, struct asset_name *ret, struct fcm_error *err)
{
	if (!asset_name_valid(s))
		return fcm_fail_field(err, FCM_INVALID, field,
			"%s: a name is 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or "
			"digit",
			field);
	fcm_copy(ret->s, sizeof ret->s, s);
	return 0;
}

/* A random number below n, without bias. */
static unsigned random_below(unsigned n)
{
	uint32_t v, limit = UINT32_MAX - UINT32_MAX % n;

	do {
		if (getrandom(&v, sizeof v, 0) != sizeof v)
			abort();
	} while (v >= limit);
	return v % n;
}

struct vm_id vm_id_random(void)
{
	struct vm_id id = {{0}};

	for (int i = 0; i < 8; i++)
		id.s[i] = alnum[random_below(sizeof alnum - 1)];
	return id;
}

struct vm_name vm_name_random(bool (*taken)(const char *name, void *arg), void *arg)
{
	struct vm_name name;

	for (unsigned try = 0;; try++) {
		const char *a = adjectives[random_below(ARRAY_SIZE(adjectives))];
		const char *b = nouns[random_below(ARRAY_SIZE(nouns))];
		if (try < 8)
			fcm_format(name.s, sizeof name.s, "%s-%s", a, b);
		else
			fcm_format(name.s, sizeof name.s, "%s-%s-%u", a, b, 10 + random_below(9990));
		if (!taken(name.s, arg))
			return name;
	}
}

struct ip_text ip_dotted(struct in_addr ip)
{
	struct ip_text t;

	inet_ntop(AF_INET, &ip, t.s, sizeof t.s);
	return t;
}

struct ip_text ip_dashed(struct in_addr ip)
{
	struct ip_text t = ip_dotted(ip);

	for (char *p = t.s; *p; p++)
		if (*p == '.')
			*p = '-';
	return t;
}

static uint32_t net_mask(unsigned prefix)
{
	return prefix ? ~0u << (32 - prefix) : 0;
}

bool ip_net_parse(const char *s, struct ip_net *ret)
{
	char addr[INET_ADDRSTRLEN];
	const char *slash = strchr(s, '/');
	int64_t prefix;
	struct in_addr ip;

	if (slash == NULL || (size_t)(slash - s) >= sizeof addr)
		return false;
	memcpy(addr, s, (size_t)(slash - s));
	addr[slash - s] = '\0';
	if (inet_pton(AF_INET, addr, &ip) != 1 || !fcm_parse_i64(slash + 1, 0, 32, &prefix))
		return false;
	if (ntohl(ip.s_addr) & ~net_mask((unsigned)prefix))
		return false;
	*ret = (struct ip_net){ip, (unsigned)prefix};
	return true;
}

bool ip_net_has(const struct ip_net *net, struct in_addr ip)
{
	return (ntohl(ip.s_addr) & net_mask(net->prefix)) == ntohl(net->addr.s_addr);
}

bool ip_net_overlap(const struct ip_net *a, const struct ip_net *b)
{
	return ip_net_has(a->prefix <= b->prefix ? a : b, a->prefix <= b->prefix ? b->addr : a->addr);
}
