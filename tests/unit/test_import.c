/* What of fcm-oci's import is pure: names of members, what a stream is, the indexes of archives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/oci/manifest.h"
#include "daemon/oci/members.h"
#include "daemon/oci/probe.h"

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define OTHER "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define IMAGE(hex, more) "{\"digest\":\"sha256:" hex "\",\"size\":5" more "}"
#define REF_NAME(name) ",\"annotations\":{\"org.opencontainers.image.ref.name\":\"" name "\"}"

static void test_path(void **state)
{
	static const struct {
		const char *from, *path, *is; /* NULL: it leads out */
	} rows[] = {
		{"", "a/b", "a/b"},
		{"", "./a//b/.", "a/b"},
		{"", "/a", "a"},
		{"", "a/../b", "b"},
		{"", ".", ""},
		{"", "a/..", ""},
		{"", "..", NULL},
		{"", "a/../../b", NULL},
		{"x/layer.tar", "../y.tar", "y.tar"},
		{"x/layer.tar", "y.tar", "x/y.tar"},
		{"x/layer.tar", "/y.tar", "y.tar"},
		{"x/layer.tar", "../../y.tar", NULL},
		{"layer.tar", "y.tar", "y.tar"},
		{"layer.tar", "../y.tar", NULL},
		{"", "...", "..."},
	};
	char have[MEMBERS_PATH], *lots = xalloc(MEMBERS_PATH + 1);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		bool fine = member_path(rows[i].from, rows[i].path, have);
		if (fine != (rows[i].is != NULL) || (fine && strcmp(have, rows[i].is) != 0))
			fail_msg("'%s' from '%s' is '%s'", rows[i].path, rows[i].from, have);
	}
	memset(lots, 'a', MEMBERS_PATH);
	assert_false(member_path("", lots, have));
	lots[MEMBERS_PATH - 1] = '\0';
	assert_true(member_path("", lots, have));
	free(lots);
}

static void put(unsigned char *p, size_t at, size_t n, uint32_t v)
{
	for (size_t i = 0; i < n; i++, v >>= 8)
		p[at + i] = (unsigned char)v;
}

static void test_probe(void **state)
{
	unsigned char p[PROBE_BYTES] = {0};
	struct fcm_error err;

	(void)state;
	assert_int_equal(probe_kind(p, sizeof p), PROBE_OTHER);
	assert_int_equal(probe_kind("", 0), PROBE_OTHER);
	put(p, 1024 + 0x38, 2, 0xef53);
	put(p, 1024 + 0x4, 4, 10);
	put(p, 1024 + 0x18, 4, 2);
	assert_int_equal(probe_kind(p, sizeof p), PROBE_EXT4);
	assert_int_equal(probe_kind(p, sizeof p - 1), PROBE_OTHER);
	assert_int_equal(probe_ext4(p, sizeof p, 40960, &err), 0);
	assert_int_equal(probe_ext4(p, sizeof p, 40960 + 4095, &err), 0);
	assert_int_equal(probe_ext4(p, sizeof p, 40960 + 4096, &err), -1);
	assert_int_equal(probe_ext4(p, sizeof p, 40959, &err), -1);
	put(p, 1024 + 0x150, 4, 1); /* means nothing without 64bit */
	assert_int_equal(probe_ext4(p, sizeof p, 40960, &err), 0);
	put(p, 1024 + 0x60, 4, 0x80);
	assert_int_equal(probe_ext4(p, sizeof p, 40960, &err), -1);
	assert_int_equal(probe_ext4(p, sizeof p, 40960 + ((uint64_t)1 << 44), &err), 0);
	put(p, 1024 + 0x60, 4, 0x84);
	assert_int_equal(probe_ext4(p, sizeof p, 40960 + ((uint64_t)1 << 44), &err), -1);
	assert_non_null(strstr(err.msg, "unmounted"));
	put(p, 1024 + 0x18, 4, 0xffffffff);
	assert_int_equal(probe_ext4(p, sizeof p, 40960, &err), -1);
}

static int layout(const char *text, struct descriptor *d, struct strv *names, struct fcm_error *err)
{
	strv_done(names);
	return layout_parse(text, strlen(text), "linux/amd64", d, names, err);
}

static void test_layout(void **state)
{
	struct strv names = {0};
	struct descriptor d = {0};
	struct fcm_error err;

	(void)state;
	assert_int_equal(layout("{\"manifests\":[" IMAGE(HEX64, REF_NAME("app:1")) "," IMAGE(HEX64,
					REF_NAME("b.example/app")) "," IMAGE(HEX64, REF_NAME("latest")) "]}",
				 &d, &names, &err),
		0);
	assert_string_equal(d.digest, HEX64);
	assert_int_equal(names.n, 2);
	assert_string_equal(names.v[0], "docker.io/library/app:1");
	assert_string_equal(names.v[1], "b.example/app:latest");
	assert_int_equal(layout("{\"manifests\":[" IMAGE(OTHER,
					",\"platform\":{\"os\":\"unknown\"}") "," IMAGE(HEX64, "") "]}",
				 &d, &names, &err),
		0);
	assert_string_equal(d.digest, HEX64);
	assert_int_equal(
		layout("{\"manifests\":[" IMAGE(HEX64, "") "," IMAGE(OTHER, "") "]}", &d, &names, &err), -1);
	assert_non_null(strstr(err.msg, "several"));
	assert_int_equal(layout("{\"manifests\":[]}", &d, &names, &err), -1);
	assert_int_equal(err.code, FCM_NO_IMAGE);
	assert_int_equal(layout("[]", &d, &names, &err), -1);
	assert_int_equal(
		layout("{\"manifests\":[{\"digest\":\"sha256:../x\",\"size\":1}]}", &d, &names, &err), -1);
	strv_done(&names);
}

static void test_docker(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{"{}", "no config"},
		{"[]", "no config"},
		{"[1]", "no config"},
		{"[{},{}]", "several"},
		{"[{\"Config\":\"c\"}]", "no layers"},
		{"[{\"Config\":\"\",\"Layers\":[\"l\"]}]", "no config"},
		{"[", "manifest.json"},
	};
	static const char good[] = "[{\"Config\":\"c.json\",\"RepoTags\":[\"a:1\",\"NO\",\"a:1\",\"b:2\"],"
				   "\"Layers\":[\"x/l\",\"y/l\"]}]";
	struct docker_archive d = {0};
	struct fcm_error err;

	(void)state;
	assert_int_equal(docker_archive_parse(good, strlen(good), &d, &err), 0);
	assert_string_equal(d.config, "c.json");
	assert_int_equal(d.layers.n, 2);
	assert_int_equal(d.names.n, 2);
	docker_archive_done(&d);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(docker_archive_parse(bad[i].text, strlen(bad[i].text), &d, &err), -1);
		if (strstr(err.msg, bad[i].says) == NULL)
			fail_msg("'%s' doesn't say '%s'", err.msg, bad[i].says);
		docker_archive_done(&d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_path),
		cmocka_unit_test(test_probe),
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_docker),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
