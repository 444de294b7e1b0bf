#include "daemon/vmm/fcapi.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "daemon/vmm/socket.h"
#include "daemon/vmm/vmm.h"

/* ---- the answer ---- */

/* "HTTP/1.1 204 No Content": the text may be missing (RFC 9112, 4). */
static bool parse_status(const char *line, size_t n, unsigned *ret)
{
	static const char front[] = "HTTP/1.";
	const char *code = line + sizeof front + 1;

	if (n < sizeof front + 4 || strncmp(line, front, sizeof front - 1) != 0 ||
		(line[7] != '0' && line[7] != '1') || line[8] != ' ')
		return false;
	for (int i = 0; i < 3; i++)
		if (!isdigit((unsigned char)code[i]))
			return false;
	if (n > sizeof front + 4 && code[3] != ' ')
		return false;
	*ret = (unsigned)((code[0] - '0') * 100 + (code[1] - '0') * 10 + (code[2] - '0'));
	return *ret >= 200 && *ret < 600;
}

static bool header_is(const char *line, size_t n, const char *name)
{
	size_t k = strlen(name);

	return n > k && strncasecmp(line, name, k) == 0 && line[k] == ':';
}

/* The value of Content-Length: digits, with blanks around them (RFC 9112, 5). */
static bool parse_length(const char *value, size_t n, size_t *ret)
{
	char text[16];

	while (n && (*value == ' ' || *value == '\t'))
		value++, n--;
	while (n && (value[n - 1] == ' ' || value[n - 1] == '\t'))
		n--;
	int64_t length;
	if (n == 0 || n >= sizeof text || !isdigit((unsigned char)*value))
		return false;
	memcpy(text, value, n);
	text[n] = '\0';
	if (!fcm_parse_i64(text, 0, FCAPI_BODY_MAX, &length))
		return false;
	*ret = (size_t)length;
	return true;
}

/* Read the head of n bytes, each line of which ends with CR LF. */
static bool parse_head(const char *p, size_t n, unsigned *ret_status, size_t *ret_length)
{
	static const char length[] = "Content-Length";
	bool first = true, seen = false;

	*ret_length = 0;
	while (n > 0) {
		const char *nl = memchr(p, '\n', n);
		if (nl == NULL || nl == p || nl[-1] != '\r')
			return false;
		size_t line = (size_t)(nl - p) - 1;
		if (first && !parse_status(p, line, ret_status))
			return false;
		if (!first && header_is(p, line, "Transfer-Encoding"))
			return false; /* Firecracker has none, and a length beside it is how smuggling begins */
		if (!first && header_is(p, line, length)) {
			if (seen || !parse_length(p + sizeof length, line - sizeof length, ret_length))
				return false;
			seen = true;
		}
		first = false;
		n -= line + 2;
		p = nl + 1;
	}
	return !first;
}

int fcapi_parse(const char *p, size_t n, struct fcapi_answer *ret)
{
	const char *end = n ? memmem(p, MIN(n, (size_t)FCAPI_HEAD_MAX), "\r\n\r\n", 4) : NULL;
	struct fcapi_answer a;
	size_t length;

	if (end == NULL)
		return n < FCAPI_HEAD_MAX ? 0 : -1;
	size_t head = (size_t)(end - p) + 2;
	if (!parse_head(p, head, &a.status, &length))
		return -1;
	if (n - head - 2 < length)
		return 0;
	a.body = end + 4;
	a.body_n = length;
	*ret = a;
	return 1;
}

/* ---- the call ---- */

static void add_request(struct buf *b, const char *method, const char *path, const field_json *body)
{
	buf_printf(b, "%s %s HTTP/1.1\r\nHost: localhost\r\n", method, path);
	if (body) {
		auto_free char *text = fj_print(body, false);
		buf_printf(b, "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(text),
			text);
	} else {
		buf_str(b, "\r\n");
	}
}

static int read_answer(
	int fd, struct buf *in, int64_t deadline, struct fcapi_answer *ret, struct fcm_error *err)
{
	char chunk[4096];

	for (;;) {
		int whole = fcapi_parse(in->p, in->n, ret);
		if (whole < 0)
			return fcm_fail(err, FCM_VMM, "the VMM sent what is no answer");
		if (whole > 0)
			return 0;
		ssize_t n = vmm_receive(fd, chunk, sizeof chunk, deadline, err);
		if (n < 0)
			return -1;
		if (n == 0)
			return fcm_fail(err, FCM_VMM, "the VMM closed its control socket");
		buf_add(in, chunk, (size_t)n);
	}
}

/* The words of a refusal: foreign text. */
static int refused(const char *method, const char *path, const struct fcapi_answer *a, struct fcm_error *err)
{
	char text[288];
	struct fcm_error ignored;
	auto_json field_json *v = fj_parse(a->body, a->body_n, &ignored);
	const char *fault = fj_get_str(v, "fault_message");

	if (*fault == '\0')
		fault = fj_get_str(v, "error");
	if (*fault)
		fcm_copy(text, sizeof text, fault);
	else
		fcm_format(text, sizeof text, "%.*s", (int)MIN(a->body_n, sizeof text), a->body);
	vmm_clean(text, strlen(text));
	return fcm_fail(err, FCM_VMM, "the VMM refused %s %s (%u): %s", method, path, a->status,
		*text ? text : "no reason");
}

static int take_answer(const char *method, const char *path, const struct fcapi_answer *a, field_json **ret,
	struct fcm_error *err)
{
	struct fcm_error ignored;

	if (a->status >= 300)
		return refused(method, path, a, err);
	if (ret == NULL)
		return a->status == 204
			       ? 0
			       : fcm_fail(err, FCM_VMM, "the VMM's answer to %s %s makes no sense (%u)",
					 method, path, a->status);
	auto_json field_json *v = a->body_n ? fj_parse(a->body, a->body_n, &ignored) : NULL;
	if (a->body_n && (v == NULL || !fj_is_object(v)))
		return fcm_fail(err, FCM_VMM, "the VMM's answer to %s %s is no JSON object", method, path);
	*ret = STEAL(v);
	return 0;
}

int fcapi_call(int run_dirfd, const char *method, const char *path, field_json *body, int64_t deadline,
	field_json **ret, struct fcm_error *err)
{
	auto_json field_json *owned = body;
	_cleanup_(buf_done) struct buf request = {0};
	_cleanup_(buf_done) struct buf in = {0};
	struct fcapi_answer answer;

	auto_close int fd = vmm_connect(run_dirfd, VMM_CONTROL, deadline, err);
	if (fd < 0)
		return -1;
	add_request(&request, method, path, owned);
	if (vmm_send(fd, request.p, request.n, deadline, err) < 0 ||
		read_answer(fd, &in, deadline, &answer, err) < 0)
		return fcm_wrap(err, "%s %s", method, path);
	return take_answer(method, path, &answer, ret, err);
}
