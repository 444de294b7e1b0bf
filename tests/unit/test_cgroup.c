/* daemon/proc/cgroup: a group is made with its limits, found, joined, and removed with all that is in it. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "daemon/proc/cgroup.h"
#include "daemon/proc/proc.h"

static struct fcm_error err;
static const struct vm_id id = {"cgtest01"};

/* In the group that one of these files is in, and where the hierarchy has such a file. */
static void check_limit(const struct strv *procs, const char *file, const char *want)
{
	for (size_t i = 0; i < procs->n; i++) {
		auto_free char *path =
			xprintf("%.*s/%s", (int)(strrchr(procs->v[i], '/') - procs->v[i]), procs->v[i], file);
		_cleanup_(buf_done) struct buf text = {0};
		if (file_read(AT_FDCWD, path, 64, &text, &err) == 0)
			assert_string_equal(text.p, want);
		else
			assert_int_equal(err.code, FCM_NOT_FOUND);
	}
}

/* The parent must have gone with its last VM. */
static void check_nothing_left(const struct strv *procs)
{
	for (size_t i = 0; i < procs->n; i++) {
		*strstr(procs->v[i], "/cgtest01/") = '\0';
		assert_int_equal(access(procs->v[i], F_OK), -1);
	}
}

static void test_life(void **state)
{
	(void)state;
	_cleanup_(strv_done) struct strv procs = {0}, before = {0}, during = {0}, after = {0};
	struct cgroup_limits limits = {.memory_max = 256 << 20, .pids_max = 64};
	pid_t pid;
	char name[32], text[16];

	snprintf(name, sizeof name, "fcm-test-%d", (int)getpid());
	cgroup_init(name);
	if (cgroup_why()[0]) {
		print_message("no cgroups here: %s\n", cgroup_why());
		skip();
	}
	assert_int_equal(cgroup_list(&before, &err), 0);
	assert_int_equal(before.n, 0);
	assert_int_equal(cgroup_make(&id, &limits, &err), 0);
	assert_int_equal(cgroup_make(&id, &limits, &err), 0);
	cgroup_procs(&id, &procs);
	assert_true(procs.n >= 1);
	check_limit(&procs, "memory.max", "268435456\n");
	check_limit(&procs, "memory.swap.max", "268435456\n");
	check_limit(&procs, "memory.limit_in_bytes", "268435456\n");
	check_limit(&procs, "memory.memsw.limit_in_bytes", "536870912\n");
	assert_int_equal(cgroup_list(&during, &err), 0);
	assert_int_equal(during.n, 1);
	assert_string_equal(during.v[0], id.s);

	int pidfd = proc_spawn(PROC_ARGV("/bin/sleep", "60"), NULL, NULL, 0, &pid, &err);
	assert_true(pidfd >= 0);
	snprintf(text, sizeof text, "%d", (int)pid);
	for (size_t i = 0; i < procs.n; i++)
		assert_int_equal(file_poke(procs.v[i], text, &err), 0);

	assert_int_equal(cgroup_remove(&id, &err), 0);
	assert_true(proc_wait(pidfd, clock_in(1000)));
	close(pidfd);
	assert_int_equal(cgroup_remove(&id, &err), 0);
	assert_int_equal(cgroup_list(&after, &err), 0);
	assert_int_equal(after.n, 0);
	check_nothing_left(&procs);
}

/* One VM's end takes the parent away while another one's start makes it. */
static void *make_and_remove(void *arg)
{
	struct cgroup_limits limits = {.pids_max = 64};
	struct fcm_error *e = arg;

	for (int i = 0; i < 300; i++) {
		struct vm_id mine;
		snprintf(mine.s, sizeof mine.s, "t%07u", (unsigned)gettid() % 10000000u);
		if (cgroup_make(&mine, &limits, e) < 0 || cgroup_remove(&mine, e) < 0)
			return arg;
	}
	return NULL;
}

static void test_two_at_once(void **state)
{
	(void)state;
	struct fcm_error errors[2];
	pthread_t threads[2];
	void *failed[2];

	if (cgroup_why()[0])
		skip();
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, make_and_remove, &errors[i]), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], &failed[i]);
	for (int i = 0; i < 2; i++)
		if (failed[i])
			fail_msg("%s", errors[i].msg);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_life), cmocka_unit_test(test_two_at_once)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
