/*
 * common/core/ref: references to images.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#include "common/core/ref.h"

#define D "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define LONG "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkl"

static void good(void **unused)
{
	static const struct {
		const char *text, *full, *shown, *name;
	} rows[] = {
		{"nginx", "docker.io/library/nginx:latest", "nginx:latest", "nginx"},
		{"nginx:1.25", "docker.io/library/nginx:1.25", "nginx:1.25", "nginx"},
		{"nginx@sha256:" D, "docker.io/library/nginx@sha256:" D, "nginx@sha256:" D, "nginx"},
		{"nginx:1@sha256:" D, "docker.io/library/nginx:1@sha256:" D, "nginx:1@sha256:" D, "nginx"},
		{"owner/name", "docker.io/owner/name:latest", "owner/name:latest", "owner/name"},
		{"docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest", "nginx"},
		{"index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest", "a/b"},
		{"ghcr.io/a/b/c:v1.2-3_x", "ghcr.io/a/b/c:v1.2-3_x", "ghcr.io/a/b/c:v1.2-3_x",
			"ghcr.io/a/b/c"},
		{"localhost/base", "localhost/base:latest", "base:latest", "base"},
		{"localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest",
			"localhost:5000/x"},
		{"127.0.0.1:5000/a__b/c---d.e_f:T", "127.0.0.1:5000/a__b/c---d.e_f:T",
			"127.0.0.1:5000/a__b/c---d.e_f:T", "127.0.0.1:5000/a__b/c---d.e_f"},
	};
	struct fcm_error err;
	struct ref ref, again;

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(ref_parse(rows[i].text, "image", &ref, &err), 0);
		assert_string_equal(ref_full(&ref).s, rows[i].full);
		assert_string_equal(ref_short(&ref).s, rows[i].shown);
		assert_string_equal(ref_name(&ref).s, rows[i].name);
		assert_int_equal(ref_parse(rows[i].full, "image", &again, &err), 0);
		assert_memory_equal(&ref, &again, sizeof ref);
	}
}

static void bad(void **unused)
{
	static const char *const rows[] = {
		"",
		"Nginx",
		"a//b",
		"/a",
		"a/",
		"a:",
		":a",
		"a:b:c",
		"a@",
		"a@sha256:",
		"a@md5:" D,
		"a@sha256:" D "0",
		"a@sha256:0" D,
		"a@sha256:0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef",
		"a b",
		"a\n",
		"../a",
		"a/../b",
		"a/.b",
		"a/b.",
		"a___b",
		"a..b",
		"a._b",
		"a.-b",
		"-a",
		"a-",
		"a:.b",
		"a:-b",
		"a:b/c:",
		"x.y:/a",
		"x.y:0/a",
		"x.y:65536/a",
		"x..y/a",
		".x/a",
		"-x.y/a",
		"[::1]:5000/a",
		"a:" LONG LONG "x",
		LONG LONG LONG LONG,
		LONG "." LONG "." LONG "." LONG "/a",
		"\xc3\xa4",
		"a%2fb",
		"docker.io/",
	};
	struct fcm_error err;
	struct ref ref;

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		memset(&ref, 'x', sizeof ref);
		if (ref_parse(rows[i], "image", &ref, &err) == 0)
			fail_msg("'%s' was taken", rows[i]);
		assert_int_equal(err.code, FCM_INVALID);
		assert_string_equal(err.field, "image");
		assert_int_equal(ref.domain[0], 'x');
	}
}

static void local(void **unused)
{
	struct fcm_error err;
	struct ref ref, here;

	(void)unused;
	assert_int_equal(ref_parse("base:12", "image", &ref, &err), 0);
	assert_true(ref_local(&ref, &here));
	assert_string_equal(ref_full(&here).s, "localhost/base:12");
	assert_int_equal(ref_parse("a/base", "image", &ref, &err), 0);
	assert_false(ref_local(&ref, &here));
	assert_int_equal(ref_parse("ghcr.io/base", "image", &ref, &err), 0);
	assert_false(ref_local(&ref, &here));
}

static void registry(void **unused)
{
	static const char *const yes[] = {"docker.io", "ghcr.io", "a:5000", "localhost:5000", "10.0.0.1"};
	static const char *const no[] = {
		"", "localhost", "registry", "a.b/c", "https://a.b", "a.b:0", "a.b:x", ".a", "a..b", "a.b c"};

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(yes); i++)
		if (!ref_registry_valid(yes[i]))
			fail_msg("%s is refused", yes[i]);
	for (size_t i = 0; i < ARRAY_SIZE(no); i++)
		if (ref_registry_valid(no[i]))
			fail_msg("%s is taken", no[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good),
		cmocka_unit_test(bad),
		cmocka_unit_test(local),
		cmocka_unit_test(registry),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
