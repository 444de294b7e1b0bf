#include "common/core/publish.h"

#include <arpa/inet.h>
#include <string.h>

#include "common/core/names.h"

enum { PARTS = 3, TEXT = 64 };

struct range {
	uint16_t first, last;
};

static int fail(const char *s, const char *field, const char *why, struct fcm_error *err)
{
	char shown[TEXT];

	(void)fcm_quote(shown, sizeof shown, s);
	fcm_fail_field(err, FCM_INVALID, field, "%s: '%s': %s", field, shown, why);
	return fcm_hint(err, "such as 8080:80, 127.0.0.1:8080:80, 8000-8005:80-85, 5353:53/udp, or 80 for a "
			     "free port of the host");
}

static bool parse_port(const char *s, int64_t min, uint16_t *ret)
{
	int64_t n;

	if (!fcm_parse_i64(s, min, 65535, &n))
		return false;
	*ret = (uint16_t)n;
	return true;
}

static bool parse_range(char *s, int64_t min, struct range *ret)
{
	char *dash = strchr(s, '-');

	if (dash)
		*dash++ = '\0';
	if (!parse_port(s, min, &ret->first))
		return false;
	ret->last = ret->first;
	return dash == NULL || (parse_port(dash, 1, &ret->last) && ret->first > 0 && ret->last >= ret->first);
}

/* Cut "/tcp" or "/udp" off. */
static bool cut_protocol(char *s, bool *ret_udp)
{
	char *slash = strchr(s, '/');

	*ret_udp = slash && strcmp(slash, "/udp") == 0;
	if (slash && !*ret_udp && strcmp(slash, "/tcp") != 0)
		return false;
	if (slash)
		*slash = '\0';
	return true;
}

/* Cut a copy at its colons; the number of parts, 0 when there are too many. */
static size_t cut_parts(char *s, char *parts[PARTS])
{
	size_t n = 0;

	for (char *rest = s, *part; (part = strsep(&rest, ":"));) {
		if (n == PARTS)
			return 0;
		parts[n++] = part;
	}
	return n;
}

static int add_one(struct publish_list *l, const struct publish *p, const char *s, const char *field,
	struct fcm_error *err)
{
	if (l->n == PUBLISH_MAX)
		return fail(s, field, "a VM publishes at most 64 ports", err);
	for (size_t i = 0; i < l->n; i++)
		if (publish_clash(&l->v[i], p))
			return fail(s, field, "this port of the host is published already", err);
	l->v[l->n++] = *p;
	return 0;
}

int publish_add(struct publish_list *l, const char *s, const char *field, struct fcm_error *err)
{
	struct publish p = {0};
	struct range host = {0}, guest;
	char text[TEXT], *parts[PARTS];

	if (!fcm_copy(text, sizeof text, s))
		return fail(s, field, "it is too long", err);
	if (!cut_protocol(text, &p.udp))
		return fail(s, field, "neither /tcp nor /udp", err);
	size_t n = cut_parts(text, parts);
	p.host_given = n == PARTS;
	if (n == 0 || (p.host_given && inet_pton(AF_INET, parts[0], &p.host) != 1))
		return fail(s, field, "not an IPv4 address of this host in front of its ports", err);
	if (!parse_range(parts[n - 1], 1, &guest) ||
		(n > 1 && *parts[n - 2] && !parse_range(parts[n - 2], 0, &host)))
		return fail(s, field, "a port is a number from 1 to 65535, or two with '-' between", err);
	if (host.first && host.last - host.first != guest.last - guest.first)
		return fail(s, field, "the two ranges differ in length", err);
	for (unsigned i = 0; i <= (unsigned)(guest.last - guest.first); i++) {
		p.port = (uint16_t)(guest.first + i);
		p.host_port = host.first ? (uint16_t)(host.first + i) : 0;
		if (add_one(l, &p, s, field, err) < 0)
			return -1;
	}
	return 0;
}

int publish_add_all(
	struct publish_list *l, const struct strv *texts, const char *field, struct fcm_error *err)
{
	for (size_t i = 0; i < texts->n; i++)
		if (publish_add(l, texts->v[i], field, err) < 0)
			return -1;
	return 0;
}

struct publish_text publish_text(const struct publish *p)
{
	struct publish_text t = {""};

	if (p->host_given)
		fcm_format(t.s, sizeof t.s, "%s:%u:%u/%s", ip_dotted(p->host).s, p->host_port, p->port,
			p->udp ? "udp" : "tcp");
	else
		fcm_format(t.s, sizeof t.s, "%u:%u/%s", p->host_port, p->port, p->udp ? "udp" : "tcp");
	return t;
}

bool publish_clash(const struct publish *a, const struct publish *b)
{
	return a->udp == b->udp && a->host_port && a->host_port == b->host_port &&
	       (a->host.s_addr == b->host.s_addr || a->host.s_addr == INADDR_ANY ||
		       b->host.s_addr == INADDR_ANY);
}

bool publish_list_has(const struct publish_list *list, const struct publish *p)
{
	for (size_t i = 0; i < list->n; i++)
		if (publish_same(&list->v[i], p))
			return true;
	return false;
}

bool publish_same(const struct publish *a, const struct publish *b)
{
	return a->udp == b->udp && a->host_port == b->host_port && a->port == b->port &&
	       a->host.s_addr == b->host.s_addr;
}

/* "[HOSTIP:]HOSTPORT[:PORT]", which may leave out what the others tell. */
static bool parse_name(const char *s, struct publish *ret)
{
	char text[TEXT], *parts[PARTS];

	*ret = (struct publish){0};
	if (!fcm_copy(text, sizeof text, s) || !cut_protocol(text, &ret->udp))
		return false;
	size_t n = cut_parts(text, parts);
	ret->host_given = n > 0 && inet_pton(AF_INET, parts[0], &ret->host) == 1;
	size_t k = ret->host_given ? 1 : 0;
	return n > k && n <= k + 2 && parse_port(parts[k], 1, &ret->host_port) &&
	       (n == k + 1 || parse_port(parts[k + 1], 1, &ret->port));
}

bool publish_names(const char *s, const char *field, struct fcm_error *err)
{
	struct publish p;

	if (parse_name(s, &p))
		return true;
	fail(s, field, "not a published port, [HOSTIP:]HOSTPORT[:PORT][/udp]", err);
	return false;
}

size_t publish_find(const struct publish_list *l, const char *s, const char *field, struct fcm_error *err)
{
	struct publish p;

	if (!publish_names(s, field, err) || !parse_name(s, &p))
		return l->n;
	for (size_t i = 0; i < l->n; i++) {
		const struct publish *q = &l->v[i];
		if (q->udp == p.udp && q->host_port == p.host_port && (p.port == 0 || p.port == q->port) &&
			(!p.host_given || q->host.s_addr == p.host.s_addr))
			return i;
	}
	fcm_fail_field(err, FCM_NOT_FOUND, field, "%s: it publishes no port %u/%s", field, p.host_port,
		p.udp ? "udp" : "tcp");
	fcm_hint(err, "fcm port shows what it publishes");
	return l->n;
}
