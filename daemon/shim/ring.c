/* The console ring, read by the daemon while the shim writes it: plan.h has the layout. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "daemon/shim/plan.h"
#include "daemon/shim/shim.h"

#define RING_NAME "console.ring"

enum { RING_SIZE = SHIM_RING_HEADER + SHIM_RING };

static int read_head(int fd, struct shim_ring *ret)
{
	return pread(fd, ret, sizeof *ret, 0) == sizeof *ret && ret->magic == SHIM_RING_MAGIC ? 0 : -1;
}

static int make_whole(int fd, struct fcm_error *err)
{
	struct shim_ring head = {.magic = SHIM_RING_MAGIC};
	struct stat st;

	int e = posix_fallocate(fd, 0, RING_SIZE);
	if (e) {
		errno = e;
		return fcm_fail_errno(err, "allocate %s", RING_NAME);
	}
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size != RING_SIZE)
		return fcm_fail(err, FCM_HOST, "%s: not a console ring", RING_NAME);
	if (read_head(fd, &head) == 0)
		return 0;
	head = (struct shim_ring){.magic = SHIM_RING_MAGIC};
	return pwrite(fd, &head, sizeof head, 0) == sizeof head ? 0
								: fcm_fail_errno(err, "write %s", RING_NAME);
}

int shim_ring_make(int vm_dirfd, struct fcm_error *err)
{
	auto_close int fd =
		openat(vm_dirfd, RING_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);

	if (fd < 0)
		return fcm_fail_errno(err, "open %s", RING_NAME);
	return make_whole(fd, err) < 0 ? -1 : STEAL_FD(fd);
}

/* Append the bytes from..to of the console, which must be in the ring. */
static int copy_out(int fd, uint64_t from, uint64_t to, struct buf *ret, struct fcm_error *err)
{
	char chunk[16384];

	while (from < to) {
		size_t at = from % SHIM_RING, k = MIN(MIN(to - from, SHIM_RING - at), sizeof chunk);
		ssize_t n = pread(fd, chunk, k, (off_t)(SHIM_RING_HEADER + at));
		if (n <= 0)
			return fcm_fail_errno(err, "read %s", RING_NAME);
		buf_add(ret, chunk, (size_t)n);
		from += (size_t)n;
	}
	return 0;
}

/* Append what the console had from byte `from` on; what the shim overwrote meanwhile is left out. */
static int read_from(int fd, uint64_t from, uint64_t to, struct buf *ret, struct fcm_error *err)
{
	struct shim_ring head;
	size_t before = ret->n;

	if (copy_out(fd, from, to, ret, err) < 0)
		return -1;
	if (read_head(fd, &head) < 0)
		return fcm_fail(err, FCM_HOST, "%s: not a console ring", RING_NAME);
	uint64_t oldest = head.total > SHIM_RING ? head.total - SHIM_RING : 0;
	if (oldest > from && ret->n > before) {
		size_t lost = (size_t)MIN(oldest - from, to - from);
		memmove(ret->p + before, ret->p + before + lost, ret->n - before - lost);
		ret->n -= lost;
		ret->p[ret->n] = '\0';
	}
	return 0;
}

/* Open the ring; *ret_total is 0 and the result -1 when there is none. */
static int open_ring(int vm_dirfd, uint64_t *ret_total)
{
	auto_close int fd = openat(vm_dirfd, RING_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct shim_ring head;

	if (fd < 0 || read_head(fd, &head) < 0) {
		*ret_total = 0;
		return -1;
	}
	*ret_total = head.total;
	return STEAL_FD(fd);
}

int shim_ring_since(int vm_dirfd, uint64_t since, struct buf *ret, uint64_t *ret_total, struct fcm_error *err)
{
	uint64_t total;
	auto_close int fd = open_ring(vm_dirfd, &total);

	if (fd >= 0 && since < total) {
		uint64_t oldest = total > SHIM_RING ? total - SHIM_RING : 0;
		if (read_from(fd, MAX(since, oldest), total, ret, err) < 0)
			return -1;
	}
	*ret_total = total;
	return 0;
}

int shim_ring_tail(int vm_dirfd, size_t max, struct buf *ret, uint64_t *ret_total, struct fcm_error *err)
{
	uint64_t total;
	auto_close int fd = open_ring(vm_dirfd, &total);

	if (fd >= 0) {
		uint64_t n = MIN(MIN(total, (uint64_t)SHIM_RING), (uint64_t)max);
		if (read_from(fd, total - n, total, ret, err) < 0)
			return -1;
	}
	*ret_total = total;
	return 0;
}

static int by_pos(const void *a, const void *b)
{
	const struct shim_mark *x = a, *y = b;

	return x->pos < y->pos ? -1 : x->pos > y->pos;
}

size_t shim_ring_marks(int vm_dirfd, struct shim_mark **ret)
{
	auto_close int fd = openat(vm_dirfd, SHIM_TIMES, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct shim_mark *m = xalloc(SHIM_MARKS * sizeof *m);
	ssize_t got = fd < 0 ? 0 : pread(fd, m, SHIM_MARKS * sizeof *m, 0);
	size_t n = 0;

	for (size_t i = 0; got > 0 && i < (size_t)got / sizeof *m; i++)
		if (m[i].time > 0) /* else it was lost */
			m[n++] = m[i];
	qsort(m, n, sizeof *m, by_pos);
	*ret = m;
	return n;
}
