/* What VMs use: the texts that it is read from, and the answers of guests. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "common/core/kv.h"
#include "daemon/guest/stats.h"
#include "daemon/proc/usage.h"
#include "images/agent/stats.h"

static void test_line_number(void **state)
{
	(void)state;
	static const char text[] =
		"Rss:                1234 kB\nPss:\t 5 kB\nPss_Dirty:  7 kB\nNone: kB\nLess: -3\n"
		"Big: 99999999999999999999\n Indented: 4\nLast: 8";

	assert_int_equal(fcm_line_number(text, "Rss:"), 1234);
	assert_int_equal(fcm_line_number(text, "Pss:"), 5);
	assert_int_equal(fcm_line_number(text, "Pss_Dirty:"), 7);
	assert_int_equal(fcm_line_number(text, "Last:"), 8);
	assert_int_equal(fcm_line_number(text, "None:"), -1);
	assert_int_equal(fcm_line_number(text, "Less:"), -1);
	assert_int_equal(fcm_line_number(text, "Big:"), -1);
	assert_int_equal(fcm_line_number(text, "Indented:"), -1);
	assert_int_equal(fcm_line_number(text, "ss:"), -1);
	assert_int_equal(fcm_line_number("", "Rss:"), -1);
	assert_int_equal(fcm_line_number("\n\n", "Rss:"), -1);
	assert_int_equal(fcm_line_number("user_usec 1\nusage_usec 42\n", "usage_usec"), 42);
}

static void test_stat(void **state)
{
	(void)state;
	struct proc_stat s;

	assert_true(
		proc_stat_parse("42 (a) R 5) S 1 2 3 4 5 6 7 8 9 10 300 45 9 9 20 0 7 0 123456 1 2 3\n", &s));
	assert_int_equal(s.cpu_ticks, 345);
	assert_int_equal(s.threads, 7);
	assert_int_equal(s.start_ticks, 123456);
	assert_false(proc_stat_parse("", &s));
	assert_false(proc_stat_parse("42 (a)", &s));
	assert_false(proc_stat_parse("42 (a) S 1 2 3 4 5 6 7 8 9 10 300 45 9 9 20 0 7 0", &s));
	assert_false(proc_stat_parse("42 a S 1 2 3 4 5 6 7 8 9 10 300 45 9 9 20 0 7 0 123456", &s));
	assert_false(proc_stat_parse("42 (a) S 1 2 3 4 5 6 7 8 9 10 x 45 9 9 20 0 7 0 123456", &s));
	assert_false(proc_stat_parse(
		"42 (a) S 1 2 3 4 5 6 7 8 9 10 9223372036854775807 45 9 9 20 0 7 0 123456", &s));
	assert_false(proc_stat_parse("42 (a) S 1 2 3 4 5 6 7 8 9 10 1 45 9 9 20 0 -7 0 123456", &s));
}

static void test_of_this_process(void **state)
{
	(void)state;
	enum { SIZE = 8 << 20 };
	struct proc_usage before, after;
	struct proc_id id;
	struct fcm_error err;

	assert_int_equal(proc_identify(getpid(), &id, &err), 0);
	assert_true(proc_usage_read(&id, &before));
	char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	memset(p, 1, SIZE);
	do
		assert_true(proc_usage_read(&id, &after));
	while (after.cpu_us == before.cpu_us);
	assert_true(after.rss >= before.rss + SIZE / 2);
	assert_true(after.pss >= before.pss + SIZE / 2);
	assert_true(after.pss <= after.rss);
	assert_true(after.cpu_us > before.cpu_us);
	assert_true(after.age_ms >= before.age_ms && after.age_ms < 600000);
	assert_int_equal(after.threads, 1);
	munmap(p, SIZE);

	struct proc_id other = id;
	other.start_ticks++;
	assert_false(proc_usage_read(&other, &after));
	other = id;
	other.boot_id[0] = other.boot_id[0] == '0' ? '1' : '0';
	assert_false(proc_usage_read(&other, &after));
	other = id;
	other.pid = 0;
	assert_false(proc_usage_read(&other, &after));
}

static void test_load(void **state)
{
	(void)state;
	assert_int_equal(stats_load("0.00 0.01 0.05 1/123 4567\n"), 0);
	assert_int_equal(stats_load("0.12 0.01"), 12);
	assert_int_equal(stats_load("123.45"), 12345);
	assert_int_equal(stats_load(""), -1);
	assert_int_equal(stats_load(".12"), -1);
	assert_int_equal(stats_load("1"), -1);
	assert_int_equal(stats_load("1.2"), -1);
	assert_int_equal(stats_load("-1.20"), -1);
	assert_int_equal(stats_load("99999999999999999999999.00"), -1);
}

/* What the agent says is what the daemon understands. */
static void test_there_and_back(void **state)
{
	(void)state;
	_cleanup_(buf_done) struct buf b = {0};
	struct guest_stats s;
	struct fcm_error err;

	assert_int_equal(stats_report(&b, &err), 0);
	guest_stats_parse(b.p, b.n, &s);
	assert_true(s.memory > 0 && s.available >= 0 && s.available <= s.memory);
	assert_true(s.load >= 0);
	assert_true(s.disk > 0 && s.disk_used >= 0 && s.disk_used <= s.disk);
}

#define PARSE(text) guest_stats_parse(text, sizeof(text) - 1, &s)

static void test_hostile_answers(void **state)
{
	(void)state;
	struct guest_stats s;

	PARSE("memory=100\0available=50\0load=12\0disk=10\0disk_used=10\0");
	assert_int_equal(s.memory, 100);
	assert_int_equal(s.available, 50);
	assert_int_equal(s.load, 12);
	assert_int_equal(s.disk, 10);
	assert_int_equal(s.disk_used, 10);
	PARSE("");
	assert_true(s.memory == -1 && s.available == -1 && s.load == -1 && s.disk == -1 && s.disk_used == -1);
	PARSE("memory=-5\0available=50\0load=-1\0disk=0\0disk_used=7\0");
	assert_true(s.memory == -1 && s.available == -1 && s.load == -1 && s.disk == -1 && s.disk_used == -1);
	PARSE("memory=100\0available=101\0load=999999999999\0disk=5\0disk_used=6\0");
	assert_true(s.memory == 100 && s.available == -1 && s.load == -1 && s.disk == 5 && s.disk_used == -1);
	PARSE("memory=9223372036854775807\0available=1x\0load= 3\0disk=5");
	assert_true(s.memory == -1 && s.available == -1 && s.load == -1 && s.disk == -1 && s.disk_used == -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_line_number),
		cmocka_unit_test(test_stat),
		cmocka_unit_test(test_of_this_process),
		cmocka_unit_test(test_load),
		cmocka_unit_test(test_there_and_back),
		cmocka_unit_test(test_hostile_answers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
