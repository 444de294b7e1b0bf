/* What a job of fcm-oci that has a network can't do to others of its uid, and what it can. Needs root. */
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "daemon/oci/sandbox.h"

enum { UID = 64125 };

static siginfo_t info = {.si_code = SI_QUEUE};
static pid_t other;
static int other_pidfd;

/* Another process of that uid, which stands still. */
static int begin(void **state)
{
	int status;

	(void)state;
	other = fork();
	if (other == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (setresuid(UID, UID, UID) == 0)
			raise(SIGSTOP);
		_exit(1);
	}
	other_pidfd = (int)syscall(SYS_pidfd_open, other, 0);
	return waitpid(other, &status, WUNTRACED) == other && WIFSTOPPED(status) && other_pidfd >= 0 ? 0 : -1;
}

static int end(void **state)
{
	(void)state;
	kill(other, SIGKILL);
	close(other_pidfd);
	return waitpid(other, NULL, 0) == other ? 0 : -1;
}

/* How a child ends that is of that uid, with the sandbox or without. */
static int status_of(bool sandboxed, int (*work)(void))
{
	struct fcm_error err = {0};
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		int r = sandboxed ? sandbox_enter(UID, true, &err) : setresuid(UID, UID, UID);
		if (r < 0)
			fprintf(stderr, "%s\n", err.msg);
		_exit(r < 0 ? 99 : work());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

/* ---- signals ---- */

static long signal_other(int way)
{
	switch (way) {
	case 0:
		return kill(other, 0);
	case 1:
		return syscall(SYS_tkill, other, 0);
	case 2:
		return syscall(SYS_tgkill, other, other, 0);
	case 3:
		return syscall(SYS_rt_sigqueueinfo, other, 0, &info);
	case 4:
		return syscall(SYS_rt_tgsigqueueinfo, other, other, 0, &info);
	default:
		return syscall(SYS_pidfd_send_signal, other_pidfd, 0, NULL, 0);
	}
}

/* A bit for each way that works. */
static int signal_ways(void)
{
	int ways = 0;

	for (int i = 0; i < 6; i++)
		ways |= signal_other(i) == 0 ? 1 << i : errno == EPERM ? 0 : 1 << 7;
	return ways;
}

static void test_signals(void **state)
{
	(void)state;
	assert_int_equal(WEXITSTATUS(status_of(false, signal_ways)), 0x3f);
	assert_int_equal(WEXITSTATUS(status_of(true, signal_ways)), 0);
}

static int end_by_abort(void)
{
	abort();
}

static void test_abort(void **state)
{
	int status = status_of(true, end_by_abort);

	(void)state;
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* ---- processes, namespaces ---- */

static bool makes_process(long flags)
{
	long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);

	if (pid == 0)
		_exit(0);
	return pid > 0;
}

static int process_ways(void)
{
	int ways = makes_process(0) | makes_process(CLONE_NEWUSER) << 1 | makes_process(CLONE_NEWUTS) << 2;
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	ways |= (pid > 0) << 3;
	if (syscall(SYS_clone3, NULL, 0) >= 0 || errno != ENOSYS)
		ways |= 1 << 4;
	if (syscall(SYS_clone, CLONE_VM | CLONE_SIGHAND | CLONE_THREAD | CLONE_NEWUSER, 0, 0, 0, 0) >= 0)
		ways |= 1 << 5;
	return ways;
}

static void test_processes(void **state)
{
	(void)state;
	assert_true(WEXITSTATUS(status_of(false, process_ways)) & 1);
	assert_int_equal(WEXITSTATUS(status_of(true, process_ways)), 0);
}

/* ---- what libcurl does ---- */

static void *resolve(void *arg)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST}, *list = NULL;

	(void)arg;
	bool good = getaddrinfo("127.0.0.1", "443", &hints, &list) == 0;
	freeaddrinfo(list);
	return good ? &info : NULL;
}

static int use_thread(void)
{
	pthread_t thread;
	void *got = NULL;

	return pthread_create(&thread, NULL, resolve, NULL) != 0 || pthread_join(thread, &got) != 0 ||
	       got == NULL;
}

static void test_threads(void **state)
{
	(void)state;
	assert_int_equal(status_of(true, use_thread), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_signals),
		cmocka_unit_test(test_abort),
		cmocka_unit_test(test_processes),
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, begin, end);
}
