/* daemon/proc: identity against pid reuse, spawning with colliding descriptors, running with bounds. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "daemon/proc/proc.h"

static struct fcm_error err;

#define SLEEPER PROC_ARGV("/bin/sleep", "60")

static void end(int pidfd)
{
	assert_int_equal(proc_signal(pidfd, SIGKILL, &err), 0);
	assert_true(proc_wait(pidfd, clock_in(5000)));
	close(pidfd);
}

static void test_identity(void **state)
{
	(void)state;
	struct proc_id id, other;
	pid_t pid;

	int pidfd = proc_spawn(SLEEPER, NULL, NULL, 0, &pid, &err);
	assert_true(pidfd >= 0);
	assert_int_equal(proc_identify(pid, &id, &err), 0);
	assert_int_equal(id.pid, pid);
	assert_true(id.start_ticks > 0);
	assert_string_equal(id.boot_id, proc_boot_id());
	assert_int_equal(strlen(id.boot_id), 36);

	int again = proc_open(&id, &err);
	assert_true(again >= 0);
	close(again);

	other = id;
	other.start_ticks++;
	assert_int_equal(proc_open(&other, &err), -1);
	assert_int_equal(err.code, FCM_NOT_FOUND);
	assert_non_null(strstr(err.msg, "another process"));

	other = id;
	other.boot_id[0] = other.boot_id[0] == '0' ? '1' : '0';
	assert_int_equal(proc_open(&other, &err), -1);
	assert_non_null(strstr(err.msg, "another boot"));

	end(pidfd);
	assert_int_equal(proc_open(&id, &err), -1);
	assert_int_equal(err.code, FCM_NOT_FOUND);
	assert_int_equal(proc_identify(0, &id, &err), -1);
	assert_int_equal(proc_identify(-1, &id, &err), -1);
}

/* A zombie holds its pid but runs nothing. */
static void test_zombie_is_gone(void **state)
{
	(void)state;
	char *const *argv = PROC_ARGV("/bin/true");
	struct proc_id id;
	pid_t pid;

	int pidfd = proc_spawn(argv, NULL, NULL, 0, &pid, &err);
	char path[64], text[512] = "";
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	for (int64_t until = clock_in(5000); clock_left(until) && !strstr(text, ") Z"); clock_sleep(2)) {
		FILE *f = fopen(path, "re");
		assert_non_null(f);
		assert_non_null(fgets(text, sizeof text, f));
		fclose(f);
	}
	assert_int_equal(proc_identify(pid, &id, &err), -1);
	assert_int_equal(err.code, FCM_NOT_FOUND);
	assert_true(proc_wait(pidfd, clock_in(5000)));
	close(pidfd);
}

/* The command's own name must not move the fields behind it. */
static void test_evil_name(void **state)
{
	(void)state;
	char dir[] = "/tmp/proc-XXXXXX", path[64];
	struct proc_id id, plain;
	pid_t pid, me = getpid();

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/a) Z 1 (b", dir);
	assert_int_equal(symlink("/bin/sleep", path), 0);
	char *const *argv = PROC_ARGV(path, "60");
	int pidfd = proc_spawn(argv, NULL, NULL, 0, &pid, &err);
	assert_true(pidfd >= 0);
	assert_int_equal(proc_identify(pid, &id, &err), 0);
	assert_int_equal(proc_identify(me, &plain, &err), 0);
	assert_true(id.start_ticks >= plain.start_ticks);
	end(pidfd);
	unlink(path);
	rmdir(dir);
}

static void test_wait_deadline(void **state)
{
	(void)state;
	pid_t pid;
	int pidfd = proc_spawn(SLEEPER, NULL, NULL, 0, &pid, &err);
	int64_t t = clock_ms();

	assert_false(proc_wait(pidfd, clock_in(50)));
	assert_in_range(clock_ms() - t, 45, 2000);
	end(pidfd);
}

/* Run a shell that gets `fds`; its output. */
static char *spawn_output(const char *script, struct proc_fd *fds, size_t n)
{
	char *const *argv = PROC_ARGV("/bin/sh", "-c", script);
	static char text[4096];
	int ends[2];
	pid_t pid;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	fds[n] = (struct proc_fd){ends[1], 1};
	int pidfd = proc_spawn(argv, NULL, fds, n + 1, &pid, &err);
	assert_true(pidfd >= 0);
	close(ends[1]);
	size_t got = 0;
	ssize_t k;
	while ((k = read(ends[0], text + got, sizeof text - 1 - got)) > 0)
		got += (size_t)k;
	text[got] = '\0';
	close(ends[0]);
	assert_true(proc_wait(pidfd, clock_in(5000)));
	close(pidfd);
	return text;
}

/* Two descriptors that want each other's number, and one that keeps its own; nothing else gets through (3 is
 * that of ls itself). */
static void test_fd_collisions(void **state)
{
	(void)state;
	char dir[] = "/tmp/proc-XXXXXX", path[64];
	struct proc_fd fds[4];
	int fd[3];

	assert_non_null(mkdtemp(dir));
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof path, "%s/%d", dir, i);
		int low = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		fd[i] = fcntl(low, F_DUPFD_CLOEXEC, 20);
		close(low);
		assert_int_equal(write(fd[i], (char[]){(char)('a' + i), '\n'}, 2), 2);
		lseek(fd[i], 0, SEEK_SET);
		unlink(path);
	}
	rmdir(dir);
	fds[0] = (struct proc_fd){fd[0], fd[1]};
	fds[1] = (struct proc_fd){fd[1], fd[0]};
	fds[2] = (struct proc_fd){fd[2], fd[2]};
	char script[256];
	snprintf(script, sizeof script,
		"cat /proc/self/fd/%d /proc/self/fd/%d /proc/self/fd/%d; exec ls /proc/self/fd | tr '\\n' ' "
		"'",
		fd[1], fd[0], fd[2]);
	char want[64];
	snprintf(want, sizeof want, "a\nb\nc\n0 1 2 %d %d %d 3 ", fd[0], fd[1], fd[2]);
	assert_string_equal(spawn_output(script, fds, 3), want);
	for (int i = 0; i < 3; i++)
		close(fd[i]);
}

static void test_spawn_is_clean(void **state)
{
	(void)state;
	struct proc_fd fds[1];

	signal(SIGUSR1, SIG_IGN);
	sigset_t mask;
	sigemptyset(&mask);
	sigaddset(&mask, SIGTERM);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	char *text = spawn_output("env | grep -v -e PWD -e SHLVL -e '^_='; grep ^SigBlk: /proc/self/status; "
				  "echo $((0x$(sed -n 's/^SigIgn:.//p' /proc/self/status) & 0x200)); "
				  "readlink /proc/$$/fd/0; test $(ps -o sid= -p $$) = $$ && echo leader",
		fds, 0);
	sigprocmask(SIG_UNBLOCK, &mask, NULL);
	signal(SIGUSR1, SIG_DFL);
	assert_string_equal(text, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
				  "SigBlk:\t0000000000000000\n0\n/dev/null\nleader\n");
}

static void test_spawn_missing(void **state)
{
	(void)state;
	char *const *argv = PROC_ARGV("/nonexistent/program");
	pid_t pid;

	assert_int_equal(proc_spawn(argv, NULL, NULL, 0, &pid, &err), -1);
	assert_non_null(strstr(err.msg, "/nonexistent/program"));
}

static int run(const char *script, const char *input, size_t max, int64_t deadline, struct buf *out)
{
	char *const *argv = PROC_ARGV("/bin/sh", "-c", script);
	struct proc_run r = {.argv = argv,
		.input = input,
		.input_n = input ? strlen(input) : 0,
		.output_max = max,
		.deadline = deadline};

	return proc_run(&r, out, &err);
}

static void test_run_output(void **state)
{
	(void)state;
	_cleanup_(buf_done) struct buf out = {0}, none = {0};

	assert_int_equal(run("cat; echo two >&2", "one\n", 100, 0, &out), 0);
	assert_string_equal(out.p, "one\ntwo\n");
	assert_int_equal(run("true", NULL, 0, 0, &none), 0);
	assert_string_equal(none.p, "");
	assert_int_equal(run("echo lost", NULL, 0, 0, NULL), 0);
}

static void test_run_bounded(void **state)
{
	(void)state;
	_cleanup_(buf_done) struct buf out = {0};

	assert_int_equal(run("head -c 3000000 /dev/zero | tr '\\0' x", NULL, 1000, clock_in(20000), &out), 0);
	assert_int_equal(out.n, 1000);
}

/* A program that reads nothing of a large input harms nobody. */
static void test_run_unread_input(void **state)
{
	(void)state;
	char *big = xalloc(4 << 20);

	memset(big, 'x', (4 << 20) - 1);
	assert_int_equal(run("exit 0", big, 0, clock_in(20000), NULL), 0);
	free(big);
}

static void test_run_failure(void **state)
{
	(void)state;
	_cleanup_(buf_done) struct buf out = {0};

	assert_int_equal(
		run("echo first; printf 'the \\033[1mreason\\n\\n'; exit 3", NULL, 100, 0, &out), -1);
	assert_int_equal(err.code, FCM_HOST);
	assert_string_equal(err.msg, "sh failed with status 3: the ?[1mreason");
	assert_int_equal(out.n, 0);
	assert_int_equal(run("kill -9 $$", NULL, 100, 0, NULL), -1);
	assert_string_equal(err.msg, "sh was killed by signal 9");
}

static void test_run_timeout(void **state)
{
	(void)state;
	int64_t t = clock_ms();

	assert_int_equal(run("sleep 60", NULL, 0, clock_in(100), NULL), -1);
	assert_int_equal(err.code, FCM_TIMEOUT);
	assert_in_range(clock_ms() - t, 90, 5000);
}

/* A grandchild that keeps the pipe open neither holds us up nor stays. */
static void test_run_leaves_nobody(void **state)
{
	(void)state;
	_cleanup_(buf_done) struct buf out = {0};
	int64_t t = clock_ms();
	int64_t pid;

	assert_int_equal(run("sleep 60 & echo $!", NULL, 100, clock_in(20000), &out), 0);
	assert_in_range(clock_ms() - t, 0, 5000);
	out.p[strcspn(out.p, "\n")] = '\0';
	assert_true(fcm_parse_i64(out.p, 1, INT32_MAX, &pid));
	struct proc_id id;
	for (int64_t until = clock_in(5000); clock_left(until); clock_sleep(5))
		if (proc_identify((pid_t)pid, &id, &err) < 0)
			return;
	fail_msg("the grandchild lives");
}

static void test_run_as_user(void **state)
{
	(void)state;
	_cleanup_(buf_done) struct buf out = {0};
	char *const *argv = PROC_ARGV("/usr/bin/id");
	struct proc_run r = {.argv = argv, .uid = 64999, .gid = 64998};

	if (geteuid() != 0)
		skip();
	assert_int_equal(proc_run(&r, &out, &err), 0);
	assert_string_equal(out.p, "uid=64999 gid=64998 groups=64998\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_identity),
		cmocka_unit_test(test_zombie_is_gone),
		cmocka_unit_test(test_evil_name),
		cmocka_unit_test(test_wait_deadline),
		cmocka_unit_test(test_fd_collisions),
		cmocka_unit_test(test_spawn_is_clean),
		cmocka_unit_test(test_spawn_missing),
		cmocka_unit_test(test_run_output),
		cmocka_unit_test(test_run_bounded),
		cmocka_unit_test(test_run_unread_input),
		cmocka_unit_test(test_run_failure),
		cmocka_unit_test(test_run_timeout),
		cmocka_unit_test(test_run_leaves_nobody),
		cmocka_unit_test(test_run_as_user),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
