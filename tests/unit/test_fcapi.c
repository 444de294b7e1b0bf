/* Firecracker's API: what an answer may look like, and what a call makes of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "daemon/vmm/fcapi.h"
#include "tests/unit/vmmtest.h"

static struct fcm_error err;

#define HEAD "Server: Firecracker API\r\nConnection: keep-alive\r\n"
#define DONE "HTTP/1.1 204 \r\n" HEAD "\r\n"
#define JSON(status, length, body)                                                                           \
	"HTTP/1.1 " status " \r\n" HEAD "Content-Type: application/json\r\nContent-Length: " length          \
	"\r\n\r\n" body

/* ---- the parser ---- */

struct sample {
	const char *text;
	int whole;
	unsigned status;
	const char *body;
};

static void test_parse(void **state)
{
	(void)state;
	static const struct sample samples[] = {
		{DONE, 1, 204, ""},
		{DONE "more", 1, 204, ""},
		{"HTTP/1.1 204\r\n\r\n", 1, 204, ""},
		{"HTTP/1.0 200 OK\r\ncontent-length:2\r\n\r\n{}", 1, 200, "{}"},
		{"HTTP/1.1 200 OK\r\nContent-Length: \t 2 \r\n\r\n{}HTTP/1.1 400", 1, 200, "{}"},
		{JSON("400", "5", "{\"a\":"), 1, 400, "{\"a\":"},
		{"", 0, 0, NULL},
		{"HTTP/1.1 204 \r\nServer:", 0, 0, NULL},
		{"HTTP/1.1 204 \r\n\r", 0, 0, NULL},
		{JSON("200", "3", "{}"), 0, 0, NULL},
		{"HTTP/2.0 204 \r\n\r\n", -1, 0, NULL},
		{"HTTP/1.2 204 \r\n\r\n", -1, 0, NULL},
		{"HTTP/1.1  204\r\n\r\n", -1, 0, NULL},
		{"HTTP/1.1 20\r\n\r\n", -1, 0, NULL},
		{"HTTP/1.1 2040\r\n\r\n", -1, 0, NULL},
		{"HTTP/1.1 100 Continue\r\n\r\n", -1, 0, NULL},
		{"HTTP/1.1 600 \r\n\r\n", -1, 0, NULL},
		{"HTTP/1.1 -04 \r\n\r\n", -1, 0, NULL},
		{"\r\n\r\n", -1, 0, NULL},
		{"SSH-2.0-x\r\n\r\n", -1, 0, NULL},
		{"HTTP/1.1 204 \nServer: x\r\n\r\n", -1, 0, NULL},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}", -1, 0, NULL},
		{"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}", -1, 0, NULL},
		{"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}", -1, 0, NULL},
		{"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n{}", -1, 0, NULL},
		{"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n{}", -1, 0, NULL},
		{"HTTP/1.1 200 OK\r\nContent-Length: 131073\r\n\r\n{}", -1, 0, NULL},
		{"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{}", -1, 0, NULL},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", -1, 0, NULL},
	};

	for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
		const struct sample *s = &samples[i];
		struct fcapi_answer a = {0};
		int whole = fcapi_parse(s->text, strlen(s->text), &a);
		if (whole != s->whole)
			print_error("%s\n", s->text);
		assert_int_equal(whole, s->whole);
		if (whole <= 0)
			continue;
		assert_int_equal(a.status, s->status);
		assert_int_equal(a.body_n, strlen(s->body));
		assert_memory_equal(a.body, s->body, a.body_n);
	}
}

/* Whatever a piece at a time gives, the whole gives at once, and no byte behind the end is looked at. */
static void test_parse_by_pieces(void **state)
{
	(void)state;
	static const char text[] = JSON("200", "13", "{\"id\":\"abcd\"}");
	struct fcapi_answer a;

	for (size_t n = 0; n < sizeof text - 1; n++) {
		char *copy = xalloc(n ? n : 1);
		memcpy(copy, text, n);
		assert_int_equal(fcapi_parse(copy, n, &a), 0);
		free(copy);
	}
	assert_int_equal(fcapi_parse(text, sizeof text - 1, &a), 1);
}

static void test_parse_bounds(void **state)
{
	(void)state;
	char text[FCAPI_HEAD_MAX + 64];
	struct fcapi_answer a;

	memset(text, 'x', sizeof text);
	memcpy(text, "HTTP/1.1 204 \r\nA: ", 18);
	assert_int_equal(fcapi_parse(text, FCAPI_HEAD_MAX - 1, &a), 0);
	assert_int_equal(fcapi_parse(text, FCAPI_HEAD_MAX, &a), -1);
	memcpy(text + FCAPI_HEAD_MAX, "\r\n\r\n", 4);
	assert_int_equal(fcapi_parse(text, FCAPI_HEAD_MAX + 4, &a), -1);
	memcpy(text + FCAPI_HEAD_MAX - 4, "\r\n\r\n", 4);
	assert_int_equal(fcapi_parse(text, FCAPI_HEAD_MAX, &a), 1);
}

/* ---- the call ---- */

static int call(const char *answer, field_json *body, field_json **ret, struct vmmtest_peer *p)
{
	vmmtest_begin(p, VMM_CONTROL, &answer, 1);
	int rc = fcapi_call(vmmtest_run, "PUT", "/vsock", body, clock_in(2000), ret, &err);
	vmmtest_end(p);
	return rc;
}

static void test_request(void **state)
{
	(void)state;
	struct vmmtest_peer p;
	field_json *body = fj_object(), *v = NULL;

	fj_set_int(body, "guest_cid", 3);
	assert_int_equal(call(DONE, body, NULL, &p), 0);
	assert_string_equal(p.got,
		"PUT /vsock HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
		"Content-Length: 15\r\n\r\n{\"guest_cid\":3}");
	assert_int_equal(call(JSON("200", "8", "{\"a\":12}"), NULL, &v, &p), 0);
	assert_string_equal(p.got, "PUT /vsock HTTP/1.1\r\nHost: localhost\r\n\r\n");
	assert_int_equal(fj_get_int(v, "a", 0), 12);
	fj_free(v);
}

/* Answers that are errors, and what the user reads. */
static void test_refusals(void **state)
{
	(void)state;
	static const struct {
		const char *answer, *want;
	} samples[] = {
		{JSON("400", "30", "{\"fault_message\":\"No such\\nx\"}"),
			"the VMM refused PUT /vsock (400): No such x"},
		{JSON("400", "18", "{\"error\":\"so\\tit\"}"), "the VMM refused PUT /vsock (400): so it"},
		{JSON("400", "16", "{ \"error\": \"a\nb\""),
			"the VMM refused PUT /vsock (400): { \"error\": \"a b\""},
		{JSON("400", "5", "\x1b[5mx"), "the VMM refused PUT /vsock (400): ?[5mx"},
		{JSON("500", "2", "{}"), "the VMM refused PUT /vsock (500): {}"},
		{JSON("400", "21", "{\"fault_message\":123}"),
			"the VMM refused PUT /vsock (400): {\"fault_message\":123}"},
		{"HTTP/1.1 400 \r\n\r\n", "the VMM refused PUT /vsock (400): no reason"},
		{"HTTP/1.1 302 \r\n\r\n", "the VMM refused PUT /vsock (302): no reason"},
		{JSON("200", "2", "{}"), "the VMM's answer to PUT /vsock makes no sense (200)"},
		{JSON("200", "9", "{}"), "PUT /vsock: the VMM closed its control socket"},
		{"", "PUT /vsock: the VMM closed its control socket"},
		{"SSH-2.0-OpenSSH\r\n\r\n", "PUT /vsock: the VMM sent what is no answer"},
	};
	struct vmmtest_peer p;

	for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
		assert_int_equal(call(samples[i].answer, fj_object(), NULL, &p), -1);
		assert_int_equal(err.code, FCM_VMM);
		assert_string_equal(err.msg, samples[i].want);
	}
}

static void test_body_is_no_object(void **state)
{
	(void)state;
	static const char *const answers[] = {
		JSON("200", "2", "[]"), JSON("200", "2", "{{"), JSON("200", "4", "{\"a\"")};
	field_json *v = NULL;
	struct vmmtest_peer p;

	for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
		assert_int_equal(call(answers[i], NULL, &v, &p), -1);
		assert_int_equal(err.code, FCM_VMM);
		assert_null(v);
	}
}

/* A long refusal is cut, not overrun. */
static void test_long_refusal(void **state)
{
	(void)state;
	auto_free char *text = xalloc(60001);
	struct vmmtest_peer p;

	memset(text, 'x', 60000);
	auto_free char *answer = xprintf("HTTP/1.1 400 \r\nContent-Length: 60000\r\n\r\n%s", text);
	assert_int_equal(call(answer, fj_object(), NULL, &p), -1);
	assert_int_equal(err.code, FCM_VMM);
	assert_in_range(strlen(err.msg), 200, sizeof err.msg - 1);
}

static void test_silence(void **state)
{
	(void)state;
	int fd = unix_listen(vmmtest_run, VMM_CONTROL, 0600, 0, &err);
	int64_t t = clock_ms();

	assert_int_equal(fcapi_call(vmmtest_run, "GET", "/", NULL, clock_in(80), NULL, &err), -1);
	assert_int_equal(err.code, FCM_TIMEOUT);
	assert_in_range(clock_ms() - t, 70, 2000);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_parse_by_pieces),
		cmocka_unit_test(test_parse_bounds),
		cmocka_unit_test_setup_teardown(test_request, vmmtest_setup, vmmtest_teardown),
		cmocka_unit_test_setup_teardown(test_refusals, vmmtest_setup, vmmtest_teardown),
		cmocka_unit_test_setup_teardown(test_body_is_no_object, vmmtest_setup, vmmtest_teardown),
		cmocka_unit_test_setup_teardown(test_long_refusal, vmmtest_setup, vmmtest_teardown),
		cmocka_unit_test_setup_teardown(test_silence, vmmtest_setup, vmmtest_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
