/*
 * Credentials for registries: what a file of docker's or podman's says of an image, what we write into one, and in which files is
 * looked.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>
#include <fcntl.h>

#include "client/credentials.h"
#include "common/core/fileio.h"
#include "common/model.h"

/* base64 of "ann:secret", "bob:a:b" and "ann:" */
#define ANN "{\"auth\":\"YW5uOnNlY3JldA==\"}"
#define BOB "{\"auth\":\"Ym9iOmE6Yg==\"}"
#define NO_PASSWORD "{\"auth\":\"YW5uOg==\"}"

static struct ref ref_of(const char *image)
{
	struct fcm_error err;
	struct ref ref;

	if (ref_parse(image, "image", &ref, &err) < 0)
		fail_msg("%s", err.msg);
	return ref;
}

static field_json *json(const char *text)
{
	struct fcm_error err;
	field_json *v = fj_parse(text, strlen(text), &err);

	if (v == NULL)
		fail_msg("%s: %s", text, err.msg);
	return v;
}

/* "user:password", "!helper", "" for none, or "?" and why not. */
static char *said(const char *file, const char *image)
{
	auto_json field_json *v = json(file);
	struct ref ref = ref_of(image);
	struct auth_entry e;
	struct fcm_error err;

	if (auth_look(v, &ref, &e, &err) < 0)
		return xprintf("?%s", err.msg);
	char *text = e.kind == AUTH_PLAIN    ? xprintf("%s:%s", e.plain.user, e.plain.password)
		     : e.kind == AUTH_HELPER ? xprintf("!%s", e.helper)
					     : xstrdup("");
	credentials_done(&e.plain);
	return text;
}

static void looks(void **unused)
{
	static const struct {
		const char *file, *image, *says;
	} rows[] = {
		{"{}", "a.b/x", ""},
		{"[]", "a.b/x", ""},
		{"{\"auths\":{\"a.b\":" ANN "}}", "a.b/x", "ann:secret"},
		{"{\"auths\":{\"a.b\":" ANN "}}", "a.b:5000/x", ""},
		{"{\"auths\":{\"a.b\":" BOB "}}",
			"a.b/x@sha256:"
			"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
			"bob:a:b"},
		{"{\"auths\":{\"a.b\":" NO_PASSWORD "}}", "a.b/x", "ann:"},
		/* the longest key that the name begins with, in whole parts */
		{"{\"auths\":{\"a.b\":" ANN ",\"a.b/c\":" BOB "}}", "a.b/c/d:1", "bob:a:b"},
		{"{\"auths\":{\"a.b/c/d\":" ANN ",\"a.b/c\":" BOB "}}", "a.b/c/d", "ann:secret"},
		{"{\"auths\":{\"a.b\":" ANN ",\"a.b/c\":" BOB "}}", "a.b/cc", "ann:secret"},
		{"{\"auths\":{\"a.b/c\":" BOB "}}", "a.b/x", ""},
		/* as docker once wrote them, and docker.io by its names */
		{"{\"auths\":{\"https://a.b/v2/\":" ANN "}}", "a.b/x", "ann:secret"},
		{"{\"auths\":{\"https://index.docker.io/v1/\":" ANN "}}", "nginx", "ann:secret"},
		{"{\"auths\":{\"docker.io\":" ANN "}}", "nginx", "ann:secret"},
		{"{\"auths\":{\"https://index.docker.io/v1/\":" BOB ",\"docker.io\":" ANN "}}", "me/app",
			"ann:secret"},
		{"{\"auths\":{\"docker.io/me\":" BOB ",\"docker.io\":" ANN "}}", "me/app", "bob:a:b"},
		{"{\"auths\":{\"https://index.docker.io/v1/\":" ANN "}}", "a.b/x", ""},
		/* helpers */
		{"{\"auths\":{\"a.b\":" ANN "},\"credHelpers\":{\"a.b\":\"pass\"}}", "a.b/x", "!pass"},
		{"{\"auths\":{\"a.b\":" ANN "},\"credsStore\":\"pass\"}", "a.b/x", "ann:secret"},
		{"{\"auths\":{\"a.b\":{}},\"credsStore\":\"pass\"}", "a.b/x", "!pass"},
		{"{\"credHelpers\":{\"a.b\":\"pass\"}}", "b.c/x", ""},
		{"{\"credHelpers\":{\"https://index.docker.io/v1/\":\"pass\"}}", "nginx", "!pass"},
		/* what can't be used */
		{"{\"auths\":{\"a.b\":{\"auth\":\"*\"}}}", "a.b/x",
			"?an 'auth' in it isn't the base64 of user:password"},
		{"{\"auths\":{\"a.b\":{\"auth\":\"YW5u\"}}}", "a.b/x",
			"?an 'auth' in it isn't the base64 of user:password"},
		{"{\"auths\":{\"a.b\":{\"auth\":\"YW5uOg==\",\"identitytoken\":\"t\"}}}", "a.b/x",
			REGISTRY_IDENTITY ":t"},
		{"{\"credsStore\":\"../x\"}", "a.b/x", "?it names a credential helper that can't be one"},
		{"{\"auths\":7,\"credHelpers\":[],\"credsStore\":{}}", "a.b/x", ""},
		{"{\"auths\":{\"a.b\":7}}", "a.b/x", ""},
	};

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		auto_free char *s = said(rows[i].file, rows[i].image);
		if (strcmp(s, rows[i].says) != 0)
			fail_msg("%s of %s: '%s', not '%s'", rows[i].image, rows[i].file, s, rows[i].says);
	}
}

static void sets(void **unused)
{
	static const struct {
		const char *file, *key;
		bool erase, had;
		const char *becomes;
	} rows[] = {
		{"{}", "a.b", false, false, "{\"auths\":{\"a.b\":" ANN "}}"},
		{"{\"x\":[1.5],\"auths\":{\"c.d\":" BOB "}}", "a.b", false, false,
			"{\"x\":[1.5],\"auths\":{\"c.d\":" BOB ",\"a.b\":" ANN "}}"},
		{"{\"auths\":{\"https://a.b\":" BOB "}}", "a.b", false, true,
			"{\"auths\":{\"a.b\":" ANN "}}"},
		{"{\"auths\":{\"docker.io\":" BOB "}}", "docker.io", false, true,
			"{\"auths\":{\"" AUTH_HUB "\":" ANN "}}"},
		{"{\"auths\":{\"a.b\":" BOB "}}", "a.b/c", false, false,
			"{\"auths\":{\"a.b\":" BOB ",\"a.b/c\":" ANN "}}"},
		{"{\"auths\":{\"a.b\":" BOB ",\"a.b/c\":" BOB "}}", "a.b", true, true,
			"{\"auths\":{\"a.b/c\":" BOB "}}"},
		{"{\"auths\":{\"" AUTH_HUB "\":" BOB ",\"docker.io\":" BOB "}}", "docker.io", true, true,
			"{\"auths\":{}}"},
		{"{\"auths\":{\"c.d\":" BOB "}}", "a.b", true, false, "{\"auths\":{\"c.d\":" BOB "}}"},
	};
	const struct credentials ann = {(char *)"ann", (char *)"secret"};

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		auto_json field_json *v = json(rows[i].file);
		assert_int_equal(auth_set(v, rows[i].key, rows[i].erase ? NULL : &ann), rows[i].had);
		auto_free char *text = fj_print(v, false);
		assert_string_equal(text, rows[i].becomes);
	}
}

/* ---- files ---- */

static const char *const variables[] = {
	"REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"};
static char top[] = "/tmp/credentials-XXXXXX";

static int begin(void **unused)
{
	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(variables); i++)
		unsetenv(variables[i]);
	strcpy(top + strlen(top) - 6, "XXXXXX");
	return mkdtemp(top) ? setenv("HOME", top, 1) : -1;
}

static int end(void **unused)
{
	struct fcm_error err;

	(void)unused;
	return dir_remove(AT_FDCWD, top, NULL, &err);
}

static void put(const char *name, const char *text)
{
	auto_free char *path = xprintf("%s/%s", top, name);
	auto_free char *folder = xprintf("%.*s", (int)(strrchr(path, '/') - path), path);
	struct fcm_error err;

	assert_int_equal(dir_make(folder, 0700, &err), 0);
	assert_int_equal(file_write_atomic(AT_FDCWD, path, 0644, text, strlen(text), &err), 0);
}

static void set(const char *variable, const char *name)
{
	auto_free char *path = xprintf("%s/%s", top, name);

	setenv(variable, path, 1);
}

static void finds(const char *image, const char *user)
{
	struct credentials c = {0};
	struct ref ref = ref_of(image);
	struct fcm_error err = {0};
	int r = credentials_find(&ref, &c, &err);

	if (r < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(r, *user != '\0');
	if (r)
		assert_string_equal(c.user, user);
	credentials_done(&c);
}

/* Each file is looked into before the ones below it, and after those above. */
static void order(void **unused)
{
	(void)unused;
	finds("a.b/x", "");
	put(".docker/config.json", "{\"auths\":{\"a.b\":{\"auth\":\"MTpw\"}}}");
	finds("a.b/x", "1");
	put("docker/config.json", "{\"auths\":{\"a.b\":{\"auth\":\"Mjpw\"}}}");
	set("DOCKER_CONFIG", "docker");
	finds("a.b/x", "2");
	put(".config/containers/auth.json", "{\"auths\":{\"a.b\":{\"auth\":\"Mzpw\"}}}");
	finds("a.b/x", "3");
	put("config/containers/auth.json", "{\"auths\":{\"a.b\":{\"auth\":\"NDpw\"}}}");
	set("XDG_CONFIG_HOME", "config");
	finds("a.b/x", "4");
	put("run/containers/auth.json", "{\"auths\":{\"a.b\":{\"auth\":\"NTpw\"}}}");
	set("XDG_RUNTIME_DIR", "run");
	finds("a.b/x", "5");
	set("REGISTRY_AUTH_FILE", "mine.json");
	finds("a.b/x", ""); /* and no other */
	put("mine.json", "");
	finds("a.b/x", "");
	put("mine.json", "{\"auths\":{\"a.b\":{\"auth\":\"Njpw\"}}}");
	finds("a.b/x", "6");
}

static void stores(void **unused)
{
	const struct credentials ann = {(char *)"ann", (char *)"secret"};
	_cleanup_(strv_done) struct strv files = {0};
	auto_free char *file = NULL, *target = xprintf("%s/elsewhere", top),
		       *link = xprintf("%s/run/containers/auth.json", top);
	struct fcm_error err;
	struct stat st;

	(void)unused;
	set("XDG_RUNTIME_DIR", "run");
	put(".docker/config.json", "{\"auths\":{\"a.b\":" BOB "}}");
	put("run/containers/other", "");
	put("elsewhere", "{\"kept\":true}");
	assert_int_equal(symlink(target, link), 0);
	assert_int_equal(credentials_store("a.b", &ann, &file, &err), 0);
	assert_string_equal(file, link);
	assert_int_equal(stat(target, &st), 0); /* what a link leads to is written, and the link stays */
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(lstat(link, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	finds("a.b/x", "ann");
	assert_int_equal(credentials_erase("a.b", &files, &err), 0);
	assert_int_equal(files.n, 2);
	finds("a.b/x", "");
	_cleanup_(buf_done) struct buf text = {0};
	assert_int_equal(file_read(AT_FDCWD, target, 1000, &text, &err), 0);
	assert_non_null(strstr(text.p, "\"kept\": true"));
	strv_done(&files);
	assert_int_equal(credentials_erase("a.b", &files, &err), 0);
	assert_int_equal(files.n, 0);
}

/* What can't be read is left as it is. */
static void broken(void **unused)
{
	const struct credentials ann = {(char *)"ann", (char *)"secret"};
	auto_free char *path = xprintf("%s/mine.json", top), *file = NULL;
	_cleanup_(strv_done) struct strv files = {0};
	_cleanup_(buf_done) struct buf text = {0};
	struct credentials c;
	struct ref ref = ref_of("a.b/x");
	struct fcm_error err;

	(void)unused;
	set("REGISTRY_AUTH_FILE", "mine.json");
	put("mine.json", "{\"auths\":");
	assert_int_equal(credentials_find(&ref, &c, &err), -1);
	assert_non_null(strstr(err.msg, path));
	assert_int_equal(credentials_store("a.b", &ann, &file, &err), -1);
	assert_int_equal(credentials_erase("a.b", &files, &err), -1);
	assert_int_equal(file_read(AT_FDCWD, path, 1000, &text, &err), 0);
	assert_string_equal(text.p, "{\"auths\":");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(looks),
		cmocka_unit_test(sets),
		cmocka_unit_test_setup_teardown(order, begin, end),
		cmocka_unit_test_setup_teardown(stores, begin, end),
		cmocka_unit_test_setup_teardown(broken, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
