/* daemon/shim/lastword, halt: what a kernel says last, and when a guest has halted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/shim/halt.h"
#include "daemon/shim/lastword.h"

#define HALTED "[    8.274077] reboot: System halted"

static enum last_word word(const char *text)
{
	return last_word(text, strlen(text));
}

static void test_words(void **state)
{
	const char *whole = "# " HALTED "\r\n";

	(void)state;
	assert_int_equal(word(whole), WORD_HALTED);
	assert_int_equal(word("a\n[    1.5] reboot: Power down\n"), WORD_POWER_OFF);
	assert_int_equal(word("[    1.5] reboot: Restarting system"), WORD_RESTART);
	assert_int_equal(word("[    1.5] reboot: Restarting system\r\n[    1.6] reboot: machine restart\r\n"),
		WORD_RESTART);
	assert_int_equal(word(""), WORD_NONE);
	assert_int_equal(word("\r\n\n"), WORD_NONE);
	assert_int_equal(word("reboot: System halted\n"), WORD_NONE);
	assert_int_equal(word(HALTED "\n# "), WORD_NONE);
	assert_int_equal(word(HALTED ".\n"), WORD_NONE);
	for (size_t n = 0; n < strlen(HALTED); n++)
		assert_int_equal(last_word(HALTED, n), WORD_NONE);
}

static void say(struct halt *h, const char *text)
{
	halt_output(h, text, strlen(text));
}

static void test_two_looks_without_work(void **state)
{
	struct halt h = {0};

	(void)state;
	assert_int_equal(halt_patience_ms(&h), -1);
	assert_false(halt_look(&h, 5));
	say(&h, HALTED "\r\n");
	assert_true(halt_patience_ms(&h) > 0);
	assert_false(halt_look(&h, 1000000000));
	assert_false(halt_look(&h, 1010000000)); /* it works */
	assert_true(halt_look(&h, 1010001000));
}

static void test_output_begins_anew(void **state)
{
	struct halt h = {0};

	(void)state;
	say(&h, HALTED);
	assert_false(halt_look(&h, 7));
	say(&h, "\r\n");
	assert_false(halt_look(&h, 7));
	say(&h, "# ");
	assert_int_equal(halt_patience_ms(&h), -1);
	assert_false(halt_look(&h, 7));
}

static void test_pieces(void **state)
{
	struct halt h = {0};
	char much[300];

	(void)state;
	memset(much, 'x', sizeof much);
	for (size_t before = 0; before < sizeof much; before += 13) {
		halt_output(&h, much, before);
		for (const char *s = HALTED; *s; s++)
			halt_output(&h, s, 1);
		assert_true(halt_patience_ms(&h) > 0);
	}
	memcpy(much + sizeof much - strlen(HALTED), HALTED, strlen(HALTED));
	halt_output(&h, much, sizeof much);
	assert_true(halt_patience_ms(&h) > 0);
	assert_int_equal(h.n, sizeof h.end);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_words),
		cmocka_unit_test(test_two_looks_without_work),
		cmocka_unit_test(test_output_begins_anew),
		cmocka_unit_test(test_pieces),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
