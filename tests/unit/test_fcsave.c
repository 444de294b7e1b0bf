/* What Firecracker left of a machine in its run directory, and what of it is taken. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "daemon/vmm/fcsave.h"
#include "tests/unit/vmmtest.h"

enum { MIB = 40, PAGE = 4096 };

static struct fcm_error err;
static int saved = -1;

static int setup(void **state)
{
	vmmtest_setup(state);
	assert_int_equal(mkdirat(vmmtest_run, "../../saved", 0700), 0);
	saved = dir_open(vmmtest_run, "../../saved", &err);
	return saved < 0;
}

static int teardown(void **state)
{
	close(saved);
	return vmmtest_teardown(state);
}

static void put(int dirfd, const char *name, const char *text, off_t at, off_t size)
{
	auto_close int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, text, strlen(text), at), strlen(text));
	assert_int_equal(ftruncate(fd, size), 0);
}

static void put_good(void)
{
	static const char zeros[PAGE];
	const off_t size = (off_t)MIB << 20;

	put(vmmtest_run, VMM_STATE, "devices", 0, 7);
	put(vmmtest_run, VMM_MEMORY, "begin", 0, size);
	put(vmmtest_run, VMM_MEMORY, "middle", (17 << 20) + 100, size); /* beyond the first window */
	auto_close int fd = openat(vmmtest_run, VMM_MEMORY, O_WRONLY | O_CLOEXEC);
	for (int i = 0; i < 1000; i++) /* zeros that are there */
		assert_int_equal(pwrite(fd, zeros, PAGE, (1 << 20) + i * PAGE), PAGE);
	assert_int_equal(pwrite(fd, "end", 3, size - 3), 3);
}

static int take(void)
{
	return fcsave_take(vmmtest_run, saved, MIB, clock_in(20000), &err);
}

static bool is_there(const char *name)
{
	return faccessat(saved, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void test_copy(void **state)
{
	(void)state;
	struct stat st;
	char text[16] = "";

	put_good();
	assert_int_equal(take(), 0);
	assert_int_equal(fstatat(saved, VMM_MEMORY, &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0444);
	assert_int_equal(st.st_size, MIB << 20);
	assert_in_range(st.st_blocks * 512, 3 * PAGE, 64 << 10);
	auto_close int memory = openat(saved, VMM_MEMORY, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(memory, text, 6, (17 << 20) + 100), 6);
	assert_string_equal(text, "middle");
	assert_int_equal(pread(memory, text, 6, 0), 6);
	assert_memory_equal(text, "begin", 6);
	assert_int_equal(pread(memory, text, 6, (MIB << 20) - 3), 3);
	assert_memory_equal(text, "end", 3);
	assert_int_equal(fstatat(saved, VMM_STATE, &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_int_equal(st.st_size, 7);
	assert_int_equal(st.st_mode, S_IFREG | 0444);
}

static void no_state(void)
{
	assert_int_equal(unlinkat(vmmtest_run, VMM_STATE, 0), 0);
}

static void empty_state(void)
{
	put(vmmtest_run, VMM_STATE, "", 0, 0);
}

static void large_state(void)
{
	put(vmmtest_run, VMM_STATE, "", 0, (16 << 20) + 1);
}

static void linked_state(void)
{
	no_state();
	assert_int_equal(symlinkat("/etc/passwd", vmmtest_run, VMM_STATE), 0);
}

static void fifo_state(void)
{
	no_state();
	assert_int_equal(mkfifoat(vmmtest_run, VMM_STATE, 0600), 0);
}

static void directory_memory(void)
{
	assert_int_equal(unlinkat(vmmtest_run, VMM_MEMORY, 0), 0);
	assert_int_equal(mkdirat(vmmtest_run, VMM_MEMORY, 0700), 0);
}

static void short_memory(void)
{
	put(vmmtest_run, VMM_MEMORY, "", 0, (MIB << 20) - 1);
}

static void long_memory(void)
{
	put(vmmtest_run, VMM_MEMORY, "", 0, (MIB << 20) + 1);
}

static void test_not_taken(void **state)
{
	(void)state;
	static void (*const spoil[])(void) = {no_state, empty_state, large_state, linked_state, fifo_state,
		directory_memory, short_memory, long_memory};

	for (size_t i = 0; i < ARRAY_SIZE(spoil); i++) {
		put_good();
		spoil[i]();
		assert_int_equal(take(), -1);
		assert_int_equal(err.code, FCM_VMM);
		assert_false(is_there(VMM_STATE) || is_there(VMM_MEMORY));
		assert_int_equal(dir_remove(vmmtest_run, VMM_STATE, NULL, &err), 0);
		assert_int_equal(dir_remove(vmmtest_run, VMM_MEMORY, NULL, &err), 0);
	}
	put_good();
	assert_int_equal(take(), 0); /* the control */
}

static void test_too_late(void **state)
{
	(void)state;
	put_good();
	assert_int_equal(fcsave_take(vmmtest_run, saved, MIB, clock_ms(), &err), -1);
	assert_int_equal(err.code, FCM_TIMEOUT);
	assert_false(is_there(VMM_STATE) || is_there(VMM_MEMORY));
}

/* What stands there already isn't ours to write, nor to remove. */
static void test_taken_place(void **state)
{
	(void)state;
	struct stat st;

	put_good();
	put(saved, VMM_MEMORY, "older", 0, 5);
	assert_int_equal(take(), -1);
	assert_false(is_there(VMM_STATE));
	assert_int_equal(fstatat(saved, VMM_MEMORY, &st, 0), 0);
	assert_int_equal(st.st_size, 5);
}

static void test_others_may_enter(void **state)
{
	(void)state;
	put_good();
	assert_int_equal(fchmod(saved, 0710), 0);
	assert_int_equal(take(), -1);
	assert_int_equal(err.code, FCM_INTERNAL);
	assert_false(is_there(VMM_STATE));
}

static void test_clear(void **state)
{
	(void)state;
	auto_close int victim = openat(saved, "victim", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_int_equal(fcsave_clear(vmmtest_run, &err), 0);
	assert_int_equal(symlinkat("../../saved/victim", vmmtest_run, VMM_STATE), 0);
	put(vmmtest_run, VMM_MEMORY, "x", 0, 1);
	assert_int_equal(fcsave_clear(vmmtest_run, &err), 0);
	assert_int_equal(faccessat(vmmtest_run, VMM_STATE, F_OK, AT_SYMLINK_NOFOLLOW), -1);
	assert_int_equal(faccessat(vmmtest_run, VMM_MEMORY, F_OK, AT_SYMLINK_NOFOLLOW), -1);
	assert_int_equal(mkdirat(vmmtest_run, VMM_MEMORY, 0700), 0);
	assert_int_equal(fcsave_clear(vmmtest_run, &err), -1);
	assert_int_equal(err.code, FCM_VMM);
	assert_true(is_there("victim"));
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_copy),
		T(test_not_taken),
		T(test_too_late),
		T(test_taken_place),
		T(test_others_may_enter),
		T(test_clear),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
