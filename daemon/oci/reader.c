#include "daemon/oci/reader.h"

#include <errno.h>
#include <et/com_err.h>
#include <ext2fs/ext2fs.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	BLOCK_MAX = 4096, /* with it no place of the 2^48 that an extent knows is beyond an off_t */
	FAST_LINK = 60,	  /* a shorter link stands in the inode */
	RUNS_MAX = 1 << 20,
	EPOCH = 3, /* bits of i_mtime_extra that lengthen the seconds */
};

struct reader {
	ext2_filsys fs;
	int fd; /* borrowed */
};

/* ---- errors ---- */

static int fail_ext(errcode_t code, const char *what, struct fcm_error *err)
{
	/* EINVAL: of a place that can't be */
	if (code > 0 && code < 256 && code != EINVAL) {
		errno = (int)code;
		return fcm_fail_errno(err, "%s", what);
	}
	return fcm_fail(err, FCM_GUEST, "%s: the file system is damaged: %s", what, error_message(code));
}

static int fail_damaged(const char *what, struct fcm_error *err)
{
	return fcm_fail(err, FCM_GUEST, "the file system is damaged: %s", what);
}

/* ---- the whole ---- */

static int check_fs(ext2_filsys fs, struct fcm_error *err)
{
	if (ext2fs_has_feature_journal_needs_recovery(fs->super))
		return fcm_fail(err, FCM_GUEST, "the file system wasn't unmounted");
	return fs->blocksize <= BLOCK_MAX ? 0 : fail_damaged("its blocks are larger than a page", err);
}

int reader_open(int fd, struct reader **ret, struct fcm_error *err)
{
	auto_close int copy =
		fcntl(fd, F_DUPFD_CLOEXEC, 0); /* which the library closes, once it has a channel */
	ext2_filsys fs;
	char name[16];

	if (copy < 0)
		return fcm_fail_errno(err, "open the file system");
	fcm_format(name, sizeof name, "%d", copy);
	errcode_t code = ext2fs_open2(name, NULL, EXT2_FLAG_64BITS, 0, 0, unixfd_io_manager, &fs);
	if (code)
		return fail_ext(code, "open the file system", err);
	(void)STEAL_FD(copy);
	if (check_fs(fs, err) < 0) {
		ext2fs_free(fs);
		return -1;
	}
	*ret = xalloc(sizeof **ret);
	**ret = (struct reader){.fs = fs, .fd = fd};
	return 0;
}

void reader_close(struct reader *r)
{
	if (r == NULL)
		return;
	ext2fs_free(r->fs);
	free(r);
}

/* ---- directories ---- */

struct listing {
	struct reader_names *names;
	size_t room, max;
	const char *wrong; /* or NULL */
};

static const char *wrong_name(const struct listing *l, const char *name, size_t n)
{
	if (n == 0 || memchr(name, '/', n) || memchr(name, '\0', n))
		return "a name that can't be";
	return l->names->n == l->max ? "more entries than an image may have" : NULL;
}

static int add_name(
	ext2_ino_t dir, int entry, struct ext2_dir_entry *e, int offset, int size, char *block, void *arg)
{
	struct listing *l = arg;
	size_t n = (size_t)ext2fs_dirent_name_len(e);

	(void)dir, (void)offset, (void)size, (void)block;
	if (entry == DIRENT_DOT_FILE || entry == DIRENT_DOT_DOT_FILE)
		return 0;
	l->wrong = wrong_name(l, e->name, n);
	if (l->wrong)
		return DIRENT_ABORT;
	if (l->names->n == l->room) {
		l->room = MAX(l->room * 2, (size_t)16);
		l->names->v = xrealloc(l->names->v, l->room * sizeof *l->names->v);
	}
	l->names->v[l->names->n++] = (struct reader_name){e->inode, xprintf("%.*s", (int)n, e->name)};
	return 0;
}

static int by_name(const void *a, const void *b)
{
	const struct reader_name *x = a, *y = b;

	return strcmp(x->name, y->name);
}

int reader_names(struct reader *r, uint32_t dir, size_t max, struct reader_names *ret, struct fcm_error *err)
{
	struct listing l = {.names = ret, .max = max};

	*ret = (struct reader_names){0};
	errcode_t code = ext2fs_dir_iterate2(r->fs, dir, 0, NULL, add_name, &l);
	if (code)
		return fail_ext(code, "read a directory", err);
	if (l.wrong && ret->n == max)
		return fcm_fail(err, FCM_TOO_LARGE, "%s", l.wrong);
	if (l.wrong)
		return fail_damaged(l.wrong, err);
	if (ret->n)
		qsort(ret->v, ret->n, sizeof *ret->v, by_name);
	return 0;
}

void reader_names_done(struct reader_names *names)
{
	for (size_t i = 0; i < names->n; i++)
		free(names->v[i].name);
	free(names->v);
	*names = (struct reader_names){0};
}

int reader_find(struct reader *r, uint32_t dir, const char *name, uint32_t *ret, struct fcm_error *err)
{
	ext2_ino_t found = 0;
	errcode_t code = ext2fs_lookup(r->fs, dir, name, (int)strlen(name), NULL, &found);

	*ret = found;
	return code && code != EXT2_ET_FILE_NOT_FOUND ? fail_ext(code, "read a directory", err) : 0;
}

/* ---- inodes ---- */

static int add_xattr(char *name, char *value, size_t n, void *arg)
{
	struct reader_inode *i = arg;
	void *copy = xalloc(n + 1);

	memcpy(copy, value, n);
	i->xattrs = xrealloc(i->xattrs, (i->xattrs_n + 1) * sizeof *i->xattrs);
	i->xattrs[i->xattrs_n++] = (struct reader_xattr){xstrdup(name), copy, n};
	return 0;
}

static int read_xattrs(struct reader *r, uint32_t number, struct reader_inode *ret, struct fcm_error *err)
{
	struct ext2_xattr_handle *h;
	errcode_t code = ext2fs_xattrs_open(r->fs, number, &h);

	if (code)
		return fail_ext(code, "read extended attributes", err);
	code = ext2fs_xattrs_read(h);
	if (code == 0)
		code = ext2fs_xattrs_iterate(h, add_xattr, ret);
	ext2fs_xattrs_close(&h);
	return code ? fail_ext(code, "read extended attributes", err) : 0;
}

/* As the kernel unpacks a dev_t: of 16 bits (old_decode_dev()), or of 32 (new_decode_dev()). */
static void read_device(const struct ext2_inode_large *n, struct reader_inode *ret)
{
	uint32_t old = n->i_block[0], dev = n->i_block[1];

	ret->major = old ? old >> 8 & 0xff : dev >> 8 & 0xfff;
	ret->minor = old ? old & 0xff : (dev & 0xff) | (dev >> 12 & 0xfff00);
}

int reader_read(struct reader *r, uint64_t disk, void *p, size_t n, struct fcm_error *err)
{
	ssize_t got = pread(r->fd, p, n, (off_t)disk);

	if (got < 0)
		return fcm_fail_errno(err, "read the file system");
	return (size_t)got == n ? 0 : fail_damaged("it leads behind its end", err);
}

static int read_link(struct reader *r, uint32_t number, struct ext2_inode_large *n, struct reader_inode *ret,
	struct fcm_error *err)
{
	auto_free char *target = xalloc(PATH_MAX);
	struct ext2_inode *small = (struct ext2_inode *)n;
	blk64_t block;

	if (ret->size == 0 || ret->size >= PATH_MAX || ret->size > r->fs->blocksize)
		return fail_damaged("a symbolic link of an impossible length", err);
	if (ret->size < FAST_LINK) {
		memcpy(target, n->i_block, ret->size);
	} else {
		errcode_t code = ext2fs_bmap2(r->fs, number, small, NULL, 0, 0, NULL, &block);
		if (code)
			return fail_ext(code, "read a symbolic link", err);
		if (reader_read(r, block * r->fs->blocksize, target, ret->size, err) < 0)
			return -1;
	}
	target[ret->size] = '\0';
	if (strlen(target) != ret->size)
		return fail_damaged("a symbolic link with a NUL in it", err);
	ret->target = STEAL(target);
	return 0;
}

static void take_inode(const struct ext2_inode_large *n, struct reader_inode *ret)
{
	*ret = (struct reader_inode){
		.mode = n->i_mode,
		.uid = n->i_uid | (uint32_t)n->osd2.linux2.l_i_uid_high << 16,
		.gid = n->i_gid | (uint32_t)n->osd2.linux2.l_i_gid_high << 16,
		.links = n->i_links_count,
		.mtime = (int32_t)n->i_mtime + ((int64_t)(n->i_mtime_extra & EPOCH) << 32),
		.size = S_ISREG(n->i_mode) || S_ISLNK(n->i_mode) ? EXT2_I_SIZE(n) : 0,
	};
	if (S_ISCHR(n->i_mode) || S_ISBLK(n->i_mode))
		read_device(n, ret);
}

int reader_inode(struct reader *r, uint32_t number, struct reader_inode *ret, struct fcm_error *err)
{
	struct ext2_inode_large n = {0};
	errcode_t code = ext2fs_read_inode_full(r->fs, number, (struct ext2_inode *)&n, sizeof n);

	*ret = (struct reader_inode){0};
	if (code)
		return fail_ext(code, "read an inode", err);
	take_inode(&n, ret);
	if (n.i_flags & (EXT4_INLINE_DATA_FL | EXT4_ENCRYPT_FL))
		return fcm_fail(err, FCM_INVALID, "it is kept encrypted or in its inode");
	if (read_xattrs(r, number, ret, err) < 0)
		return -1;
	return S_ISLNK(ret->mode) ? read_link(r, number, &n, ret, err) : 0;
}

void reader_inode_done(struct reader_inode *i)
{
	for (size_t k = 0; k < i->xattrs_n; k++) {
		free(i->xattrs[k].name);
		free(i->xattrs[k].value);
	}
	free(i->xattrs);
	free(i->target);
	*i = (struct reader_inode){0};
}

/* ---- the data of a file ---- */

struct collecting {
	struct reader_runs *runs;
	size_t room;
	uint64_t block, size;
	uint64_t end; /* of what was there so far */
};

/* Blocks that were only reserved read as zeros, and so do those behind the end. */
static int add_extent(struct collecting *c, const struct ext2fs_extent *e, struct fcm_error *err)
{
	struct reader_run run = {e->e_lblk * c->block, e->e_len * c->block, e->e_pblk * c->block};

	if (run.at < c->end)
		return fail_damaged("a file has something twice", err);
	c->end = run.at + run.n;
	if (e->e_flags & EXT2_EXTENT_FLAGS_UNINIT || run.at >= c->size)
		return 0;
	if (c->runs->n == RUNS_MAX)
		return fcm_fail(err, FCM_TOO_LARGE, "it is in more than %d pieces", RUNS_MAX);
	if (c->runs->n == c->room) {
		c->room = MAX(c->room * 2, (size_t)4);
		c->runs->v = xrealloc(c->runs->v, c->room * sizeof *c->runs->v);
	}
	run.n = MIN(run.n, c->size - run.at);
	c->runs->v[c->runs->n++] = run;
	return 0;
}

static int walk_extents(ext2_extent_handle_t h, struct collecting *c, struct fcm_error *err)
{
	struct ext2fs_extent e;
	errcode_t code;

	for (int op = EXT2_EXTENT_ROOT; (code = ext2fs_extent_get(h, op, &e)) == 0; op = EXT2_EXTENT_NEXT)
		if (e.e_flags & EXT2_EXTENT_FLAGS_LEAF && add_extent(c, &e, err) < 0)
			return -1;
	return code == EXT2_ET_EXTENT_NO_NEXT || code == EXT2_ET_NO_CURRENT_NODE
		       ? 0
		       : fail_ext(code, "read a file", err);
}

int reader_runs(
	struct reader *r, uint32_t number, uint64_t size, struct reader_runs *ret, struct fcm_error *err)
{
	struct collecting c = {.runs = ret, .block = r->fs->blocksize, .size = size};
	struct ext2_inode n;
	ext2_extent_handle_t h;

	*ret = (struct reader_runs){0};
	errcode_t code = ext2fs_read_inode(r->fs, number, &n);
	if (code)
		return fail_ext(code, "read an inode", err);
	if (!(n.i_flags & EXT4_EXTENTS_FL)) {
		fcm_fail(err, FCM_INVALID, "its blocks are listed as ext3 did");
		return fcm_hint(err, "chattr +e in the guest, or copy it there");
	}
	code = ext2fs_extent_open2(r->fs, number, &n, &h);
	if (code)
		return fail_ext(code, "read a file", err);
	int rc = walk_extents(h, &c, err);
	ext2fs_extent_free(h);
	return rc;
}

void reader_runs_done(struct reader_runs *runs)
{
	free(runs->v);
	*runs = (struct reader_runs){0};
}
