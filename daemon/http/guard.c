#include "daemon/http/guard.h"

#include <string.h>
#include <strings.h>

/* Fields that may come only once, because their meaning would depend on which one a reader takes. */
static const char *const singletons[] = {
	"host",
	"content-length",
	"transfer-encoding",
	"authorization",
	"content-type",
	"expect",
	"upgrade",
	"origin",
	"idempotency-key",
};

static int bad(struct fcm_error *err, const char *what)
{
	return fcm_fail(err, FCM_BAD_REQUEST, "%s", what);
}

ssize_t guard_scan(const char *p, size_t n, struct fcm_error *err)
{
	size_t lines = 0, start = 0;

	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)p[i];

		if (c == '\n')
			return bad(err, "a line ends with LF alone");
		if ((c < 0x20 && c != '\t' && c != '\r') || c == 0x7f)
			return bad(err, "there is a control character in the request's head");
		if (lines == 0 && i >= HEAD_LINE_MAX)
			return fcm_fail(err, FCM_URI_TOO_LONG, "the request line is longer than %d bytes",
				HEAD_LINE_MAX);
		if (c != '\r' || i + 1 == n)
			continue;
		if (p[++i] != '\n')
			return bad(err, "there is a CR within a line");
		if (i == start + 1)
			return (ssize_t)i + 1;
		lines++;
		start = i + 1;
	}
	if (n >= HEAD_MAX)
		return fcm_fail(
			err, FCM_HEADERS_TOO_LARGE, "the request's head is longer than %d bytes", HEAD_MAX);
	return 0;
}

/* tchar of RFC 9110, section 5.6.2. */
static bool is_token(const char *s)
{
	static const char chars[] =
		"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
	return *s && !s[strspn(s, chars)];
}

static int parse_target(char *target, struct head *ret, struct fcm_error *err)
{
	if (target[0] != '/')
		return bad(err, "the request's target must be a path");
	for (const char *c = target; *c; c++)
		if (*c <= 0x20 || *c >= 0x7f || *c == '#')
			return bad(err, "the request's target has a character that must be percent-encoded");
	ret->path = target;
	ret->query = strchr(target, '?');
	if (ret->query)
		*ret->query++ = 0;
	return 0;
}

static int parse_request_line(char *line, struct head *ret, struct fcm_error *err)
{
	char *target = strchr(line, ' ');
	char *version = target ? strchr(target + 1, ' ') : NULL;

	if (!version)
		return bad(err, "the request line isn't METHOD TARGET HTTP/1.1");
	*target++ = 0;
	*version++ = 0;
	if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0)
		return bad(err, "this server speaks HTTP/1.1");
	if (!is_token(line) || strlen(line) > 16)
		return bad(err, "the request's method is malformed");
	ret->method = line;
	ret->minor = version[7] == '1';
	return parse_target(target, ret, err);
}

static int parse_field(char *line, struct head *ret, struct fcm_error *err)
{
	if (*line == ' ' || *line == '\t')
		return bad(err, "a header field is folded over two lines");
	char *value = strchr(line, ':');
	if (!value)
		return bad(err, "a header field has no colon");
	*value++ = 0;
	if (!is_token(line))
		return bad(err, "a header field's name is malformed");
	value += strspn(value, " \t");
	size_t n = strlen(value);
	while (n > 0 && (value[n - 1] == ' ' || value[n - 1] == '\t'))
		value[--n] = 0;
	if (ret->n == HEAD_FIELDS)
		return fcm_fail(err, FCM_HEADERS_TOO_LARGE, "the request has more than %d header fields",
			HEAD_FIELDS);
	ret->fields[ret->n++] = (struct head_field){line, value};
	return 0;
}

static unsigned count(const struct head *head, const char *name)
{
	unsigned n = 0;

	for (unsigned i = 0; i < head->n; i++)
		n += strcasecmp(head->fields[i].name, name) == 0;
	return n;
}

/* What says where the body ends: one Content-Length or "chunked", never both (RFC 9112, section 6.1: request
 * smuggling). */
static int parse_framing(struct head *ret, struct fcm_error *err)
{
	const char *length = head_get(ret, "content-length"), *coding = head_get(ret, "transfer-encoding");

	ret->length = -1;
	if (length && coding)
		return bad(err, "the request has both Content-Length and Transfer-Encoding");
	if (coding && (strcasecmp(coding, "chunked") != 0 || ret->minor == 0))
		return bad(err, "the only Transfer-Encoding that is understood is chunked, in HTTP/1.1");
	ret->chunked = coding != NULL;
	if (!length)
		return 0;
	if (!*length || length[strspn(length, "0123456789")])
		return bad(err, "Content-Length isn't a number");
	if (!fcm_parse_i64(length, 0, INT64_MAX, &ret->length))
		return fcm_fail(err, FCM_TOO_LARGE, "a Content-Length of %.32s is too large", length);
	return 0;
}

static int check_fields(struct head *ret, struct fcm_error *err)
{
	const char *expect = head_get(ret, "expect");

	for (size_t i = 0; i < ARRAY_SIZE(singletons); i++)
		if (count(ret, singletons[i]) > 1)
			return fcm_fail(
				err, FCM_BAD_REQUEST, "the header field %s is there twice", singletons[i]);
	if (!head_get(ret, "host"))
		return bad(err, "the request has no Host");
	if (expect && strcasecmp(expect, "100-continue") != 0)
		return bad(err, "the only Expect that is understood is 100-continue");
	return parse_framing(ret, err);
}

int guard_parse(char *p, size_t n, struct head *ret, struct fcm_error *err)
{
	*ret = (struct head){0};
	p[n] = 0;
	for (char *line = p, *end; (end = strstr(line, "\r\n")) && end != line; line = end + 2) {
		*end = 0;
		if ((line == p ? parse_request_line(line, ret, err) : parse_field(line, ret, err)) < 0)
			return -1;
	}
	if (!ret->method)
		return bad(err, "the request begins with an empty line");
	return check_fields(ret, err);
}

/* Length of a Host without its port (RFC 3986, section 3.2.2), 0 when it is malformed. */
static size_t host_length(const char *value)
{
	size_t n = *value == '[' ? strcspn(value, "]") + 1 : strcspn(value, ":");
	const char *inside = *value == '['
				     ? "0123456789abcdefABCDEF:.[]"
				     : "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._";
	int64_t port;

	if (n > 255 || n > strlen(value) || strspn(value, inside) < n)
		return 0;
	if (value[n] && (value[n] != ':' || !fcm_parse_i64(value + n + 1, 1, 65535, &port)))
		return 0;
	return n;
}

static bool is_one_of(const struct strv *hosts, const char *value, size_t n)
{
	for (size_t i = 0; i < hosts->n; i++)
		if (strlen(hosts->v[i]) == n && strncasecmp(hosts->v[i], value, n) == 0)
			return true;
	return false;
}

int guard_origin(const struct head *head, const struct strv *hosts, struct fcm_error *err)
{
	const char *host = head_get(head, "host");
	size_t n = host_length(host);

	if (n == 0)
		return bad(err, "the Host is malformed");
	if (hosts && !is_one_of(hosts, host, n))
		return fcm_fail(err, FCM_MISDIRECTED, "this daemon isn't '%.*s'", (int)n, host);
	if (!head_get(head, "origin") && !head_get(head, "sec-fetch-site"))
		return 0;
	fcm_fail(err, FCM_FORBIDDEN, "requests from a web browser are refused");
	return fcm_hint(err, "use fcm, curl, or a program that sends neither Origin nor Sec-Fetch-Site");
}

const char *head_get(const struct head *head, const char *name)
{
	for (unsigned i = 0; i < head->n; i++)
		if (strcasecmp(head->fields[i].name, name) == 0)
			return head->fields[i].value;
	return NULL;
}

static bool list_has(const char *list, const char *word)
{
	size_t want = strlen(word);

	while (*list) {
		list += strspn(list, " \t,");
		size_t n = strcspn(list, " \t,;");
		if (n == want && strncasecmp(list, word, n) == 0)
			return true;
		list += strcspn(list, ",");
	}
	return false;
}

bool head_has_word(const struct head *head, const char *name, const char *word)
{
	for (unsigned i = 0; i < head->n; i++)
		if (strcasecmp(head->fields[i].name, name) == 0 && list_has(head->fields[i].value, word))
			return true;
	return false;
}
