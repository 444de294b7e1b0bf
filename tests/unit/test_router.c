/* The router: paths to rows, percent-decoding, queries, what a body may be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "daemon/http/router.h"

static const struct field fields[] = {FIELD_END};

#define R(method, pattern, body, max)                                                                        \
	{                                                                                                    \
		method, pattern, NEED_READ, SUBJECT_NONE, body, 0, max, 0, NULL, NULL                        \
	}
static const struct route table[] = {
	R("GET", "/healthz", NULL, 0),
	R("GET", "/v1/vms", NULL, 0),
	R("POST", "/v1/vms", fields, 100),
	R("GET", "/v1/vms/{vm}", NULL, 0),
	R("DELETE", "/v1/vms/{vm}", NULL, 0),
	R("PUT", "/v1/vms/{vm}/expose", NULL, 0),
	R("PUT", "/v1/kernels/{name}", NULL, 1 << 20),
	R("GET", "/v1/a/{one}/b/{two}", NULL, 0),
	R(NULL, NULL, NULL, 0),
};

/* What must come of a request line: the pattern and the first parameter, or a code and Allow. */
static const struct {
	const char *method, *path, *pattern, *param;
	enum fcm_code code;
	const char *allow;
} rows[] = {
	{"GET", "/v1/vms", "/v1/vms", NULL, FCM_OK, ""},
	{"GET", "/v1/%76ms", "/v1/vms", NULL, FCM_OK, ""},
	{"GET", "/v1/vms/web", "/v1/vms/{vm}", "web", FCM_OK, ""},
	{"GET", "/v1/vms/a%20b", "/v1/vms/{vm}", "a b", FCM_OK, ""},
	{"GET", "/v1/vms/a+b", "/v1/vms/{vm}", "a+b", FCM_OK, ""},
	{"GET", "/v1/vms/-x", "/v1/vms/{vm}", "-x", FCM_OK, ""},
	{"GET", "/v1/vms/...", "/v1/vms/{vm}", "...", FCM_OK, ""},
	{"GET", "/v1/vms/%7Bvm%7d", "/v1/vms/{vm}", "{vm}", FCM_OK, ""},
	{"PUT", "/v1/vms/web/expose", "/v1/vms/{vm}/expose", "web", FCM_OK, ""},
	{"GET", "/", NULL, NULL, FCM_NO_ROUTE, ""},
	{"GET", "/v1", NULL, NULL, FCM_NO_ROUTE, ""},
	{"GET", "/v1/vms/", NULL, NULL, FCM_NO_ROUTE, ""},
	{"GET", "/v1//vms", NULL, NULL, FCM_NO_ROUTE, ""},
	{"GET", "//v1/vms", NULL, NULL, FCM_NO_ROUTE, ""},
	{"GET", "/V1/vms", NULL, NULL, FCM_NO_ROUTE, ""},
	{"GET", "/v1/vmsx", NULL, NULL, FCM_NO_ROUTE, ""},
	{"GET", "/v1/vm", NULL, NULL, FCM_NO_ROUTE, ""},
	{"GET", "/v1/vms/web/x", NULL, NULL, FCM_NO_ROUTE, ""},
	{"GET", "/1/2/3/4/5/6/7/8/9/10", NULL, NULL, FCM_NO_ROUTE, ""},
	{"PATCH", "/v1/vms", NULL, NULL, FCM_METHOD, "GET, POST"},
	{"get", "/v1/vms", NULL, NULL, FCM_METHOD, "GET, POST"},
	{"HEAD", "/healthz", NULL, NULL, FCM_METHOD, "GET"},
	{"POST", "/v1/vms/web", NULL, NULL, FCM_METHOD, "GET, DELETE"},
	{"GET", "/v1%2fvms", NULL, NULL, FCM_BAD_REQUEST, ""},
	{"GET", "/v1/vms/a%2Fb", NULL, NULL, FCM_BAD_REQUEST, ""},
	{"GET", "/v1/vms%00x", NULL, NULL, FCM_BAD_REQUEST, ""},
	{"GET", "/v1/vms/%0a", NULL, NULL, FCM_BAD_REQUEST, ""},
	{"GET", "/v1/vms/%7f", NULL, NULL, FCM_BAD_REQUEST, ""},
	{"GET", "/v1/vms/%c3%a9", NULL, NULL, FCM_BAD_REQUEST, ""},
	{"GET", "/v1/vms/%", NULL, NULL, FCM_BAD_REQUEST, ""},
	{"GET", "/v1/vms/%4", NULL, NULL, FCM_BAD_REQUEST, ""},
	{"GET", "/v1/vms/%g0", NULL, NULL, FCM_BAD_REQUEST, ""},
	{"GET", "/v1/vms/%0x41", NULL, NULL, FCM_BAD_REQUEST, ""},
	{"GET", "/v1/vms/..", NULL, NULL, FCM_BAD_REQUEST, ""},
	{"GET", "/v1/vms/%2e%2E/x", NULL, NULL, FCM_BAD_REQUEST, ""},
	{"GET", "/./v1/vms", NULL, NULL, FCM_BAD_REQUEST, ""},
	{"GET", "/nowhere/%00", NULL, NULL, FCM_BAD_REQUEST, ""},
};

static void test_rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		auto_free char *path = xstrdup(rows[i].path);
		struct fcm_error err = {0};
		struct match m;
		int r = router_match(table, rows[i].method, path, &m, &err);

		if ((r == 0) != (rows[i].code == FCM_OK) || err.code != rows[i].code)
			fail_msg("%s %s: %d %s", rows[i].method, rows[i].path, r, err.msg);
		assert_string_equal(m.allow, rows[i].allow);
		if (r < 0)
			continue;
		assert_string_equal(m.route->pattern, rows[i].pattern);
		assert_string_equal(m.route->method, rows[i].method);
		if (rows[i].param)
			assert_string_equal(m.params[0].value, rows[i].param);
	}
}

static void test_params(void **state)
{
	char path[] = "/v1/a/x/b/y";
	struct fcm_error err;
	struct match m;

	(void)state;
	assert_int_equal(router_match(table, "GET", path, &m, &err), 0);
	assert_string_equal(match_param(&m, "one"), "x");
	assert_string_equal(match_param(&m, "two"), "y");
	assert_null(match_param(&m, "on"));
	assert_null(match_param(&m, "three"));
}

static void test_length(void **state)
{
	char path[sizeof "/v1/vms/" + SEGMENT_MAX + 1] = "/v1/vms/";
	struct fcm_error err = {0};
	struct match m;

	(void)state;
	memset(path + 8, 'a', SEGMENT_MAX);
	assert_int_equal(router_match(table, "GET", path, &m, &err), 0);
	strcpy(path, "/v1/vms/");
	memset(path + 8, 'a', SEGMENT_MAX + 1);
	assert_int_equal(router_match(table, "GET", path, &m, &err), -1);
	assert_int_equal(err.code, FCM_BAD_REQUEST);
}

static void test_query(void **state)
{
	static const struct field takes[] = {{.key = "a", .type = FIELD_CHARS},
		{.key = "b", .type = FIELD_CHARS}, {.key = "d", .type = FIELD_CHARS},
		{.key = "e", .type = FIELD_CHARS}, {.key = "force", .type = FIELD_BOOL},
		{.key = "label", .type = FIELD_STRV}, FIELD_END};
	static const struct route route = {.method = "GET", .pattern = "/x", .query = takes},
				  none = {.method = "GET", .pattern = "/y"};
	static const char *const good[] = {"", "force=1&a=banana", "force=no", "a="},
				 *const bad[] = {"a=%00", "a=%0a", "a=%", "%0d=1", "=1", "a=1&&b=2"},
				 *const unfit[] = {
					 "a=1&a=2", "forced=1", "force=banana", "force", "force=1&a=a&x"};
	char text[] = "a=x%20y+z&b&d=&e=%26%3d1=2%C3%A9", many[400] = "label=0";
	struct fcm_error err = {0};
	struct query q;

	(void)state;
	assert_int_equal(router_query(&none, NULL, &q, &err), 0);
	assert_null(query_get(&q, "a"));
	assert_int_equal(router_query(&route, text, &q, &err), 0);
	assert_string_equal(query_get(&q, "a"), "x y z");
	assert_string_equal(query_get(&q, "b"), "");
	assert_string_equal(query_get(&q, "d"), "");
	assert_string_equal(query_get(&q, "e"), "&=1=2\xc3\xa9");
	assert_null(query_get(&q, "label"));

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		auto_free char *copy = xstrdup(good[i]);
		assert_int_equal(router_query(&route, copy, &q, &err), 0);
	}
	char twice[] = "label=x&label=y";
	assert_int_equal(router_query(&route, twice, &q, &err), 0);
	assert_int_equal(q.n, 2);
	assert_string_equal(q.fields[1].value, "y");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		auto_free char *copy = xstrdup(bad[i]);
		err.code = FCM_OK;
		if (router_query(&route, copy, &q, &err) == 0 || err.code != FCM_BAD_REQUEST)
			fail_msg("the query %s is taken", bad[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(unfit); i++) {
		auto_free char *copy = xstrdup(unfit[i]);
		err = (struct fcm_error){0};
		assert_int_equal(router_query(&route, copy, &q, &err), -1);
		assert_int_equal(err.code, FCM_BAD_REQUEST);
		assert_true(err.field[0]);
	}
	for (size_t i = 1; i <= QUERY_FIELDS; i++)
		strcat(many, "&label=0");
	assert_int_equal(router_query(&route, many, &q, &err), -1);
	char one[] = "a=x";
	assert_int_equal(router_query(&none, one, &q, &err), -1);
}

static enum fcm_code body_code(const struct route *route, int64_t length, bool chunked, const char *type)
{
	struct head head = {.length = length, .chunked = chunked};
	struct fcm_error err = {0};

	if (type)
		head.fields[head.n++] = (struct head_field){"content-type", type};
	return router_body(route, &head, &err) < 0 ? err.code : FCM_OK;
}

static void test_body(void **state)
{
	const struct route *get = &table[1], *post = &table[2], *put = &table[6];

	(void)state;
	assert_int_equal(body_code(get, -1, false, NULL), FCM_OK);
	assert_int_equal(body_code(get, 0, false, NULL), FCM_OK);
	assert_int_equal(body_code(get, 1, false, "application/json"), FCM_TOO_LARGE);
	assert_int_equal(body_code(get, -1, true, NULL), FCM_TOO_LARGE);
	assert_int_equal(body_code(post, -1, false, NULL), FCM_OK);
	assert_int_equal(body_code(post, 100, false, "application/json; charset=utf-8"), FCM_OK);
	assert_int_equal(body_code(post, -1, true, "Application/JSON"), FCM_OK);
	assert_int_equal(body_code(post, 101, false, "application/json"), FCM_TOO_LARGE);
	assert_int_equal(body_code(post, INT64_MAX, false, "application/json"), FCM_TOO_LARGE);
	assert_int_equal(body_code(post, 2, false, NULL), FCM_MEDIA_TYPE);
	assert_int_equal(body_code(post, 2, false, "application/x-www-form-urlencoded"), FCM_MEDIA_TYPE);
	assert_int_equal(body_code(post, 2, false, "application/jsonx"), FCM_MEDIA_TYPE);
	assert_int_equal(body_code(put, 1 << 20, false, NULL), FCM_OK);
	assert_int_equal(body_code(put, (1 << 20) + 1, false, NULL), FCM_TOO_LARGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_params),
		cmocka_unit_test(test_length),
		cmocka_unit_test(test_query),
		cmocka_unit_test(test_body),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
