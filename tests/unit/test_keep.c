/* Whose memory is taken when a machine is saved, and what of it is copied. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "daemon/vmm/keep.h"
#include "tests/unit/vmmtest.h"

enum { MIB = 40, PAGE = 4096 };

static const off_t size = (off_t)MIB << 20;
static struct fcm_error err;

static int new_memory(void)
{
	int fd = memfd_create("memory", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	return fd;
}

static void put(int fd, const char *text, off_t at)
{
	assert_int_equal(pwrite(fd, text, strlen(text), at), strlen(text));
}

static int take(int in, int64_t deadline)
{
	return keep_copy((struct keep_ram){.fd = in}, size, vmmtest_run, "memory", deadline, &err);
}

/* The same bytes, and no more of the disk than they need. */
static void test_copy(void **state)
{
	(void)state;
	static const char zeros[PAGE];
	auto_free char *a = xalloc((size_t)size), *b = xalloc((size_t)size);
	struct stat st;

	auto_close int in = new_memory();
	put(in, "begin", 0);
	put(in, "middle", (17 << 20) + 100);
	put(in, "end", size - 3);
	for (int i = 0; i < 1000; i++) /* zeros that are there */
		assert_int_equal(pwrite(in, zeros, PAGE, (20 << 20) + i * PAGE), PAGE);
	assert_int_equal(take(in, clock_in(20000)), 0);
	assert_int_equal(fstatat(vmmtest_run, "memory", &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0444);
	assert_int_equal(st.st_size, size);
	assert_in_range(st.st_blocks * 512, 3 * PAGE, 64 << 10);
	auto_close int out = openat(vmmtest_run, "memory", O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(in, a, (size_t)size, 0), size);
	assert_int_equal(pread(out, b, (size_t)size, 0), size);
	assert_memory_equal(a, b, (size_t)size);

	assert_int_equal(take(in, clock_in(20000)), -1); /* it isn't overwritten */
	assert_int_equal(err.sys, EEXIST);
}

/* Holes alone, and a file that is shorter than was said: what isn't there is zeros. */
static void test_holes(void **state)
{
	(void)state;
	struct stat st;

	auto_close int in = new_memory();
	put(in, "begin", 0);
	assert_int_equal(ftruncate(in, PAGE), 0);
	assert_int_equal(take(in, clock_in(20000)), 0);
	assert_int_equal(fstatat(vmmtest_run, "memory", &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_int_equal(st.st_size, size);
	assert_int_equal(unlinkat(vmmtest_run, "memory", 0), 0);
	assert_int_equal(ftruncate(in, 0), 0);
	assert_int_equal(take(in, clock_in(20000)), 0);
}

static void test_no_copy(void **state)
{
	(void)state;
	auto_close int in = new_memory();
	int pipes[2];

	put(in, "begin", 0);
	assert_int_equal(take(in, clock_ms()), -1);
	assert_int_equal(err.code, FCM_TIMEOUT);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	assert_int_equal(take(pipes[0], clock_in(20000)), -1);
	close(pipes[0]);
	close(pipes[1]);
	assert_int_equal(faccessat(vmmtest_run, "memory", F_OK, AT_SYMLINK_NOFOLLOW), -1);
}

/* ---- whose memory ---- */

static struct keep_ram ram;

/* In the child: its memory is that of a machine that it began with, of which it has written one page, and given another
 * back. False when that doesn't work. */
static bool map_saved(void)
{
	const int flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS;
	int fd = open("saved/memory", O_RDONLY | O_CLOEXEC);
	char *p = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

	if (p == MAP_FAILED)
		return false;
	memcpy(p + PAGE, "own", 3);
	return mmap(p, PAGE, PROT_READ | PROT_WRITE, flags, -1, 0) == p;
}

/* A process whose root is the run directory, and which did that before. */
static pid_t start(bool (*before)(void), struct proc_id *ret)
{
	pid_t pid = fork();

	if (pid == 0) {
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && fchdir(vmmtest_run) == 0 && chroot(".") == 0 &&
			(before == NULL || before()) && kill(getpid(), SIGSTOP) == 0)
			pause();
		_exit(1);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	if (!WIFSTOPPED(status))
		return -1;
	assert_int_equal(proc_identify(pid, ret, &err), 0);
	return pid;
}

static void end(pid_t pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static int make_file(const char *path, off_t n)
{
	int fd = openat(vmmtest_run, path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, n), 0);
	return fd;
}

static void not_found(const struct proc_id *id)
{
	assert_int_equal(keep_find_ram(id, MIB, &ram, &err), -1);
	assert_int_equal(err.code, FCM_NOT_FOUND);
	assert_int_equal(ram.fd, -1);
}

static void refused(const struct proc_id *id, const char *words)
{
	assert_int_equal(keep_find_ram(id, MIB, &ram, &err), -1);
	assert_int_equal(err.code, FCM_VMM);
	assert_int_equal(ram.fd, -1);
	assert_non_null(strstr(err.msg, words));
}

static void remove_ram(void)
{
	assert_int_equal(dir_remove(vmmtest_run, "ram", NULL, &err), 0);
}

static void test_file(void **state)
{
	(void)state;
	struct proc_id id, other;
	pid_t pid = start(NULL, &id);
	char text[8] = "";

	if (pid < 0)
		skip(); /* only root may chroot(2) */
	not_found(&id);

	assert_int_equal(mkdirat(vmmtest_run, "ram", 0755), 0);
	auto_close int there = make_file("ram/memory", size);
	put(there, "guest", 0);
	assert_int_equal(keep_find_ram(&id, MIB, &ram, &err), 0);
	auto_close int fd = ram.fd;
	assert_int_equal(ram.base, 0);
	assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(read(fd, text, 5), 5);
	assert_string_equal(text, "guest");

	/* Another process that has the pid now. */
	other = id;
	other.start_ticks++;
	not_found(&other);

	/* What a VMM might have made of it. */
	assert_int_equal(ftruncate(there, size - PAGE), 0);
	refused(&id, "no file of 40 MiB");
	assert_int_equal(ftruncate(there, size + PAGE), 0);
	refused(&id, "no file of 40 MiB");
	assert_int_equal(unlinkat(vmmtest_run, "ram/memory", 0), 0);
	assert_int_equal(mkfifoat(vmmtest_run, "ram/memory", 0600), 0);
	refused(&id, "no file of 40 MiB");
	remove_ram();
	assert_int_equal(mkdirat(vmmtest_run, "elsewhere", 0755), 0);
	close(make_file("elsewhere/memory", size));
	assert_int_equal(symlinkat("elsewhere", vmmtest_run, "ram"), 0);
	refused(&id, "open the VMM's memory");
	remove_ram();
	assert_int_equal(mkdirat(vmmtest_run, "ram", 0755), 0);
	assert_int_equal(symlinkat("../elsewhere/memory", vmmtest_run, "ram/memory"), 0);
	refused(&id, "open the VMM's memory");

	end(pid);
	not_found(&id);
}

/* Of a file that it has mapped: what others have in it, what it has written, and what it gave back. */
static void test_mapped(void **state)
{
	(void)state;
	static const char zeros[2 * PAGE];
	struct proc_id id;
	char text[2 * PAGE];

	assert_int_equal(mkdirat(vmmtest_run, "saved", 0755), 0);
	auto_close int saved = make_file("saved/memory", size);
	put(saved, "gone", 0);
	put(saved, "old and new", PAGE);
	put(saved, "end", size - 3);
	pid_t pid = start(map_saved, &id);
	if (pid < 0)
		skip();
	assert_int_equal(keep_find_ram(&id, MIB, &ram, &err), 0);
	auto_close int fd = ram.fd;
	assert_int_equal(keep_copy(ram, size, vmmtest_run, "memory", clock_in(20000), &err), 0);
	auto_close int out = openat(vmmtest_run, "memory", O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(out, text, sizeof text, 0), sizeof text);
	assert_memory_equal(text, zeros, PAGE);
	assert_string_equal(text + PAGE, "own and new");
	assert_int_equal(pread(out, text, sizeof text, size - PAGE), PAGE);
	assert_memory_equal(text + PAGE - 3, "end", 3);
	end(pid);

	/* One that has the file and hasn't mapped it. */
	pid = start(NULL, &id);
	not_found(&id);
	end(pid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_copy, vmmtest_setup, vmmtest_teardown),
		cmocka_unit_test_setup_teardown(test_holes, vmmtest_setup, vmmtest_teardown),
		cmocka_unit_test_setup_teardown(test_no_copy, vmmtest_setup, vmmtest_teardown),
		cmocka_unit_test_setup_teardown(test_file, vmmtest_setup, vmmtest_teardown),
		cmocka_unit_test_setup_teardown(test_mapped, vmmtest_setup, vmmtest_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
