/*
 * Which VMs a list shows.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "common/core/util.h"
#include "daemon/engine/filter.h"

static struct vm_view web(void)
{
	struct vm_view v = {.name = "web-1", .state = VM_RUNNING};

	strv_add(&v.spec.labels, "team=red");
	strv_add(&v.spec.labels, "tier=");
	return v;
}

/* One condition or two: "key", "value", ... */
static bool fits(const char *key, const char *value, const char *key2, const char *value2)
{
	struct vm_view v = web();
	struct vm_filter f = {0};
	struct fcm_error err;

	assert_int_equal(vm_filter_add(&f, key, value, &err), 0);
	if (key2)
		assert_int_equal(vm_filter_add(&f, key2, value2, &err), 0);
	assert_false(vm_filter_empty(&f));
	bool yes = vm_filter_fits(&f, &v);
	strv_done(&v.spec.labels);
	return yes;
}

static void one_condition(void **unused)
{
	static const struct {
		const char *key, *value;
		bool fits;
	} cases[] = {
		{"state", "running", true},
		{"state", "stopped", false},
		{"state", "stopped,running", true},
		{"state", "stopped,failed", false},
		{"name", "web-1", true},
		{"name", "web-*", true},
		{"name", "web-[0-9]", true},
		{"name", "?eb*", true},
		{"name", "web", false},
		{"name", "WEB-1", false},
		{"label", "team", true},
		{"label", "team=red", true},
		{"label", "team=re", false},
		{"label", "team=", false},
		{"label", "tea", false},
		{"label", "tier=", true},
		{"label", "tier", true},
		{"label", "none", false},
	};

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		if (fits(cases[i].key, cases[i].value, NULL, NULL) != cases[i].fits)
			fail_msg("%s=%s", cases[i].key, cases[i].value);
}

static void all_must_hold(void **unused)
{
	(void)unused;
	assert_true(fits("label", "team=red", "label", "tier"));
	assert_false(fits("label", "team=red", "label", "none"));
	assert_false(fits("name", "web-*", "state", "stopped"));
}

static void nothing_fits_all(void **unused)
{
	struct vm_view v = {.state = VM_FAILED};
	const struct vm_filter f = {0};

	(void)unused;
	assert_true(vm_filter_empty(&f) && vm_filter_fits(&f, &v));
}

/* What a token sees is one more condition, of all VMs and of those that a filter fits. */
static void what_a_token_sees(void **unused)
{
	_cleanup_(strv_done) struct strv red = {0}, reds = {0};
	strv_add(&red, "a=b");
	strv_add(&red, "team=red");
	strv_add(&reds, "team=reds");
	const struct vm_view v = {.state = VM_RUNNING, .spec.labels = red};
	const struct vm_view other = {.state = VM_RUNNING, .spec.labels = reds}, none = {.state = VM_RUNNING};
	struct vm_filter f = {.only = "team=red"};

	(void)unused;
	assert_false(vm_filter_empty(&f));
	assert_true(vm_filter_fits(&f, &v));
	assert_false(vm_filter_fits(&f, &other) || vm_filter_fits(&f, &none));
	f.states = 1u << VM_STOPPED;
	assert_false(vm_filter_fits(&f, &v));
	assert_true(labels_have(&none.spec.labels, NULL) && labels_have(&v.spec.labels, "team"));
}

static void what_is_refused(void **unused)
{
	static const char *const bad[][2] = {{"state", ""}, {"state", "asleep"}, {"state", "running,"},
		{"state", ",running"}, {"state", "runnin"}, {"name", ""}, {"label", ""}, {"label", "=x"},
		{"id", "x"}, {"", "x"}};
	char longest[FILTER_NAME_MAX + 2];
	struct fcm_error err;

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct vm_filter f = {0};
		err.code = FCM_OK;
		if (vm_filter_add(&f, bad[i][0], bad[i][1], &err) == 0 || err.code != FCM_INVALID)
			fail_msg("%s=%s is taken", bad[i][0], bad[i][1]);
	}
	struct vm_filter f = {0};
	memset(longest, '*', sizeof longest - 1);
	longest[sizeof longest - 1] = '\0';
	assert_int_equal(vm_filter_add(&f, "name", longest, &err), -1);
	assert_int_equal(vm_filter_add(&f, "name", "a", &err), 0);
	assert_int_equal(vm_filter_add(&f, "name", "b", &err), -1);
	for (int i = 0; i < FILTER_LABELS; i++)
		assert_int_equal(vm_filter_add(&f, "label", "a", &err), 0);
	assert_int_equal(vm_filter_add(&f, "label", "a", &err), -1);
}

/* A pattern may have as many stars as it likes. */
static void no_pattern_takes_long(void **unused)
{
	struct vm_view v = {.state = VM_RUNNING};
	char pattern[FILTER_NAME_MAX + 1];
	struct vm_filter f = {.name = pattern};

	(void)unused;
	memset(v.name, 'a', sizeof v.name - 1);
	for (size_t i = 0; i < sizeof pattern - 1; i++)
		pattern[i] = i % 2 ? 'a' : '*';
	pattern[sizeof pattern - 2] = 'b';
	pattern[sizeof pattern - 1] = '\0';
	int64_t begun = clock_ms();
	assert_false(vm_filter_fits(&f, &v));
	assert_true(clock_ms() - begun < 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_condition),
		cmocka_unit_test(all_must_hold),
		cmocka_unit_test(nothing_fits_all),
		cmocka_unit_test(what_a_token_sees),
		cmocka_unit_test(what_is_refused),
		cmocka_unit_test(no_pattern_takes_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
