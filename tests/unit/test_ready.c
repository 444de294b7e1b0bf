/* What a user says of readiness, and what comes of it: the one-word form, URLs, patterns. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "client/ready.h"
#include "common/core/localurl.h"
#include "common/pattern.h"

static char *parsed(const char *text)
{
	struct ready_spec r = {.mode = READY_AUTO};
	struct fcm_error err = {0};

	if (ready_parse(text, &r, &err) < 0) {
		field_done(ready_fields, &r);
		assert_non_null(strstr(err.msg, "--wait-ready"));
		return xstrdup(err.msg);
	}
	field_json *v = field_encode(ready_fields, &r, true);
	char *s = fj_print(v, false);
	fj_free(v);
	field_done(ready_fields, &r);
	return s;
}

static void one_word(void **unused)
{
	static const struct {
		const char *text, *json;
	} cases[] = {
		{"none", "{\"mode\":\"none\"}"},
		{"agent", "{\"mode\":\"agent\"}"},
		{"ssh", "{\"mode\":\"ssh\"}"},
		{"auto", "{\"mode\":\"auto\"}"},
		{"tcp=8000", "{\"mode\":\"tcp\",\"port\":8000}"},
		{"http=http://localhost/a=b,c=d", "{\"mode\":\"http\",\"url\":\"http://localhost/a=b,c=d\"}"},
		{"log=^ready, port=80$", "{\"mode\":\"log\",\"log\":\"^ready, port=80$\"}"},
		{"exec=test -e /a && b=1", "{\"mode\":\"exec\",\"exec\":\"test -e /a && b=1\"}"},
		{"mode=http,url=http://127.0.0.1:80,timeout=60,interval=2",
			"{\"mode\":\"http\",\"url\":\"http://127.0.0.1:80\",\"timeout\":60,\"interval\":2}"},
		{"mode=exec,exec=a,b,timeout=5", "{\"mode\":\"exec\",\"exec\":\"a,b\",\"timeout\":5}"},
		{"mode=exec,timeout=5,exec=a,x=1,b",
			"{\"mode\":\"exec\",\"exec\":\"a,x=1,b\",\"timeout\":5}"},
		{"mode=tcp,port=1", "{\"mode\":\"tcp\",\"port\":1}"},
	};

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		auto_free char *json = parsed(cases[i].text);
		assert_string_equal(json, cases[i].json);
	}
}

static void wrong_words(void **unused)
{
	static const struct {
		const char *text, *word;
	} cases[] = {
		{"", "not one of"},
		{"soon", "not one of"},
		{"tcp", "tcp=..."},
		{"tcp=", "tcp=..."},
		{"tcp=0", "65535"},
		{"tcp=http", "port"},
		{"ssh=22", "takes no value"},
		{"http=ftp://localhost/", "http://"},
		{"log=(", "regular expression"},
		{"mode", "not one of"},
		{"mode=http,uri=http://localhost", "not one of"},
		{"mode=tcp,port=80,timeout=x", "timeout"},
		{"mode=tcp,port=80,timeout=3601", "3600"},
	};

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		auto_free char *msg = parsed(cases[i].text);
		if (strstr(msg, cases[i].word) == NULL)
			fail_msg("%s: %s", cases[i].text, msg);
	}
}

static void urls(void **unused)
{
	static const char *const bad[] = {"", "http://", "http:///x", "https://localhost/",
		"http://example.com/", "http://user@localhost/", "http://localhost:/",
		"http://localhost:65536/", "http://localhost:-1/", "http://0.0.0.0/", "http://127.1/",
		"http://[::1]/", "http://localhost/a b", "http://localhost/\r\n", "http://localhost/#x",
		"http://localhost/\xc3\xa4", "HTTP://localhost/",
		"http://localhostlocalhostlocalhostlocalhost/"};
	struct fcm_error err = {0};
	struct local_url u;

	(void)unused;
	assert_int_equal(local_url_parse("http://127.0.0.1", "url", &u, &err), 0);
	assert_int_equal(u.port, 80);
	assert_string_equal(u.path, "/");
	assert_string_equal(u.host, "127.0.0.1");
	assert_int_equal(u.address.s_addr, htonl(INADDR_LOOPBACK));
	assert_int_equal(local_url_parse("http://localhost:8080/a?b=c", "url", &u, &err), 0);
	assert_int_equal(u.port, 8080);
	assert_string_equal(u.path, "/a?b=c");
	assert_string_equal(u.host, "localhost:8080");
	assert_int_equal(u.address.s_addr, 0);
	assert_int_equal(local_url_parse("http://172.16.0.50?x", "url", &u, &err), 0);
	assert_string_equal(u.path, "/?x");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		if (local_url_parse(bad[i], "url", &u, &err) == 0)
			fail_msg("%s was taken", bad[i]);
		assert_string_equal(err.field, "url");
	}
}

static void patterns(void **unused)
{
	static const char *const good[] = {
		"ready", "^a.*b$", "[{]", "[]{]", "[^]{]", "\\{", "a|(b)+", "\\\\"};
	static const char *const bad[] = {"", "(", "a{2}", "(a{1,9}){1,9}", "(a)\\1", "[", "a**{", "\\\\{"};
	struct fcm_error err = {0};
	char longer[PATTERN_MAX + 2];

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		if (pattern_check(good[i], "log", &err) < 0)
			fail_msg("%s: %s", good[i], err.msg);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (pattern_check(bad[i], "log", &err) == 0)
			fail_msg("%s was taken", bad[i]);
	memset(longer, 'a', sizeof longer - 1);
	longer[sizeof longer - 1] = '\0';
	assert_int_equal(pattern_check(longer, "log", &err), -1);
}

/* Does the text match, given in pieces of that size? */
static bool feeds(const char *pattern, const char *text, size_t n, size_t piece)
{
	_cleanup_(pattern_done) struct pattern p = {.text = pattern};

	for (size_t at = 0; at < n; at += piece)
		if (pattern_feed(&p, text + at, MIN(piece, n - at)))
			return true;
	return false;
}

#define FEEDS(pattern, text, piece) feeds(pattern, text, sizeof(text) - 1, piece)

static void lines(void **unused)
{
	static char flood[1 << 18];

	(void)unused;
	for (size_t piece = 1; piece < 20; piece++) {
		assert_true(FEEDS("^ready$", "not\r\nready\r\nyet\r\n", piece));
		assert_true(FEEDS("^login: $", "boot\nlogin: ", piece)); /* a prompt has no end */
		assert_false(FEEDS("a.*b", "a\nb\n", piece));
		assert_true(FEEDS("b", "a\0b\n", piece));
	}
	assert_false(FEEDS("^y$", "x", 1));
	assert_false(FEEDS("^$", "", 1));
	memset(flood, 'a', sizeof flood);
	memcpy(flood + sizeof flood - 6, "\nready", 6);
	clock_t begun = clock(); /* processor time: other work on the machine doesn't count */
	assert_true(feeds("^ready$", flood, sizeof flood, sizeof flood));
	assert_false(feeds("(a|aa)*(a|b)*(x|y)*Z", flood, sizeof flood, sizeof flood));
	assert_true(clock() - begun < 5 * CLOCKS_PER_SEC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_word),
		cmocka_unit_test(wrong_words),
		cmocka_unit_test(urls),
		cmocka_unit_test(patterns),
		cmocka_unit_test(lines),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
