/* Steps and layers of an image's config, matched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/image/history.h"

static struct strv layers(size_t n)
{
	struct strv l = {0};

	for (size_t i = 0; i < n; i++)
		strv_addf(&l, "%zu", i);
	return l;
}

/* What becomes of `text` and n layers: "by:layer ...", the last step first. */
static char *parse(const char *text, size_t n)
{
	struct strv l = layers(n);
	struct buf b = {0};
	struct image_step *steps = NULL;
	struct fcm_error err;
	size_t count = 0;

	int r = history_parse(text, strlen(text), &l, &steps, &count, &err);
	strv_done(&l);
	buf_str(&b, r < 0 ? "error" : "");
	for (size_t i = 0; i < count; i++)
		buf_printf(&b, "%s%s:%s", i ? " " : "", steps[i].by, steps[i].layer);
	free(steps);
	return b.p ? b.p : xstrdup("");
}

static void test_steps(void **state)
{
#define STEP(by) "{\"created_by\":\"" by "\"}"
#define EMPTY(by) "{\"created_by\":\"" by "\",\"empty_layer\":true}"
	static const struct {
		const char *text;
		size_t layers;
		const char *is;
	} rows[] = {
		{"{\"history\":[" STEP("a") "," STEP("b") "]}", 2, "b:1 a:0"},
		{"{\"history\":[" STEP("a") "," EMPTY("e") "," STEP("b") "," EMPTY("f") "]}", 2,
			"f: b:1 e: a:0"},
		{"{\"history\":[" STEP("a") "]}", 3, ":2 :1 a:0"},
		{"{\"history\":[" STEP("a") "," STEP("b") "," STEP("c") "]}", 1, "c: b: a:0"},
		{"{}", 2, ":1 :0"},
		{"{}", 0, ""},
		{"{\"history\":{}}", 1, ":0"},
		{"{\"history\":[1,\"x\",null]}", 1, ": : :0"},
		{"{", 1, "error"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		auto_free char *have = parse(rows[i].text, rows[i].layers);
		assert_string_equal(have, rows[i].is);
	}
}

static void test_limits(void **state)
{
	_cleanup_(buf_done) struct buf b = {0};
	struct strv l = layers(1);
	struct image_step *steps = NULL;
	struct fcm_error err;
	size_t n = 0;

	(void)state;
	buf_str(&b, "{\"history\":[");
	for (int i = 0; i < HISTORY_STEPS + 500; i++)
		buf_printf(&b, "%s{\"created_by\":\"a\\u001bb\"}", i ? "," : "");
	buf_str(&b, "]}");
	assert_int_equal(history_parse(b.p, b.n, &l, &steps, &n, &err), 0);
	assert_int_equal(n, HISTORY_STEPS);
	assert_string_equal(steps[0].by, "a?b");
	free(steps);
	strv_done(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_steps), cmocka_unit_test(test_limits)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
