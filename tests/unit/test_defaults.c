/*
 * What a VM takes from its image's config.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "common/field.h"
#include "daemon/engine/defaults.h"

static const char config[] =
	"{\"architecture\":\"amd64\",\"os\":\"linux\",\"created\":\"x\",\"config\":{\"Entrypoint\":[\"/e\"],"
	"\"Cmd\":[\"c\",\"d\"],\"Env\":[\"A=1\",\"B=2\",\"=x\",\"odd\",\"C=a\\nb\"],\"WorkingDir\":\"/"
	"w\",\"User\":\"web\","
	"\"StopSignal\":\"SIGQUIT\",\"Labels\":null,\"Volumes\":{\"/v\":{},\"/var/lib/x/\":{},\"/run\":{},"
	"\"/sys/fs/cgroup\":{}},\"ExposedPorts\":{\"80/tcp\":{},\"53/udp\":{},\"1:2\":{},\"x\":{}},"
	"\"Healthcheck\":{\"Test\":[\"CMD\",\"/c\",\"-x\"],\"Interval\":1500000000,\"Retries\":9999}},"
	"\"rootfs\":{\"type\":\"layers\"}}";

static struct strv ports; /* that the image names, as the last apply() said */

static int apply(struct vm_create *c, const struct image_config *image, struct fcm_error *err)
{
	*err = (struct fcm_error){0};
	strv_done(&ports);
	return defaults_apply(&c->spec, image, &ports, err);
}

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
		assert_int_equal(apply(&c, &image, &err), 0);
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
	assert_int_equal(apply(&c, &image, &err), 0);
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
	struct fcm_error err;

	(void)state;
	strv_add(&c.spec.main.entrypoint, "a");
	strv_add(&c.spec.main.args, "b");
	assert_int_equal(apply(&c, &image, &err), 0);
	auto_free char *words = joined(&c.spec.main.args);
	assert_string_equal(words, "a b");
	assert_null(c.spec.main.dir);
	assert_int_equal(c.spec.volumes.n + ports.n + c.spec.health.interval, 0);
	field_done(vm_create_fields, &c);
}

/* Decode a request and apply `image`, or the config of above; the whole as the API would show it. */
static field_json *applied(const char *request, const struct image_config *own, struct fcm_error *err)
{
	_cleanup_(image_config_done) struct image_config parsed = {0};
	struct vm_create c = {0};
	field_json *v = NULL;

	assert_int_equal(image_config_parse(config, sizeof config - 1, &parsed, err), 0);
	if (field_decode(vm_create_fields, request, strlen(request), FIELD_WIRE, &c, err) < 0)
		fail_msg("%s: %s", request, err->msg);
	if (apply(&c, own ? own : &parsed, err) == 0)
		v = field_encode(vm_create_fields, &c, true);
	field_done(vm_create_fields, &c);
	return v;
}

static void expect(const char *request, const char *key, const char *value)
{
	struct fcm_error err;
	auto_json field_json *v = applied(request, NULL, &err);
	if (v == NULL)
		fail_msg("%s: %s", request, err.msg);
	auto_free char *text = fj_get(v, key) ? fj_print(fj_get(v, key), false) : xstrdup("none");
	assert_string_equal(text, value);
}

static void test_volumes(void **state)
{
	(void)state;
	expect("{}", "volumes", "[\"/v\",\"/var/lib/x\"]"); /* the machine has /run and /sys itself */
	expect("{\"volumes\":[\"mine:/v:ro\",\"/a\"]}", "volumes", "[\"mine:/v:ro\",\"/a\",\"/var/lib/x\"]");
	expect("{\"main\":{\"tmpfs\":[\"/v/\"]}}", "volumes", "[\"/var/lib/x\"]");
}

static void test_ports(void **state)
{
	(void)state;
	expect("{}", "publish", "none");
	assert_int_equal(ports.n, 2);
	assert_string_equal(ports.v[0], "80/tcp");
	assert_string_equal(ports.v[1], "53/udp");
	expect("{\"publish_all\":true}", "publish", "[\"80/tcp\",\"53/udp\"]");
	expect("{\"publish_all\":true,\"publish\":[\"8080:80\",\"8053:53\"]}", "publish",
		"[\"8080:80\",\"8053:53\",\"53/udp\"]");
	expect("{\"expose_image\":true}", "expose", "80");
	expect("{\"expose_image\":true,\"expose\":81}", "expose", "81");
}

static void test_health(void **state)
{
	(void)state;
	expect("{}", "health", "{\"interval\":2,\"timeout\":30,\"retries\":1000,\"args\":[\"/c\",\"-x\"]}");
	expect("{\"health\":{\"retries\":2,\"start_period\":9}}", "health",
		"{\"interval\":2,\"timeout\":30,\"retries\":2,\"start_period\":9,\"args\":[\"/c\",\"-x\"]}");
	expect("{\"health\":{\"cmd\":\"true\"}}", "health",
		"{\"interval\":30,\"timeout\":5,\"retries\":3,\"cmd\":\"true\"}");
	expect("{\"health\":{\"disable\":true}}", "health", "none");
}

/* An image with these three. */
static void refuse(const char *request, const char *port, const char *volume, const char *const *test,
	const char *field, const char *word)
{
	_cleanup_(image_config_done) struct image_config image = {0};
	struct fcm_error err;

	if (port)
		strv_add(&image.ports, port);
	if (volume)
		strv_add(&image.volumes, volume);
	add(&image.health.test, test);
	auto_json field_json *v = applied(request, &image, &err);
	if (v || err.code != FCM_INVALID || strcmp(err.field, field) != 0 || strstr(err.msg, word) == NULL)
		fail_msg("%s: field '%s': %s", request, err.field, err.msg);
}

static void test_what_makes_no_sense(void **state)
{
	static const char *const odd[] = {"SOMETHING", "x", NULL}, *const bare[] = {"CMD", NULL},
				 *const none[] = {"NONE", NULL};
	auto_free char *long_line = xprintf("%0*d", PROBE_MAX_COMMAND + 1, 0);
	const char *const large[] = {"CMD-SHELL", long_line, NULL};

	(void)state;
	refuse("{}", NULL, "relative", NULL, "volumes", "VOLUME of the image");
	refuse("{}", NULL, "/a/../b", NULL, "volumes", "VOLUME of the image");
	refuse("{\"volumes\":[\"/1\",\"/2\",\"/3\",\"/4\",\"/5\",\"/6\",\"/7\",\"/8\"]}", NULL, "/9", NULL,
		"volumes", "more than 8");
	refuse("{\"expose_image\":true}", "53/udp", NULL, NULL, "expose_image", "no TCP port");
	refuse("{\"expose_image\":true}", "80-81/tcp", NULL, NULL, "expose_image", "80, 81");
	refuse("{}", NULL, NULL, odd, "health", "makes no sense");
	refuse("{}", NULL, NULL, bare, "health", "makes no sense");
	refuse("{}", NULL, NULL, large, "health", "longer than");
	refuse("{\"health\":{\"interval\":3}}", NULL, NULL, none, "health", "no HEALTHCHECK");
	refuse("{\"main\":{\"tty\":true}}", NULL, NULL, NULL, "main.args", "say what to run");
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

/* One layer more, and a step that tells of it, whatever the history below says. */
static void test_extend(void **state)
{
	static const char *const texts[][2] = {
		{"{\"os\":\"linux\",\"rootfs\":{\"diff_ids\":[\"sha256:a\"]},\"history\":[{\"created_by\":"
		 "\"x\"},{\"empty_layer\":true}]}",
			"[{\"created_by\":\"x\"},{\"empty_layer\":true},NEW]"},
		{"{\"os\":\"linux\",\"rootfs\":{\"diff_ids\":[\"sha256:a\"]}}", "[{},NEW]"},
		{"{\"os\":\"linux\",\"rootfs\":{\"diff_ids\":[\"sha256:a\"]},\"history\":\"x\"}", "[{},NEW]"},
	};
	static const char new[] = "{\"created\":\"1970-01-01T00:01:00Z\",\"created_by\":\"me\"}";
	static const char *const bad[] = {"", "[]", "{}", "{\"rootfs\":{\"diff_ids\":[]}}",
		"{\"rootfs\":{\"diff_ids\":\"x\"}}", "{\"rootfs\":[]}"};
	struct fcm_error err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		auto_free char *text =
			image_config_extend(texts[i][0], strlen(texts[i][0]), "b", "me", 60, &err);
		assert_non_null(text);
		auto_json field_json *now = fj_parse(text, strlen(text), &err);
		auto_free char *ids = fj_print(fj_get(fj_get(now, "rootfs"), "diff_ids"), false);
		auto_free char *history = fj_print(fj_get(now, "history"), false);
		const char *mark = strstr(texts[i][1], "NEW");
		auto_free char *want = xprintf("%.*s%s]", (int)(mark - texts[i][1]), texts[i][1], new);
		assert_string_equal(ids, "[\"sha256:a\",\"sha256:b\"]");
		assert_string_equal(history, want);
		assert_string_equal(fj_get_str(now, "os"), "linux");
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_null(image_config_extend(bad[i], strlen(bad[i]), "b", "me", 60, &err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_words), cmocka_unit_test(test_the_rest),
		cmocka_unit_test(test_none), cmocka_unit_test(test_volumes), cmocka_unit_test(test_ports),
		cmocka_unit_test(test_health), cmocka_unit_test(test_what_makes_no_sense),
		cmocka_unit_test(test_refused), cmocka_unit_test(test_extend)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
