/* Caddy's texts: what we write into them, and what we make of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <string.h>

#include "daemon/caddy/caddy.h"
#include "daemon/caddy/text.h"

static struct caddy_site site(void)
{
	struct caddy_site s = {.id = {"8i5agfx2"}, .domain = {"web.64-34-93-45.sslip.io"}, .port = 8000};

	inet_pton(AF_INET, "172.16.0.50", &s.ip);
	return s;
}

static void expect_site(const char *tls, const char *acme_ca, const struct caddy_site *s, const char *text)
{
	struct caddy_config config = {.tls = tls, .acme_ca = acme_ca};
	_cleanup_(buf_done) struct buf b = {0};
	struct dns_name domain;

	caddy_site_text(&config, s, &b);
	assert_string_equal(b.p, text);
	assert_true(caddy_site_domain(b.p, &domain));
	assert_string_equal(domain.s, s->domain.s);
}

static void expect_text(const char *tls, const char *acme_ca, const char *text)
{
	struct caddy_site s = site();

	expect_site(tls, acme_ca, &s, text);
}

#define HEAD "# Written by fcmd for VM 8i5agfx2: changes here are lost.\nweb.64-34-93-45.sslip.io {\n"

static void test_site_text(void **state)
{
	(void)state;
	expect_text("", "", HEAD "\treverse_proxy 172.16.0.50:8000\n}\n");
	expect_text("internal", "", HEAD "\ttls internal\n\treverse_proxy 172.16.0.50:8000\n}\n");
	expect_text("", "https://acme.example/dir",
		HEAD "\ttls {\n\t\tca https://acme.example/dir\n\t}\n\treverse_proxy 172.16.0.50:8000\n}\n");
}

static void test_api_site_text(void **state)
{
	struct caddy_site s = {
		.id = {CADDY_API_ID}, .domain = {"api.example.com"}, .socket = "/run/fcm/proxy.sock"};

	(void)state;
	assert_false(vm_id_valid(CADDY_API_ID));
	assert_true(ip_net_parse("172.16.0.0/24", &s.closed_to));
	expect_site("internal", "", &s,
		"# Written by fcmd for its API: changes here are lost.\napi.example.com {\n\ttls internal\n"
		"\t@guests remote_ip 172.16.0.0/24\n\tabort @guests\n"
		"\treverse_proxy unix//run/fcm/proxy.sock\n}\n");
}

static void test_foreign_site_text(void **state)
{
	static const char *const texts[] = {"", "example.com {\n}\n", "# Written by fcmd for VM x",
		"# Written by fcmd for VM x\n", "# Written by fcmd for VM x\n\n",
		"# Written by fcmd for VM x\nnodots {\n}\n", "# Written by fcmd for VM x\na{b}.com {\n}\n"};
	struct dns_name domain;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		assert_false(caddy_site_domain(texts[i], &domain));
}

#define IMPORT "# The sites of fcm's VMs, one file each.\nimport /etc/caddy/fcm.d/*.caddy\n"

static void test_import_added(void **state)
{
	/* the Caddyfile, and what stands between it and the import */
	static const char *const files[][2] = {
		{"", ""},
		{"# nothing\n", "\n"},
		{":80 {\n\trespond hi\n}\n", "\n"},
		{":80 {\n\trespond hi\n}", "\n\n"},
		{"{\n\temail a@b.c\n}\n(snip) {\n\tencode gzip\n}\na.com, b.com,\nc.com {\n\timport "
		 "snip\n}\n",
			"\n"},
		{"a.com\n{\n\trespond {host}\n}\n", "\n"},
		{"a.com {\n\trespond \"}\" # {\n\theader X `{`\n\trespond {$X:}} 200\n}\n", "\n"},
		{"import sites/*\n", "\n"},
		{"import snip {\n\targ\n}\na.com {\n}\n", "\n"},
		{"# import /etc/caddy/fcm.d/*.caddy\n", "\n"},
		{"a.com {\n\timport /etc/caddy/fcm.d/*.caddy\n}\n", "\n"},
		{"import /etc/caddy/fcm.d/*.caddyx\n", "\n"},
		{"a.com, \\\nb.com {\n}\r\n", "\n"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		_cleanup_(buf_done) struct buf once = {0}, twice = {0};
		auto_free char *wanted = xprintf("%s%s%s", files[i][0], files[i][1], IMPORT);
		struct fcm_error err;
		if (caddy_with_import(files[i][0], "/etc/caddy/fcm.d", &once, &err) < 0)
			fail_msg("%s: %s", files[i][0], err.msg);
		assert_string_equal(once.p, wanted);
		assert_int_equal(caddy_with_import(once.p, "/etc/caddy/fcm.d", &twice, &err), 0);
		assert_string_equal(twice.p, once.p);
	}
}

static void test_import_refused(void **state)
{
	static const char *const files[] = {"localhost\nrespond hi\n", "localhost",
		"a.com,\nb.com\nrespond hi",
		"# mine\n\nexample.com\nreverse_proxy :9000 {\n\theader_up X y\n}\n", "a.com {\n",
		"a.com {\n\trespond \"\n}\n", "a.com {\n\thandle {\n}\n", "}", "import x {\n",
		"\"a.com {\n}\n"};
	struct fcm_error err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		_cleanup_(buf_done) struct buf b = {0};
		if (caddy_with_import(files[i], "/etc/caddy/fcm.d", &b, &err) == 0)
			fail_msg("%s", files[i]);
		assert_int_equal(err.code, FCM_CONFIG);
		assert_null(b.p);
	}
	_cleanup_(buf_done) struct buf b = {0};
	assert_int_equal(caddy_with_import("", "/etc/my caddy", &b, &err), -1);
	assert_int_equal(caddy_with_import("", "/etc/{$X}", &b, &err), -1);
}

static void test_serves(void **state)
{
	static const char json[] =
		"{\"apps\":{\"http\":{\"servers\":{\"srv0\":{\"listen\":[\":443\"],\"routes\":["
		"{\"match\":[{\"path\":[\"/"
		"x\"]},{\"host\":[\"a.com\",\"B.com\"]}],\"handle\":[{\"handler\":\"subroute\","
		"\"routes\":[{\"match\":[{\"host\":[\"deep.com\"]}]}]}]}]},"
		"\"srv1\":{\"routes\":[{\"handle\":[]},{\"match\":[{\"host\":[\"c.com\"]}]}]}}}}}";
	static const struct {
		const char *domain;
		bool serves;
	} cases[] = {{"a.com", true}, {"b.com", true}, {"c.com", true}, {"deep.com", true}, {"d.com", false},
		{"x.a.com", false}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct dns_name name = {""};
		fcm_copy(name.s, sizeof name.s, cases[i].domain);
		assert_int_equal(caddy_serves(json, &name), cases[i].serves);
	}
}

/* A configuration of other shapes than we know: no crash, no match. */
static void test_serves_hostile(void **state)
{
	static const char *const texts[] = {"", "{", "[]", "null", "7", "{\"apps\":7}",
		"{\"apps\":{\"http\":[]}}", "{\"apps\":{\"http\":{\"servers\":[]}}}",
		"{\"apps\":{\"http\":{\"servers\":{\"a\":7}}}}",
		"{\"apps\":{\"http\":{\"servers\":{\"a\":{\"routes\":{}}}}}}",
		"{\"apps\":{\"http\":{\"servers\":{\"a\":{\"routes\":[7,null,{\"match\":7},{\"match\":[7,{"
		"\"host\":\"a.com\"},"
		"{\"host\":[7,null,[\"a.com\"]]}]},{\"handle\":7},{\"handle\":[[]]}]}}}}}"};
	const struct dns_name name = {"a.com"};
	_cleanup_(buf_done) struct buf deep = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		assert_false(caddy_serves(texts[i], &name));
		assert_int_equal(caddy_admin_of(texts[i]), CADDY_ADMIN_DEFAULT);
	}
	buf_str(&deep, "{\"apps\":{\"http\":{\"servers\":{\"a\":");
	for (int i = 0; i < 100000; i++)
		buf_str(&deep, "{\"routes\":[{\"handle\":[");
	assert_false(caddy_serves(deep.p, &name));
}

static void test_admin(void **state)
{
	(void)state;
	assert_int_equal(caddy_admin_of("{\"admin\":{\"disabled\":true}}"), CADDY_ADMIN_OFF);
	assert_int_equal(
		caddy_admin_of("{\"admin\":{\"listen\":\"unix//run/caddy.sock\"}}"), CADDY_ADMIN_SET);
	assert_int_equal(caddy_admin_of("{\"admin\":{}}"), CADDY_ADMIN_DEFAULT);
}

static void test_adapted(void **state)
{
	auto_free char *a = caddy_adapted("{\"level\":\"warn\",\"msg\":\"x\"}\n{\"apps\":{}}\n");
	auto_free char *b = caddy_adapted("2026/11/25 WARN input is not formatted\n{}");

	(void)state;
	assert_string_equal(a, "{\"apps\":{}}");
	assert_string_equal(b, "{}");
	assert_null(caddy_adapted("{\"level\":\"warn\"}\n"));
	assert_null(caddy_adapted(""));
}

static void test_words(void **state)
{
	static const char *const bad[] = {"", "a b", "a\nb", "{x}", "a\"b", "`", "#x", "a\\b", "*"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(caddy_word_valid(bad[i]));
	assert_true(caddy_word_valid("https://acme-v02.example:14000/dir?x=%20"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_site_text),
		cmocka_unit_test(test_api_site_text),
		cmocka_unit_test(test_foreign_site_text),
		cmocka_unit_test(test_import_added),
		cmocka_unit_test(test_import_refused),
		cmocka_unit_test(test_serves),
		cmocka_unit_test(test_serves_hostile),
		cmocka_unit_test(test_admin),
		cmocka_unit_test(test_adapted),
		cmocka_unit_test(test_words),
	};
	return cmocka_run_group_tests_name("site", tests, NULL, NULL);
}
