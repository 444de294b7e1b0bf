#include "daemon/oci/layer.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/core/sparse.h"
#include "daemon/oci/oci.h"
#include "daemon/oci/source.h"

/* A file is handed on in pieces of ROOTFS_PIECE; this is the one that is being filled. */
struct piece {
	char p[ROOTFS_PIECE];
	uint64_t at;
	size_t n;
	bool used; /* it isn't all zeros */
};

/* ---- the bytes of a file ---- */

/* The piece is full, or the file at its end. */
static int hand_on(struct piece *p, const struct layer_sink *sink, struct fcm_error *err)
{
	int r = p->used && p->n ? sink->piece(sink->arg, p->at, p->p, p->n, err) : 0;

	p->at += ROOTFS_PIECE;
	p->n = 0;
	p->used = false;
	return r;
}

/* Bytes, or with p == NULL zeros. A hole of terabytes passes in one go. */
static int add_bytes(
	struct piece *piece, const char *p, uint64_t n, const struct layer_sink *sink, struct fcm_error *err)
{
	while (n > 0) {
		if (p == NULL && piece->n == 0 && n >= ROOTFS_PIECE) {
			piece->at += n - n % ROOTFS_PIECE;
			n %= ROOTFS_PIECE;
			continue;
		}
		size_t k = (size_t)MIN(n, (uint64_t)(ROOTFS_PIECE - piece->n));
		if (p)
			memcpy(piece->p + piece->n, p, k);
		else
			memset(piece->p + piece->n, 0, k);
		piece->used = piece->used || (p && !all_zeros(p, k));
		piece->n += k;
		n -= k;
		p = p ? p + k : NULL;
		if (piece->n == ROOTFS_PIECE && hand_on(piece, sink, err) < 0)
			return -1;
	}
	return 0;
}

static int copy_file(struct archive *a, uint64_t size, const struct layer_sink *sink, struct fcm_error *err)
{
	static struct piece piece;
	la_int64_t at;
	const void *p;
	uint64_t end;
	size_t n;
	int r;

	piece.at = 0, piece.n = 0, piece.used = false;
	while ((r = archive_read_data_block(a, &p, &n, &at)) == ARCHIVE_OK) {
		end = piece.at + piece.n;
		if (at < 0 || (uint64_t)at < end || (uint64_t)at > size || n > size - (uint64_t)at)
			return fcm_fail(err, FCM_INVALID, "a file has pieces out of place");
		if (add_bytes(&piece, NULL, (uint64_t)at - end, sink, err) < 0 ||
			add_bytes(&piece, p, n, sink, err) < 0)
			return -1;
	}
	if (r != ARCHIVE_EOF)
		return source_fail(a, err);
	if (add_bytes(&piece, NULL, size - (piece.at + piece.n), sink, err) < 0)
		return -1;
	return hand_on(&piece, sink, err);
}

/* ---- the first time ---- */

static int count_piece(void *arg, uint64_t at, const void *p, size_t n, struct fcm_error *err)
{
	uint64_t *used = arg;

	(void)at, (void)p, (void)n, (void)err;
	*used += ROOTFS_PIECE;
	return 0;
}

static void xattrs_freep(struct rootfs_xattr **list)
{
	for (struct rootfs_xattr *x = *list, *next; x; x = next) {
		next = x->next;
		free(x->name);
		free(x);
	}
}

/* A list longer than rootfs.c takes is cut behind what makes it refuse. */
static struct rootfs_xattr *read_xattrs(struct archive_entry *e)
{
	struct rootfs_xattr *list = NULL;
	const char *name;
	const void *value;
	size_t n, count = 0;

	archive_entry_xattr_reset(e);
	while (count++ <= ROOTFS_XATTRS * 2 && archive_entry_xattr_next(e, &name, &value, &n) == ARCHIVE_OK) {
		size_t kept = MIN(n, (size_t)ROOTFS_XATTR_BYTES + 1);
		struct rootfs_xattr *x = xalloc(sizeof *x + kept);
		x->name = xstrdup(name);
		x->n = kept;
		memcpy(x->value, value, kept);
		x->next = list;
		list = x;
	}
	return list;
}

static int add_entry(
	struct archive *a, struct archive_entry *e, uint64_t index, struct rootfs *t, struct fcm_error *err)
{
	_cleanup_(xattrs_freep) struct rootfs_xattr *xattrs = read_xattrs(e);
	const char *path = archive_entry_pathname(e);
	struct rootfs_entry entry = {
		.path = path ? path : "",
		.hardlink = archive_entry_hardlink(e),
		.target = archive_entry_symlink(e),
		.mode = archive_entry_filetype(e) | archive_entry_perm(e),
		.uid = archive_entry_uid(e),
		.gid = archive_entry_gid(e),
		.mtime = archive_entry_mtime(e),
		.mtime_ns = (uint32_t)archive_entry_mtime_nsec(e) % 1000000000,
		.size = archive_entry_size(e),
		.major = (unsigned)archive_entry_rdevmajor(e),
		.minor = (unsigned)archive_entry_rdevminor(e),
		.xattrs = xattrs,
		.index = index,
	};
	const struct layer_sink count = {.piece = count_piece, .arg = &entry.used};

	if (S_ISREG(entry.mode) && entry.hardlink == NULL && entry.size > 0 &&
		(uint64_t)entry.size <= OCI_LAYER_BYTES &&
		copy_file(a, (uint64_t)entry.size, &count, err) < 0)
		return -1;
	return rootfs_add(t, &entry, err);
}

/* The rest of the file, which belongs to its sum: tar pads to its record size. */
static int read_rest(struct archive *a, struct source *s, struct fcm_error *err)
{
	const void *p;
	la_ssize_t n;

	while ((n = source_read(a, s, &p)) > 0)
		;
	return n < 0 ? source_fail(a, err) : 0;
}

static int check_sum(EVP_MD_CTX *hash, const char *diff_id, struct fcm_error *err)
{
	char hex[65];

	sum_end(hash, hex);
	if (strcmp(hex, diff_id) != 0)
		return fcm_fail(err, FCM_INVALID, "its bytes have the digest %.12s...", hex);
	return 0;
}

static int scan(struct source *s, const char *diff_id, struct rootfs *t, struct fcm_error *err)
{
	_cleanup_(source_closep) struct archive *a = source_tar(s, err);
	struct archive_entry *e;
	uint64_t index = 0;
	int r;

	if (a == NULL)
		return -1;
	while ((r = archive_read_next_header(a, &e)) == ARCHIVE_OK || r == ARCHIVE_WARN)
		if (add_entry(a, e, ++index, t, err) < 0)
			return -1;
	if (r != ARCHIVE_EOF)
		return source_fail(a, err);
	return read_rest(a, s, err) < 0 ? -1 : check_sum(s->hash, diff_id, err);
}

int layer_scan(int fd, const char *diff_id, struct rootfs *t, layer_progress *progress, void *arg,
	struct fcm_error *err)
{
	static struct source s;
	_cleanup_(source_hash_freep) EVP_MD_CTX *hash = source_hash(err);

	if (hash == NULL)
		return -1;
	if (lseek(fd, 0, SEEK_SET) < 0)
		return fcm_fail_errno(err, "read layer %.12s", diff_id);
	s.fd = fd, s.hash = hash, s.done = 0, s.progress = progress, s.arg = arg;
	return scan(&s, diff_id, t, err) < 0 ? fcm_wrap(err, "layer %.12s", diff_id) : 0;
}

/* ---- the second time ---- */

static int copy_wanted(struct archive *a, struct rootfs_inode *const *inodes, size_t n,
	const struct layer_sink *sink, struct fcm_error *err)
{
	struct archive_entry *e;
	uint64_t index = 0;

	for (size_t i = 0; i < n; i++) {
		do {
			int r = archive_read_next_header(a, &e);
			if (r != ARCHIVE_OK && r != ARCHIVE_WARN)
				return source_fail(a, err);
		} while (++index != inodes[i]->index);
		if (archive_entry_size(e) != (la_int64_t)inodes[i]->size)
			return fcm_fail(err, FCM_INVALID, "a layer changed while it was read");
		if (sink->begin(sink->arg, inodes[i], err) < 0 ||
			copy_file(a, inodes[i]->size, sink, err) < 0 || sink->end(sink->arg, err) < 0)
			return -1;
	}
	return 0;
}

int layer_copy(int fd, struct rootfs_inode *const *inodes, size_t n, const struct layer_sink *sink,
	struct fcm_error *err)
{
	static struct source s;

	if (lseek(fd, 0, SEEK_SET) < 0)
		return fcm_fail_errno(err, "read a layer");
	s.fd = fd, s.hash = NULL, s.done = 0, s.progress = NULL;
	_cleanup_(source_closep) struct archive *a = source_tar(&s, err);
	return a == NULL ? -1 : copy_wanted(a, inodes, n, sink, err);
}
