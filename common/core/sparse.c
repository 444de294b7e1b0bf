#include "common/core/sparse.h"

#include <errno.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>

enum {
	HOLE = 4096, /* a block: what is all zeros of it isn't written */
	CHUNK = 65536,
};

bool all_zeros(const char *p, size_t n)
{
	return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

int sparse_write(int fd, const void *data, size_t n, off_t at)
{
	const char *p = data;

	while (n > 0) {
		size_t piece = MIN(n, HOLE - (size_t)(at % HOLE));
		if (all_zeros(p, piece)) {
			p += piece, n -= piece, at += (off_t)piece;
			continue;
		}
		while (piece + HOLE <= n && !all_zeros(p + piece, HOLE))
			piece += HOLE;
		ssize_t k = pwrite(fd, p, piece, at);
		if (k < 0)
			return -1;
		p += k, n -= (size_t)k, at += k;
	}
	return 0;
}

int sparse_copy_range(int in, off_t base, int out, off_t from, off_t to)
{
	char chunk[CHUNK];

	while (from < to) {
		ssize_t n = pread(in, chunk, MIN(sizeof chunk, (size_t)(to - from)), base + from);
		if (n == 0)
			errno = EIO;
		if (n <= 0 || sparse_write(out, chunk, (size_t)n, from) < 0)
			return -1;
		from += n;
	}
	return 0;
}

/* By the kernel alone, unless the pair of files is one that copy_file_range(2) doesn't take. */
static int copy_extent(int in, int out, off_t from, off_t to)
{
	while (from < to) {
		off_t at = from;
		ssize_t n = copy_file_range(in, &at, out, &(off_t){from}, (size_t)(to - from), 0);
		if (n < 0 && errno != EXDEV && errno != EINVAL && errno != EOPNOTSUPP && errno != ENOSYS)
			return -1;
		if (n <= 0)
			return sparse_copy_range(in, 0, out, from, to);
		from += n;
	}
	return 0;
}

int sparse_copy(int in, int out)
{
	off_t size = lseek(in, 0, SEEK_END), from, to = 0;

	if (ioctl(out, FICLONE, in) == 0)
		return 0;
	if (size < 0 || ftruncate(out, size) < 0)
		return -1;
	while ((from = lseek(in, to, SEEK_DATA)) >= 0) {
		to = lseek(in, from, SEEK_HOLE);
		if (to < 0 || copy_extent(in, out, from, to) < 0)
			return -1;
	}
	return errno == ENXIO ? 0 : -1; /* ENXIO: no data behind `to` */
}
