/* The guard: heads that two readers could understand in two ways, foreign hosts, browsers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "daemon/http/guard.h"

#define GET "GET /v1/vms HTTP/1.1\r\n"
#define HOST "Host: localhost\r\n"

/* A head, its size when it isn't strlen(), and the code that it must get: FCM_OK, or that of the first refusal. */
struct row {
	const char *head;
	size_t n;
	enum fcm_code code;
};

#define ROW(head, code)                                                                                      \
	{                                                                                                    \
		head, sizeof(head) - 1, code                                                                 \
	}

static const struct row rows[] = {
	ROW(GET HOST "\r\n", FCM_OK),
	ROW("GET / HTTP/1.0\r\n" HOST "\r\n", FCM_OK),
	ROW(GET "HOST:localhost:7777 \t\r\n\r\n", FCM_OK),
	ROW(GET "Host: [::1]:7777\r\n\r\n", FCM_OK),
	ROW(GET "Host: LOCALHOST\r\n\r\n", FCM_OK),
	ROW(GET HOST "X: \xc3\xa9\r\n\r\n", FCM_OK),
	ROW(GET HOST "Content-Length: 007\r\n\r\n", FCM_OK),
	ROW(GET HOST "Transfer-Encoding: Chunked\r\n\r\n", FCM_OK),
	ROW(GET HOST "Expect: 100-Continue\r\n\r\n", FCM_OK),
	/* the request line */
	ROW("\r\n" GET HOST "\r\n", FCM_BAD_REQUEST),
	ROW("\x16\x03\x01", FCM_BAD_REQUEST),
	ROW("GET /\r\n" HOST "\r\n", FCM_BAD_REQUEST),
	ROW("GET / HTTP/2.0\r\n" HOST "\r\n", FCM_BAD_REQUEST),
	ROW("GET  / HTTP/1.1\r\n" HOST "\r\n", FCM_BAD_REQUEST),
	ROW("GET / HTTP/1.1 \r\n" HOST "\r\n", FCM_BAD_REQUEST),
	ROW(" GET / HTTP/1.1\r\n" HOST "\r\n", FCM_BAD_REQUEST),
	ROW("G(T / HTTP/1.1\r\n" HOST "\r\n", FCM_BAD_REQUEST),
	ROW("ABCDEFGHIJKLMNOPQ / HTTP/1.1\r\n" HOST "\r\n", FCM_BAD_REQUEST),
	ROW("GET http://localhost/ HTTP/1.1\r\n" HOST "\r\n", FCM_BAD_REQUEST),
	ROW("OPTIONS * HTTP/1.1\r\n" HOST "\r\n", FCM_BAD_REQUEST),
	ROW("GET /a#b HTTP/1.1\r\n" HOST "\r\n", FCM_BAD_REQUEST),
	ROW("GET /\xc3\xa9 HTTP/1.1\r\n" HOST "\r\n", FCM_BAD_REQUEST),
	ROW("GET /\tb HTTP/1.1\r\n" HOST "\r\n", FCM_BAD_REQUEST),
	/* lines */
	ROW("GET / HTTP/1.1\n" HOST "\r\n", FCM_BAD_REQUEST),
	ROW(GET "Host: localhost\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "\n", FCM_BAD_REQUEST),
	ROW(GET HOST "X: a\rb\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "X: a\0b\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "X: a\x7f\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "X: a\x1b[31m\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "X: a\r\n b\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "X: a\r\n\tb\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET " X: a\r\n" HOST "\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "X : a\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "X\t: a\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST ": a\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "X\r\n\r\n", FCM_BAD_REQUEST),
	/* framing */
	ROW(GET HOST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "Content-Length: 3\r\nContent-Length: 3\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "Content-Length: 3, 3\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "Content-Length: +3\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "Content-Length: -1\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "Content-Length: 0x3\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "Content-Length:\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "Content-Length: 99999999999999999999\r\n\r\n", FCM_TOO_LARGE),
	ROW(GET HOST "Transfer-Encoding: gzip, chunked\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", FCM_BAD_REQUEST),
	ROW("PUT / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "Expect: nothing\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "Authorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n", FCM_BAD_REQUEST),
	/* whom for, whom from */
	ROW(GET "\r\n", FCM_BAD_REQUEST),
	ROW(GET HOST "host: localhost\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET "Host:\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET "Host: local host\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET "Host: localhost:\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET "Host: localhost:77777\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET "Host: [::1\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET "Host: [::1]x\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET "Host: localhost@evil.example\r\n\r\n", FCM_BAD_REQUEST),
	ROW(GET "Host: evil.example\r\n\r\n", FCM_MISDIRECTED),
	ROW(GET "Host: localhost.evil.example\r\n\r\n", FCM_MISDIRECTED),
	ROW(GET "Host: localhos\r\n\r\n", FCM_MISDIRECTED),
	ROW(GET HOST "Origin: http://localhost\r\n\r\n", FCM_FORBIDDEN),
	ROW(GET HOST "Origin: null\r\n\r\n", FCM_FORBIDDEN),
	ROW(GET HOST "Sec-Fetch-Site: none\r\n\r\n", FCM_FORBIDDEN),
};

/* What the gate does with a head. */
static enum fcm_code judge(const char *bytes, size_t n, struct head *head, char *copy)
{
	char first[] = "localhost", second[] = "[::1]", *hosts[] = {first, second};
	struct strv allowed = {hosts, ARRAY_SIZE(hosts)};
	struct fcm_error err = {0};
	ssize_t size = guard_scan(bytes, n, &err);

	if (size < 0)
		return err.code;
	assert_in_range(size, 1, n);
	memcpy(copy, bytes, (size_t)size);
	if (guard_parse(copy, (size_t)size, head, &err) < 0 || guard_origin(head, &allowed, &err) < 0)
		return err.code;
	return FCM_OK;
}

static void test_rows(void **state)
{
	char copy[1024];
	struct head head;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		enum fcm_code code = judge(rows[i].head, rows[i].n, &head, copy);
		if (code != rows[i].code)
			fail_msg("row %zu: %s instead of %s: %s", i, fcm_code_info(code)->wire,
				fcm_code_info(rows[i].code)->wire, rows[i].head);
	}
}

static void test_parts(void **state)
{
	static const char bytes[] =
		"PUT /a%20b?x=1?2 HTTP/1.1\r\nHost: localhost:7777\r\nX-A:  b c \t\r\nempty:\r\n"
		"content-length: 42\r\nAccept: text/html;q=1, Application/X-NDJSON ;q=0.5\r\n"
		"Accept: x/y\r\n\r\n";
	char copy[sizeof bytes];
	struct head head;

	(void)state;
	assert_int_equal(judge(bytes, sizeof bytes - 1, &head, copy), FCM_OK);
	assert_string_equal(head.method, "PUT");
	assert_string_equal(head.path, "/a%20b");
	assert_string_equal(head.query, "x=1?2");
	assert_int_equal(head.minor, 1);
	assert_int_equal(head.length, 42);
	assert_false(head.chunked);
	assert_string_equal(head_get(&head, "x-a"), "b c");
	assert_string_equal(head_get(&head, "Empty"), "");
	assert_null(head_get(&head, "x-b"));
	assert_true(head_has_word(&head, "accept", "application/x-ndjson"));
	assert_true(head_has_word(&head, "accept", "X/Y"));
	assert_false(head_has_word(&head, "accept", "text"));
	assert_false(head_has_word(&head, "accept", "q=1"));
}

/* Every prefix of a good head is one that needs more, and what follows the head doesn't count. */
static void test_prefixes(void **state)
{
	static const char head[] = GET HOST "\r\n";
	struct fcm_error err;

	(void)state;
	for (size_t n = 0; n < sizeof head - 1; n++)
		assert_int_equal(guard_scan(head, n, &err), 0);
	assert_int_equal(guard_scan(GET HOST "\r\n\n\0", sizeof head + 1, &err), sizeof head - 1);
}

static enum fcm_code scan_of(const char *begin, char fill, size_t n)
{
	struct fcm_error err = {0};
	auto_free char *bytes = xalloc(n);

	memset(bytes, fill, n);
	memcpy(bytes, begin, strlen(begin));
	return guard_scan(bytes, n, &err) < 0 ? err.code : FCM_OK;
}

static void test_sizes(void **state)
{
	struct buf b = {0};
	struct head head;
	char copy[8192];

	(void)state;
	assert_int_equal(scan_of("GET /", 'a', HEAD_LINE_MAX), FCM_OK);
	assert_int_equal(scan_of("GET /", 'a', HEAD_LINE_MAX + 1), FCM_URI_TOO_LONG);
	assert_int_equal(scan_of(GET "X: ", 'a', HEAD_MAX - 1), FCM_OK);
	assert_int_equal(scan_of(GET "X: ", 'a', HEAD_MAX), FCM_HEADERS_TOO_LARGE);
	buf_str(&b, GET HOST);
	for (int i = 1; i < HEAD_FIELDS; i++)
		buf_str(&b, "X: 1\r\n");
	size_t n = b.n;
	buf_str(&b, "\r\n");
	assert_int_equal(judge(b.p, b.n, &head, copy), FCM_OK);
	b.n = n;
	buf_str(&b, "X: 1\r\n\r\n");
	assert_int_equal(judge(b.p, b.n, &head, copy), FCM_HEADERS_TOO_LARGE);
	buf_done(&b);
}

static void test_any_host(void **state)
{
	char copy[] = GET "Host: anything\r\n\r\n";
	struct fcm_error err;
	struct head head;

	(void)state;
	assert_int_equal(guard_parse(copy, sizeof copy - 1, &head, &err), 0);
	assert_int_equal(guard_origin(&head, NULL, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_parts),
		cmocka_unit_test(test_prefixes),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_any_host),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
