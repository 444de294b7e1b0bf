/* The QEMU driver's way to its sockets: late ones, stale ones, and what a VMM might put in their place. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "tests/unit/vmmtest.h"

static struct fcm_error err;

static void *listen_late(void *arg)
{
	struct fcm_error e;

	clock_sleep(100);
	*(int *)arg = unix_listen(vmmtest_run, VMM_AGENT, 0600, 0, &e);
	return NULL;
}

static void test_late(void **state)
{
	(void)state;
	pthread_t thread;
	int listener = -1;

	pthread_create(&thread, NULL, listen_late, &listener);
	int fd = vmm_qemu.channel(vmmtest_run, clock_in(5000), &err);
	pthread_join(thread, NULL);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
	close(listener);
}

static void test_never(void **state)
{
	(void)state;
	int64_t t = clock_ms();

	assert_int_equal(vmm_qemu.channel(vmmtest_run, clock_in(60), &err), -1);
	assert_int_equal(err.code, FCM_TIMEOUT);
	assert_in_range(clock_ms() - t, 50, 2000);
}

/* A socket that nobody listens at any more, and the shim's word that the VMM has ended. */
static void test_ended(void **state)
{
	(void)state;
	struct vmm *vmm;
	int64_t t = clock_ms();

	close(unix_listen(vmmtest_run, VMM_CONTROL, 0600, 0, &err));
	int fd = openat(vmmtest_run, "../../exit", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(vmm_qemu.attach(vmmtest_run, clock_in(50), &vmm, &err), -1);
	assert_int_equal(err.code, FCM_TIMEOUT); /* the record is empty: it may still come */
	assert_int_equal(write(fd, "status=1", 9), 9);
	close(fd);
	assert_int_equal(vmm_qemu.attach(vmmtest_run, clock_in(20000), &vmm, &err), -1);
	assert_int_equal(err.code, FCM_VMM);
	assert_in_range(clock_ms() - t, 0, 5000);
}

static void test_planted(void **state)
{
	(void)state;
	struct vmm *vmm;
	int victim = unix_listen(vmmtest_run, "victim", 0600, SOCK_NONBLOCK, &err);

	assert_true(victim >= 0);
	assert_int_equal(symlinkat("victim", vmmtest_run, VMM_AGENT), 0);
	assert_int_equal(vmm_qemu.channel(vmmtest_run, clock_in(5000), &err), -1);
	assert_int_equal(err.code, FCM_HOST);
	assert_int_equal(accept(victim, NULL, NULL), -1);
	assert_int_equal(mkfifoat(vmmtest_run, VMM_CONTROL, 0600), 0);
	assert_int_equal(vmm_qemu.attach(vmmtest_run, clock_in(5000), &vmm, &err), -1);
	assert_int_equal(err.code, FCM_HOST);
	close(victim);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_late, vmmtest_setup, vmmtest_teardown),
		cmocka_unit_test_setup_teardown(test_never, vmmtest_setup, vmmtest_teardown),
		cmocka_unit_test_setup_teardown(test_ended, vmmtest_setup, vmmtest_teardown),
		cmocka_unit_test_setup_teardown(test_planted, vmmtest_setup, vmmtest_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
