/* daemon/shim/ring: the console ring as the daemon reads it, at its edges and when it is damaged. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/core/fileio.h"
#include "daemon/shim/plan.h"
#include "daemon/shim/shim.h"

static struct fcm_error err;
static char dir[] = "/tmp/ring-XXXXXX";
static int dirfd = -1;

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/ring-XXXXXX");
	assert_non_null(mkdtemp(dir));
	dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	close(dirfd);
	assert_int_equal(dir_remove(AT_FDCWD, dir, NULL, &err), 0);
	return 0;
}

/* What the shim does: byte i of the console is the letter of i % 26. */
static void fill(int fd, uint64_t total)
{
	auto_free char *block = xalloc(SHIM_RING);
	struct shim_ring head = {.magic = SHIM_RING_MAGIC, .total = total};
	uint64_t from = total > SHIM_RING ? total - SHIM_RING : 0;

	for (uint64_t i = from; i < total; i++)
		block[i % SHIM_RING] = (char)('a' + i % 26);
	assert_int_equal(pwrite(fd, block, SHIM_RING, SHIM_RING_HEADER), SHIM_RING);
	assert_int_equal(pwrite(fd, &head, sizeof head, 0), sizeof head);
}

static void check(const struct buf *b, uint64_t from, size_t n)
{
	assert_int_equal(b->n, n);
	for (size_t i = 0; i < n; i++)
		if (b->p[i] != (char)('a' + (from + i) % 26))
			fail_msg("byte %zu is '%c'", i, b->p[i]);
}

static void tail(uint64_t total, size_t max, size_t want)
{
	_cleanup_(buf_done) struct buf b = {0};
	uint64_t got;

	assert_int_equal(shim_ring_tail(dirfd, max, &b, &got, &err), 0);
	assert_int_equal(got, total);
	check(&b, total - want, want);
}

static void since(uint64_t total, uint64_t from, uint64_t first, size_t want)
{
	_cleanup_(buf_done) struct buf b = {0};
	uint64_t got;

	assert_int_equal(shim_ring_since(dirfd, from, &b, &got, &err), 0);
	assert_int_equal(got, total);
	check(&b, first, want);
}

static void test_none(void **state)
{
	(void)state;
	tail(0, 100, 0);
	since(0, 5, 0, 0);
}

static void test_made_whole(void **state)
{
	(void)state;
	struct stat st;
	int fd = shim_ring_make(dirfd, &err);

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, SHIM_RING_HEADER + SHIM_RING);
	assert_true(st.st_blocks * 512 >= SHIM_RING);
	assert_int_equal(st.st_mode & 0777, 0600);
	tail(0, 100, 0);
	fill(fd, 100);
	close(fd);
	fd = shim_ring_make(dirfd, &err); /* the console of the last run is kept */
	assert_true(fd >= 0);
	close(fd);
	tail(100, 1000, 100);
}

static void test_wrap(void **state)
{
	(void)state;
	static const uint64_t totals[] = {
		1, SHIM_RING - 1, SHIM_RING, SHIM_RING + 1, SHIM_RING + 12345, 5ull * SHIM_RING + 7};
	int fd = shim_ring_make(dirfd, &err);

	for (size_t i = 0; i < ARRAY_SIZE(totals); i++) {
		uint64_t total = totals[i], held = MIN(total, (uint64_t)SHIM_RING);
		fill(fd, total);
		tail(total, SIZE_MAX, held);
		tail(total, 1, 1);
		tail(total, 0, 0);
		since(total, 0, total - held, held);
		since(total, total - 1, total - 1, 1);
		since(total, total, total, 0);
		since(total, total + 50, total, 0);
	}
	close(fd);
}

static void test_damaged(void **state)
{
	(void)state;
	int fd = shim_ring_make(dirfd, &err);

	fill(fd, 1000);
	assert_int_equal(pwrite(fd, "rubbish!", 8, 0), 8);
	tail(0, 100, 0);
	close(fd);
	fd = shim_ring_make(dirfd, &err); /* begins anew */
	assert_true(fd >= 0);
	close(fd);
	tail(0, 100, 0);

	assert_int_equal(unlinkat(dirfd, "console.ring", 0), 0);
	assert_int_equal(symlinkat("/etc/passwd", dirfd, "console.ring"), 0);
	assert_int_equal(shim_ring_make(dirfd, &err), -1);
	tail(0, 100, 0);
	assert_int_equal(unlinkat(dirfd, "console.ring", 0), 0);
	assert_int_equal(mkfifoat(dirfd, "console.ring", 0600), 0);
	assert_int_equal(shim_ring_make(dirfd, &err), -1);
	tail(0, 100, 0);
}

static void put_marks(const void *data, size_t n)
{
	auto_close int fd = openat(dirfd, SHIM_TIMES, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_int_equal(fd_write_all(fd, data, n), 0);
}

static void test_marks(void **state)
{
	(void)state;
	struct shim_mark *m = NULL;

	assert_int_equal(shim_ring_marks(dirfd, &m), 0);
	free(m);
	/* the file has come round, one was lost, and the last isn't whole */
	static const struct shim_mark round[] = {{300, 30}, {400, 40}, {0, 0}, {100, 10}, {200, 20}, {1, 1}};
	put_marks(round, sizeof round - 1);
	assert_int_equal(shim_ring_marks(dirfd, &m), 4);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(m[i].pos, 100 * (i + 1));
		assert_int_equal(m[i].time, 10 * (i + 1));
	}
	free(m);
	/* more than there can be */
	auto_free char *much = xalloc(2 * SHIM_MARKS * sizeof *m);
	memset(much, 1, 2 * SHIM_MARKS * sizeof *m);
	put_marks(much, 2 * SHIM_MARKS * sizeof *m);
	assert_int_equal(shim_ring_marks(dirfd, &m), SHIM_MARKS);
	free(m);
	assert_int_equal(unlinkat(dirfd, SHIM_TIMES, 0), 0);
	assert_int_equal(symlinkat("/etc/passwd", dirfd, SHIM_TIMES), 0);
	assert_int_equal(shim_ring_marks(dirfd, &m), 0);
	free(m);
	assert_int_equal(unlinkat(dirfd, SHIM_TIMES, 0), 0);
	assert_int_equal(mkfifoat(dirfd, SHIM_TIMES, 0600), 0);
	assert_int_equal(shim_ring_marks(dirfd, &m), 0);
	free(m);
}

static void test_exit_record(void **state)
{
	(void)state;
	static const char record[] = "status=3\0signal=0\0";
	struct shim_exit e = {-1, -1};

	assert_false(shim_exit_read(dirfd, &e));
	int fd = openat(dirfd, "exit", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_false(shim_exit_read(dirfd, &e));
	assert_int_equal(write(fd, record, sizeof record - 1), sizeof record - 1);
	assert_true(shim_exit_read(dirfd, &e));
	assert_int_equal(e.status, 3);
	assert_int_equal(e.signal, 0);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_none, setup, teardown),
		cmocka_unit_test_setup_teardown(test_made_whole, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrap, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
		cmocka_unit_test_setup_teardown(test_marks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_exit_record, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
