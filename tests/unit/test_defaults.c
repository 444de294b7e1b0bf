/*
 * What a VM takes from its image's config.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/engine/defaults.h"

static const char config[] =
	"{\"architecture\":\"amd64\",\"os\":\"linux\",\"created\":\"x\",\"config\":{\"Entrypoint\":[\"/e\"],"
	"\"Cmd\":[\"c\",\"d\"],\"Env\":[\"A=1\",\"B=2\",\"=x\",\"odd\",\"C=a\\nb\"],\"WorkingDir\":\"/"
	"w\",\"User\":\"web\","
	"\"StopSignal\":\"SIGQUIT\",\"Labels\":null,\"Volumes\":{\"/"
	"v\":{}}},\"rootfs\":{\"type\":\"layers\"}}";

static char *joined(const struct strv *l)
{
	struct buf b = {0};

	for (size_t i = 0; i < l->n; i++)
		buf_printf(&b, "%s%s", i ? " " : "", l->v[i]);
	return b.p ? b.p : xstrdup("");
}

static void add(struct strv *l, const char *const *words)
{
	for (; words && *words; words++)
		strv_add(l, *words);
}

static void test_words(void **state)
{
	static const char *const words_xy[] = {"x", "y", NULL}, *const own[] = {"/own", NULL};
	static const struct {
		const char *const *entrypoint, *const *args;
		const char *result;
	} cases[] = {{NULL, NULL, "/e c d"}, {NULL, words_xy, "/e x y"}, {own, NULL, "/own"},
		{own, words_xy, "/own x y"}};
	struct fcm_error err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(image_config_done) struct image_config image = {0};
		struct vm_create c = {0};
		assert_int_equal(image_config_parse(config, sizeof config - 1, &image, &err), 0);
		add(&c.spec.main.entrypoint, cases[i].entrypoint);
		add(&c.spec.main.args, cases[i].args);
		defaults_apply(&c.spec, &image);
		auto_free char *words = joined(&c.spec.main.args);
		assert_string_equal(words, cases[i].result);
		assert_int_equal(c.spec.main.entrypoint.n, 0);
		field_done(vm_create_fields, &c);
	}
}

static void test_the_rest(void **state)
{
	_cleanup_(image_config_done) struct image_config image = {0};
	struct vm_create c = {0};
	struct fcm_error err;

	(void)state;
	assert_int_equal(image_config_parse(config, sizeof config - 1, &image, &err), 0);
	strv_add(&c.spec.env, "B=mine");
	c.spec.main.user = xstrdup("root");
	defaults_apply(&c.spec, &image);
	auto_free char *env = joined(&c.spec.env);
	assert_string_equal(env, "B=mine A=1");
	assert_string_equal(c.spec.main.dir, "/w");
	assert_string_equal(c.spec.main.user, "root");
	assert_int_equal(c.spec.main.stop_signal, 3);
	field_done(vm_create_fields, &c);
}

/* An image that says nothing changes nothing. */
static void test_none(void **state)
{
	const struct image_config image = {0};
	struct vm_create c = {0};

	(void)state;
	strv_add(&c.spec.main.entrypoint, "a");
	strv_add(&c.spec.main.args, "b");
	defaults_apply(&c.spec, &image);
	auto_free char *words = joined(&c.spec.main.args);
	assert_string_equal(words, "a b");
	assert_null(c.spec.main.dir);
	field_done(vm_create_fields, &c);
}

static void test_refused(void **state)
{
	static const char *const texts[] = {"", "[]", "{", "{}", "{\"os\":\"linux\"}",
		"{\"os\":\"windows\",\"architecture\":\"amd64\"}",
		"{\"os\":\"linux\",\"architecture\":\"arm64\"}",
		"{\"os\":\"linux\",\"architecture\":\"amd64\",\"config\":{\"Cmd\":\"sh\"}}",
		"{\"os\":\"linux\",\"architecture\":\"amd64\",\"config\":{\"Env\":[1]}}"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct image_config image = {0};
		struct fcm_error err;
		if (image_config_parse(texts[i], strlen(texts[i]), &image, &err) == 0)
			fail_msg("taken: %s", texts[i]);
		assert_int_equal(err.code, FCM_INVALID);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_words), cmocka_unit_test(test_the_rest),
		cmocka_unit_test(test_none), cmocka_unit_test(test_refused)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
