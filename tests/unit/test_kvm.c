/* The probe of KVM: its limits, on an idle host and on a busy one. Where /dev/kvm works it never comes to them. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "common/core/util.h"
#include "daemon/vmm/kvm.h"

enum {
	LONG_MS = 60000, /* a limit that isn't reached */
	LOAD_MS = 3000,
	HOGS_A_CPU = 2,
	HOGS_MAX = 64,
};

static struct kvm_probe probe;

/* Probe /dev/kvm; how long it took. */
static int64_t take(int cpu_ms, int wall_ms)
{
	int64_t t = clock_ms();

	kvm_probe("/dev/kvm", cpu_ms, wall_ms, &probe);
	t = clock_ms() - t;
	print_message("%s (%.0f ms of processor time in %d ms)\n", probe.reason, probe.spent_ms, (int)t);
	return t;
}

/* A KVM that opens, and emulates each instruction, is the one that limits are for. */
static void need_crawling(void)
{
	if (access("/dev/kvm", R_OK | W_OK) < 0)
		skip();
	take(KVM_CPU_MS, KVM_WALL_MS);
	if (probe.usable)
		skip();
}

static void test_none(void **state)
{
	(void)state;
	static const char *const none[] = {"/nonexistent", "/dev/null", "/etc"};

	for (size_t i = 0; i < ARRAY_SIZE(none); i++) {
		kvm_probe(none[i], KVM_CPU_MS, KVM_WALL_MS, &probe);
		assert_false(probe.usable);
		assert_non_null(strstr(probe.reason, "no usable KVM: "));
	}
}

/* Whatever the machine: an answer, and a reason. */
static void test_any(void **state)
{
	(void)state;
	int64_t t = take(KVM_CPU_MS, KVM_WALL_MS);

	assert_in_range(t, 0, KVM_WALL_MS + 500);
	assert_true(probe.reason[0]);
	assert_true(probe.native_ms > 0);
	assert_true(!probe.usable || probe.guest_ms > 0);
}

/* KVM_RUN, in the middle of its million rounds, is interrupted when either limit is reached. */
static void test_limits(void **state)
{
	(void)state;
	need_crawling();
	int64_t t = take(100, LONG_MS);
	assert_in_range(probe.spent_ms, 100, 300);
	assert_in_range(t, 100, 3000);
	assert_false(probe.usable);
	t = take(LONG_MS, 150);
	assert_in_range(t, 150, 700);
	assert_true(probe.spent_ms < 300);
	assert_false(probe.usable);
}

static atomic_bool stop;

static void *hog(void *arg)
{
	for (int64_t until = clock_in(LOAD_MS); !atomic_load(&stop) && clock_left(until);)
		;
	return arg;
}

/* On a busy host the probe gets the processor time that it needs for a judgement, however long that takes. */
static void test_busy_host(void **state)
{
	(void)state;
	pthread_t hogs[HOGS_MAX];
	size_t n = MIN((size_t)sysconf(_SC_NPROCESSORS_ONLN) * HOGS_A_CPU, (size_t)HOGS_MAX);

	need_crawling();
	for (size_t i = 0; i < n; i++)
		assert_int_equal(pthread_create(&hogs[i], NULL, hog, NULL), 0);
	int64_t t = take(300, LONG_MS);
	atomic_store(&stop, true);
	for (size_t i = 0; i < n; i++)
		pthread_join(hogs[i], NULL);
	assert_in_range(probe.spent_ms, 300, 600);
	assert_true(t > 400); /* a third of two processors is its share: 450 ms and more */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_none),
		cmocka_unit_test(test_any),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_busy_host),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
