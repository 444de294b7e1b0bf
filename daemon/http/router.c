#include "daemon/http/router.h"

#include <string.h>

#include "common/field.h"

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decode percent escapes in place (RFC 3986, section 2.1). False for a bad one, and for a NUL or a control character. */
static bool decode(char *s)
{
	char *out = s;

	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '%') {
			int high = hex(s[1]), low = high < 0 ? -1 : hex(s[2]);
			if (low < 0)
				return false;
			c = (unsigned char)(high << 4 | low);
			s += 2;
		}
		if (c < 0x20 || c == 0x7f)
			return false;
		*out++ = (char)c;
	}
	*out = 0;
	return true;
}

/* One part of a path: names and ids are ASCII, so anything else is refused before a handler sees it. */
static int decode_segment(char *s, struct fcm_error *err)
{
	if (!decode(s))
		return fcm_fail(err, FCM_BAD_REQUEST, "the path has a bad escape or a control character");
	if (strcmp(s, ".") == 0 || strcmp(s, "..") == 0 || strchr(s, '/'))
		return fcm_fail(err, FCM_BAD_REQUEST, "the path has '.', '..' or an escaped slash as a part");
	if (strlen(s) > SEGMENT_MAX)
		return fcm_fail(
			err, FCM_BAD_REQUEST, "a part of the path is longer than %d bytes", SEGMENT_MAX);
	for (; *s; s++)
		if ((unsigned char)*s >= 0x80)
			return fcm_fail(err, FCM_BAD_REQUEST, "a part of the path isn't ASCII");
	return 0;
}

/* Cut "/v1/vms" into its parts. Returns how many, or ROUTE_SEGMENTS + 1 when there are more than a pattern can have. */
static int split(char *path, char **parts, struct fcm_error *err)
{
	int n = 0;

	while (path) {
		char *part = path + 1;
		path = strchr(part, '/');
		if (path)
			*path = 0;
		if (decode_segment(part, err) < 0)
			return fcm_hint(err, "names and ids are made of a-z, 0-9 and -");
		if (n < ROUTE_SEGMENTS)
			parts[n] = part;
		n = MIN(n + 1, ROUTE_SEGMENTS + 1);
	}
	return n;
}

/* Does the path fit the pattern? An empty part fits no {name}. */
static bool fits(const char *pattern, char *const *parts, int n, struct match *ret)
{
	ret->n = 0;
	for (int i = 0; i < n; i++) {
		if (*pattern++ != '/')
			return false;
		size_t len = strcspn(pattern, "/");
		if (*pattern == '{') {
			if (!*parts[i] || ret->n == ROUTE_PARAMS)
				return false;
			ret->params[ret->n++] = (struct pair){pattern + 1, parts[i]};
		} else if (strlen(parts[i]) != len || memcmp(parts[i], pattern, len) != 0) {
			return false;
		}
		pattern += len;
	}
	return !*pattern;
}

static void allow(struct match *ret, const char *method)
{
	size_t n = strlen(ret->allow);
	(void)fcm_format(ret->allow + n, sizeof ret->allow - n, "%s%s", n ? ", " : "", method);
}

int router_match(
	const struct route *table, const char *method, char *path, struct match *ret, struct fcm_error *err)
{
	char *parts[ROUTE_SEGMENTS];
	int n = split(path, parts, err);

	*ret = (struct match){0};
	if (n < 0)
		return -1;
	for (const struct route *r = table; r->method && n <= ROUTE_SEGMENTS; r++) {
		if (!fits(r->pattern, parts, n, ret))
			continue;
		if (strcmp(r->method, method) == 0) {
			ret->route = r;
			return 0;
		}
		allow(ret, r->method);
	}
	if (*ret->allow)
		return fcm_fail(err, FCM_METHOD, "this path doesn't have the method %s", method);
	return fcm_fail(err, FCM_NO_ROUTE, "there is no such path");
}

static const struct field *find_query(const struct field *table, const char *name)
{
	for (const struct field *f = table; f && f->key; f++)
		if (strcmp(f->key, name) == 0)
			return f;
	return NULL;
}

/* Only of kinds that say all there is to say; others are their handler's. */
static bool good_value(const struct field *f, const char *value)
{
	static const char *const flags[] = {"1", "true", "yes", "0", "false", "no"};

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		if (f->type != FIELD_BOOL || strcmp(value, flags[i]) == 0)
			return true;
	return false;
}

/* Keep a field of the query, decoded. */
static int take_field(const struct route *route, struct pair field, struct query *ret, struct fcm_error *err)
{
	const struct field *f = find_query(route->query, field.name);

	if (f == NULL) {
		fcm_fail_field(err, FCM_BAD_REQUEST, field.name, "%s %s has no '%.40s' in its query",
			route->method, route->pattern, field.name);
		return fcm_hint(err, "man 7 fcm-api says what it has");
	}
	if ((f->type != FIELD_STRV && query_get(ret, field.name)) || ret->n == QUERY_FIELDS)
		return fcm_fail_field(
			err, FCM_BAD_REQUEST, f->key, "the query has '%s' twice, or too many fields", f->key);
	if (!good_value(f, field.value)) {
		fcm_fail_field(err, FCM_BAD_REQUEST, f->key, "%s: '%.40s' is neither true nor false", f->key,
			field.value);
		return fcm_hint(err, "say %s=1, or leave it out", f->key);
	}
	ret->fields[ret->n++] = field;
	return 0;
}

int router_query(const struct route *route, char *query, struct query *ret, struct fcm_error *err)
{
	*ret = (struct query){0};
	for (char *next = query; next && *next;) {
		char *name = next;
		next = strchr(name, '&');
		if (next)
			*next++ = 0;
		for (char *c = name; *c; c++)
			if (*c == '+')
				*c = ' ';
		char *value = strchr(name, '=');
		if (value)
			*value++ = 0;
		else
			value = name + strlen(name);
		if (!decode(name) || !decode(value) || !*name)
			return fcm_fail(
				err, FCM_BAD_REQUEST, "the query has a bad escape or a control character");
		if (take_field(route, (struct pair){name, value}, ret, err) < 0)
			return -1;
	}
	return 0;
}

int router_body(const struct route *route, const struct head *head, struct fcm_error *err)
{
	if (!head->chunked && head->length <= 0)
		return 0;
	if (route->body_max == 0)
		return fcm_fail(err, FCM_TOO_LARGE, "%s %s takes no body", route->method, route->pattern);
	if (head->length > 0 && (uint64_t)head->length > route->body_max)
		return fcm_fail(err, FCM_TOO_LARGE, "the body of %s %s can be %llu bytes at most",
			route->method, route->pattern, (unsigned long long)route->body_max);
	if (route->body && !head_has_word(head, "content-type", "application/json"))
		return fcm_fail(err, FCM_MEDIA_TYPE, "the body isn't declared as JSON");
	return 0;
}

const char *match_param(const struct match *match, const char *name)
{
	size_t n = strlen(name);

	for (unsigned i = 0; i < match->n; i++)
		if (strncmp(match->params[i].name, name, n) == 0 && match->params[i].name[n] == '}')
			return match->params[i].value;
	return NULL;
}

const char *query_get(const struct query *query, const char *name)
{
	for (unsigned i = 0; i < query->n; i++)
		if (strcmp(query->fields[i].name, name) == 0)
			return query->fields[i].value;
	return NULL;
}
