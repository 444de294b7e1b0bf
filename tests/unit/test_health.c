/* What the answers to health checks add up to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/engine/health.h"

/* A story: '+' a good answer, '-' a bad one, 'e' a bad one in the start period. After each the status is that of `ends`: s, h
 * or u. */
static void tell(const char *story, const char *ends, uint32_t retries)
{
	struct vm_health h = {.status = HEALTH_STARTING};

	assert_int_equal(strlen(story), strlen(ends));
	for (size_t i = 0; story[i]; i++) {
		enum health before = h.status;
		bool changed = health_count(&h, story[i] == '+', story[i] == 'e', retries);
		if (health_names[h.status][0] != ends[i])
			fail_msg("%s, answer %zu: %s", story, i, health_names[h.status]);
		assert_int_equal(changed, h.status != before);
		if (story[i] == '+')
			assert_int_equal(h.failing, 0);
	}
}

static void stories(void **unused)
{
	(void)unused;
	tell("+", "h", 3);
	tell("---", "ssu", 3);
	tell("-", "u", 1);
	tell("--+--+---", "sshhhhhhu", 3);
	tell("---+-", "ssuhh", 3);
	tell("-----", "ssuuu", 3);
	tell("eeee--", "ssssss", 3);
	tell("eeee---", "ssssssu", 3);
	tell("e+ee", "shhu", 2); /* the start is over with the first good one */
	tell("-+-", "uhu", 1);
}

static void failures_are_counted(void **unused)
{
	struct vm_health h = {.status = HEALTH_STARTING};

	(void)unused;
	for (uint32_t i = 1; i <= 10; i++) {
		health_count(&h, false, false, 3);
		assert_int_equal(h.failing, i);
	}
	h.failing = UINT32_MAX;
	assert_false(health_count(&h, false, false, 3));
	assert_int_equal(h.failing, UINT32_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stories),
		cmocka_unit_test(failures_are_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
