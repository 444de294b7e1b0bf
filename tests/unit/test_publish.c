/*
 * Published ports as text.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "common/core/publish.h"

static const struct {
	const char *text, *first, *last; /* as written back; NULL: refused */
	size_t n;
} cases[] = {
	{"80", "0:80/tcp", "0:80/tcp", 1},
	{"8080:80", "8080:80/tcp", "8080:80/tcp", 1},
	{"0:80", "0:80/tcp", "0:80/tcp", 1},
	{":80", "0:80/tcp", "0:80/tcp", 1},
	{"127.0.0.1::80", "127.0.0.1:0:80/tcp", "127.0.0.1:0:80/tcp", 1},
	{"0.0.0.0:8080:80/udp", "0.0.0.0:8080:80/udp", "0.0.0.0:8080:80/udp", 1},
	{"255.255.255.255:65535:65535/udp", "255.255.255.255:65535:65535/udp",
		"255.255.255.255:65535:65535/udp", 1},
	{"8000-8063:1-64/udp", "8000:1/udp", "8063:64/udp", 64},
	{"80-81", "0:80/tcp", "0:81/tcp", 2},
	{"8000-8064:1-65", NULL, NULL, 0},
	{"8000-8001:80", NULL, NULL, 0},
	{"8000:80-81", NULL, NULL, 0},
	{"0-1:80-81", NULL, NULL, 0},
	{"", NULL, NULL, 0},
	{":", NULL, NULL, 0},
	{"80/", NULL, NULL, 0},
	{"/tcp", NULL, NULL, 0},
	{"80/tcp/udp", NULL, NULL, 0},
	{"80 ", NULL, NULL, 0},
	{"+80", NULL, NULL, 0},
	{"080:80", "80:80/tcp", "80:80/tcp", 1},
	{"1:2:3:4", NULL, NULL, 0},
	{"1.2.3:80:80", NULL, NULL, 0},
	{"80-", NULL, NULL, 0},
	{"-80", NULL, NULL, 0},
	{"1-2-3:1-2", NULL, NULL, 0},
	{"\033[31m:80", NULL, NULL, 0},
};

static void test_texts(void **state)
{
	struct fcm_error err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct publish_list l = {0};
		int r = publish_add(&l, cases[i].text, "publish", &err);
		if (cases[i].first == NULL) {
			if (r == 0)
				fail_msg("'%s' was taken", cases[i].text);
			assert_int_equal(err.code, FCM_INVALID);
			assert_string_equal(err.field, "publish");
			assert_null(strchr(err.msg, '\033'));
			continue;
		}
		assert_int_equal(r, 0);
		assert_int_equal(l.n, cases[i].n);
		assert_string_equal(publish_text(&l.v[0]).s, cases[i].first);
		assert_string_equal(publish_text(&l.v[l.n - 1]).s, cases[i].last);
	}
}

/* What is written reads again as the same. */
static void test_again(void **state)
{
	struct publish_list l = {0}, m = {0};
	struct fcm_error err;

	(void)state;
	assert_int_equal(publish_add(&l, "10.0.0.1:8000-8009:80-89/udp", "p", &err), 0);
	for (size_t i = 0; i < l.n; i++) {
		assert_int_equal(publish_add(&m, publish_text(&l.v[i]).s, "p", &err), 0);
		assert_true(publish_same(&l.v[i], &m.v[i]));
	}
}

static void test_clashes(void **state)
{
	static const struct {
		const char *one, *two;
		bool clash;
	} pairs[] = {
		{"0.0.0.0:80:1", "127.0.0.1:80:2", true},
		{"10.0.0.1:80:1", "0.0.0.0:80:1", true},
		{"10.0.0.1:80:1", "10.0.0.2:80:1", false},
		{"0.0.0.0:80:1", "0.0.0.0:80:1/udp", false},
		{"0.0.0.0:80:1", "0.0.0.0:81:1", false},
		{"0.0.0.0:0:1", "0.0.0.0:0:1", false},
	};
	struct fcm_error err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		struct publish_list l = {0};
		assert_int_equal(publish_add(&l, pairs[i].one, "p", &err), 0);
		assert_int_equal(publish_add(&l, pairs[i].two, "p", &err), pairs[i].clash ? -1 : 0);
	}
}

static void test_find(void **state)
{
	static const struct {
		const char *text;
		size_t at; /* 3: not found */
	} finds[] = {{"8080", 0}, {"8080:80", 0}, {"0.0.0.0:8080", 0}, {"8080/udp", 1}, {"127.0.0.1:9000", 2},
		{"127.0.0.1:9000:90/tcp", 2}, {"9000", 2}, {"10.0.0.1:9000", 3}, {"8080:81", 3}, {"80", 3}};
	struct publish_list l = {0};
	struct fcm_error err;

	(void)state;
	assert_int_equal(publish_add(&l, "0.0.0.0:8080:80", "p", &err), 0);
	assert_int_equal(publish_add(&l, "0.0.0.0:8080:80/udp", "p", &err), 0);
	assert_int_equal(publish_add(&l, "127.0.0.1:9000:90", "p", &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(finds); i++)
		assert_int_equal(publish_find(&l, finds[i].text, "p", &err), finds[i].at);
	assert_int_equal(err.code, FCM_NOT_FOUND);
	assert_int_equal(publish_find(&l, "80-81", "p", &err), 3);
	assert_int_equal(err.code, FCM_INVALID);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_texts), cmocka_unit_test(test_again),
		cmocka_unit_test(test_clashes), cmocka_unit_test(test_find)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
