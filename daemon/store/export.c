/*
 * How it works. libarchive is fed a block at a time, and what it makes of that waits in `out` for the reader.
 */
#include "daemon/store/export.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/core/fileio.h"

enum {
	BLOCK = 256 << 10,
	EXTENTS_MAX = 8192,   /* of a file; what is behind the last one is sent whole */
	HOLE_MIN = 256 << 10, /* a smaller one isn't worth an entry in the map */
	LEVEL = 3,
};

struct snapshot_export {
	struct archive *a;
	int dir_fd, fd; /* fd: of the file that is being sent, or -1 */
	struct strv names;
	size_t next;	  /* of names */
	int64_t size, at; /* of fd */
	bool over;
	struct buf out;
	size_t taken; /* of out */
	char block[BLOCK];
};

static la_ssize_t keep(struct archive *a, void *arg, const void *p, size_t n)
{
	struct snapshot_export *x = arg;

	(void)a;
	buf_add(&x->out, p, n);
	return (la_ssize_t)n;
}

/* ---- a file ---- */

/* Where its data is. */
static void add_map(int fd, int64_t size, struct archive_entry *e)
{
	off_t from, to = 0, begin = -1, end = 0;

	for (int n = 0; (from = lseek(fd, to, SEEK_DATA)) >= 0; end = to) {
		if ((to = lseek(fd, from, SEEK_HOLE)) < 0)
			break;
		if (begin >= 0 && from - end < HOLE_MIN)
			continue;
		if (begin >= 0)
			archive_entry_sparse_add_entry(e, begin, end - begin);
		begin = from;
		if (++n == EXTENTS_MAX) {
			end = size;
			break;
		}
	}
	if (begin >= 0)
		archive_entry_sparse_add_entry(e, begin, MIN(end, size) - begin);
	else if (size)
		archive_entry_sparse_add_entry(e, 0, 0);
}

static int begin_file(struct snapshot_export *x)
{
	const char *name = x->names.v[x->next++];
	struct archive_entry *e = archive_entry_new();
	struct stat st;

	x->fd = openat(x->dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (e == NULL || x->fd < 0 || fstat(x->fd, &st) < 0) {
		archive_entry_free(e);
		return -1;
	}
	x->size = st.st_size;
	x->at = 0;
	archive_entry_set_pathname(e, name);
	archive_entry_set_filetype(e, AE_IFREG);
	archive_entry_set_perm(e, 0600);
	archive_entry_set_size(e, st.st_size);
	archive_entry_set_mtime(e, st.st_mtim.tv_sec, 0);
	add_map(x->fd, x->size, e);
	int r = archive_write_header(x->a, e);
	archive_entry_free(e);
	errno = archive_errno(x->a);
	return r == ARCHIVE_OK ? 0 : -1;
}

/* The next n bytes, or NULL with errno: holes aren't read. One that is shorter than it was can't be: EIO. */
static const char *next_bytes(struct snapshot_export *x, size_t *n)
{
	static const char zeros[BLOCK];
	off_t data = lseek(x->fd, x->at, SEEK_DATA);

	*n = (size_t)MIN((int64_t)BLOCK, x->size - x->at);
	if (data < 0 ? errno == ENXIO : data >= x->at + (off_t)*n)
		return zeros;
	ssize_t k = pread(x->fd, x->block, *n, x->at);
	if (k > 0) {
		*n = (size_t)k;
		return x->block;
	}
	errno = k < 0 ? errno : EIO;
	return NULL;
}

static int send_block(struct snapshot_export *x)
{
	size_t n;
	const char *p = next_bytes(x, &n);

	if (p == NULL)
		return -1;
	if (archive_write_data(x->a, p, n) != (la_ssize_t)n) {
		errno = EIO;
		return -1;
	}
	x->at += (int64_t)n;
	return 0;
}

/* ---- the whole ---- */

static int step(struct snapshot_export *x)
{
	if (x->fd >= 0 && x->at < x->size)
		return send_block(x);
	fcm_closep(&x->fd);
	if (x->next < x->names.n)
		return begin_file(x);
	x->over = true;
	errno = EIO;
	return archive_write_close(x->a) == ARCHIVE_OK ? 0 : -1;
}

ssize_t snapshot_export_read(struct snapshot_export *x, char *p, size_t n)
{
	while (x->taken == x->out.n) {
		x->out.n = x->taken = 0;
		if (x->over)
			return 0;
		if (step(x) < 0)
			return -1;
	}
	n = MIN(n, x->out.n - x->taken);
	memcpy(p, x->out.p + x->taken, n);
	x->taken += n;
	return (ssize_t)n;
}

static int begin(struct snapshot_export *x, struct fcm_error *err)
{
	auto_free char *level = xprintf("zstd:compression-level=%d", LEVEL);

	x->a = archive_write_new();
	/* the filter warns where it would run a program */
	if (x->a && archive_write_add_filter_zstd(x->a) == ARCHIVE_OK &&
		archive_write_set_format_pax(x->a) == ARCHIVE_OK &&
		archive_write_set_options(x->a, level) == ARCHIVE_OK &&
		archive_write_set_bytes_in_last_block(x->a, 1) == ARCHIVE_OK &&
		archive_write_open(x->a, x, NULL, keep, NULL) == ARCHIVE_OK)
		return 0;
	return fcm_fail(err, FCM_HOST, "libarchive has no zstd here");
}

int snapshot_export_open(
	int dirfd, const struct snapshot *s, struct snapshot_export **ret, struct fcm_error *err)
{
	if (snapshot_check(dirfd, s, false, err) < 0)
		return -1;
	struct snapshot_export *x = xalloc(sizeof *x);
	*x = (struct snapshot_export){.dir_fd = fcntl(dirfd, F_DUPFD_CLOEXEC, 3), .fd = -1};
	strv_add(&x->names, SNAPSHOT_MANIFEST);
	for (size_t i = 0; i < s->n_files; i++)
		strv_add(&x->names, s->files[i].name);
	int r = x->dir_fd < 0 ? fcm_fail_errno(err, "open the snapshot") : begin(x, err);
	if (r < 0)
		snapshot_export_close(x);
	else
		*ret = x;
	return r;
}

void snapshot_export_close(struct snapshot_export *x)
{
	if (x == NULL)
		return;
	if (x->a && !x->over)
		archive_write_fail(x->a); /* else it would write zeros for what is missing */
	archive_write_free(x->a);	  /* NULL-safe */
	fcm_closep(&x->fd);
	fcm_closep(&x->dir_fd);
	strv_done(&x->names);
	buf_done(&x->out);
	free(x);
}
