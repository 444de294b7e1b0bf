#include "daemon/image/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "common/core/sparse.h"

enum {
	READ_BLOCK = 256 * 1024,
	PADDING_MAX = 1 << 20, /* bytes behind the end of the archive: tar(1) pads to its record size */
};

static void archive_freep(struct archive **a)
{
	archive_read_free(*a); /* NULL-safe */
}

static int fail_archive(struct archive *a, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf why = {0};

	buf_str(&why, archive_error_string(a) ? archive_error_string(a) : "unknown format");
	why.n = fcm_printable(why.p, MIN(why.n, (size_t)200));
	return fcm_fail(err, FCM_INVALID, "not a good tar: %.*s", (int)why.n, why.p);
}

static struct unpack_member *find_member(struct unpack_member *members, size_t n, const char *name)
{
	if (name && strncmp(name, "./", 2) == 0)
		name += 2;
	for (size_t i = 0; name && i < n; i++)
		if (strcmp(members[i].name, name) == 0)
			return &members[i];
	return NULL;
}

static int fail_foreign(
	const struct unpack_member *members, size_t n, const char *name, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf list = {0};
	char shown[100];

	for (size_t i = 0; i < n; i++)
		buf_printf(&list, "%s%s", i ? ", " : "", members[i].name);
	(void)fcm_quote(shown, sizeof shown, name ? name : "?");
	return fcm_fail(
		err, FCM_INVALID, "unexpected '%s' in the tar, which must hold exactly %s", shown, list.p);
}

static int check_entry(struct archive_entry *e, struct unpack_member *members, size_t n,
	struct unpack_member **ret, struct fcm_error *err)
{
	struct unpack_member *m = find_member(members, n, archive_entry_pathname(e));

	if (m == NULL)
		return fail_foreign(members, n, archive_entry_pathname(e), err);
	if (archive_entry_filetype(e) != AE_IFREG || archive_entry_hardlink(e))
		return fcm_fail(err, FCM_INVALID, "%s in the tar is not a regular file", m->name);
	if (m->seen)
		return fcm_fail(err, FCM_INVALID, "%s is in the tar twice", m->name);
	if (archive_entry_size(e) <= 0)
		return fcm_fail(err, FCM_INVALID, "%s in the tar is empty", m->name);
	if ((uint64_t)archive_entry_size(e) > m->max)
		return fcm_fail(err, FCM_TOO_LARGE, "%s is larger than %llu MiB", m->name,
			(unsigned long long)(m->max >> 20));
	m->seen = true;
	m->size = (uint64_t)archive_entry_size(e);
	*ret = m;
	return 0;
}

static int copy_data(struct archive *a, const struct unpack_member *m, int fd, struct fcm_error *err)
{
	const void *p;
	uint64_t end = 0;
	size_t n;
	la_int64_t at;
	int r;

	while ((r = archive_read_data_block(a, &p, &n, &at)) == ARCHIVE_OK) {
		if (at < 0 || (uint64_t)at < end || (uint64_t)at > m->size || n > m->size - (uint64_t)at)
			return fcm_fail(err, FCM_INVALID, "%s in the tar has pieces out of place", m->name);
		if (sparse_write(fd, p, n, at) < 0)
			return fcm_fail_errno(err, "write %s", m->name);
		end = (uint64_t)at + n;
	}
	return r == ARCHIVE_EOF ? 0 : fail_archive(a, err);
}

static int check_magic(int fd, const struct unpack_member *m, struct fcm_error *err)
{
	char found[8];
	size_t n = m->magic ? strlen(m->magic) : 0;

	if (n == 0)
		return 0;
	if (pread(fd, found, n, 0) != (ssize_t)n || memcmp(found, m->magic, n) != 0)
		return fcm_fail(err, FCM_INVALID, "%s is not %s", m->name, m->what);
	return 0;
}

static int unpack_member(struct archive *a, int dirfd, struct unpack_member *m, struct fcm_error *err)
{
	auto_close int fd = openat(dirfd, m->name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return fcm_fail_errno(err, "make %s", m->name);
	if (ftruncate(fd, (off_t)m->size) < 0)
		return fcm_fail_errno(err, "make %s", m->name);
	if (copy_data(a, m, fd, err) < 0 || check_magic(fd, m, err) < 0)
		return -1;
	if (fchmod(fd, 0444) < 0 || fsync(fd) < 0)
		return fcm_fail_errno(err, "write %s", m->name);
	return 0;
}

/* Read what is behind the archive, or who writes would meet a closed door. */
static int drain(int fd, struct fcm_error *err)
{
	char chunk[8192];
	ssize_t n;

	for (size_t total = 0; (n = read(fd, chunk, sizeof chunk)) != 0; total += (size_t)n)
		if (n < 0 || total > PADDING_MAX)
			return fcm_fail(err, FCM_INVALID, "there is more behind the end of the tar");
	return 0;
}

static struct archive *open_archive(int fd, struct fcm_error *err)
{
	struct archive *a = archive_read_new();

	if (a == NULL) {
		fcm_fail(err, FCM_UNAVAILABLE, "out of memory");
		return NULL;
	}
	archive_read_support_format_tar(a);
	archive_read_support_filter_gzip(a);
	archive_read_support_filter_zstd(a);
	archive_read_set_options(a, "tar:hdrcharset=BINARY");
	if (archive_read_open_fd(a, fd, READ_BLOCK) != ARCHIVE_OK) {
		fail_archive(a, err);
		archive_read_free(a);
		return NULL;
	}
	return a;
}

int unpack_tar(int fd, int dirfd, struct unpack_member *members, size_t n, struct fcm_error *err)
{
	_cleanup_(archive_freep) struct archive *a = open_archive(fd, err);
	struct archive_entry *e;
	struct unpack_member *m = NULL;
	int r;

	if (a == NULL)
		return -1;
	while ((r = archive_read_next_header(a, &e)) == ARCHIVE_OK)
		if (check_entry(e, members, n, &m, err) < 0 || unpack_member(a, dirfd, m, err) < 0)
			return -1;
	if (r != ARCHIVE_EOF)
		return fail_archive(a, err);
	for (size_t i = 0; i < n; i++)
		if (!members[i].seen)
			return fcm_fail(err, FCM_INVALID, "%s is missing in the tar", members[i].name);
	return drain(fd, err);
}
