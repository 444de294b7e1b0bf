#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include "common/core/fileio.h"
#include "common/core/tar.h"
#include "common/core/tree.h"

struct packer {
	int fd;
	unsigned flags, depth;
	struct tree_count *count;
	bool broken; /* the reader is gone, or waits for the rest of a file: nothing can be said in the archive */
	struct buf head;
	struct tar_entry e; /* e.path is where we are */
	struct tar_segment map[TREE_SEGMENTS_MAX];
	char bytes[TAR_BUFFER];
};

/* ---- to the archive ---- */

static int write_out(struct packer *p, const void *data, size_t n, struct fcm_error *err)
{
	if (fd_write_all(p->fd, data, n) == 0)
		return 0;
	p->broken = true;
	if (errno == EPIPE)
		return fcm_fail(err, FCM_CANCELLED, "nobody reads the archive any more");
	return fcm_fail_errno(err, "write the archive");
}

static int flush_head(struct packer *p, struct fcm_error *err)
{
	int r = write_out(p, p->head.p, p->head.n, err);

	p->head.n = 0;
	return r;
}

/* ---- one entry ---- */

static void fill_entry(struct packer *p, const struct stat *st)
{
	struct tar_entry *e = &p->e;
	bool keep = p->flags & TREE_OWNERS;

	e->mode = st->st_mode & 07777;
	e->uid = keep ? st->st_uid : 0;
	e->gid = keep ? st->st_gid : 0;
	e->mtime = st->st_mtime;
	e->major = major(st->st_rdev);
	e->minor = minor(st->st_rdev);
	e->size = 0;
	e->link[0] = '\0';
	e->map = NULL;
	e->segments = 0;
}

static int fail_read(const struct packer *p, struct fcm_error *err)
{
	return fcm_fail_errno(err, "read '%.200s'", p->e.path);
}

/* Where the file has data (lseek(2), SEEK_HOLE), in whole blocks, which GNU tar takes for granted; no map for one that has no
 * holes, and none where the file system doesn't say. */
static void find_segments(struct packer *p, int fd)
{
	struct tar_entry *e = &p->e;
	off_t size = (off_t)e->size, at = 0, hole;

	for (e->segments = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0 && at < size; at = hole) {
		hole = lseek(fd, at, SEEK_HOLE);
		at -= at % TAR_BLOCK;
		hole += -hole & (TAR_BLOCK - 1);
		if (hole < 0 || hole > size || e->segments == TREE_SEGMENTS_MAX - 1)
			hole = size;
		p->map[e->segments++] = (struct tar_segment){(uint64_t)at, (uint64_t)(hole - at)};
	}
	bool known = at >= 0 || errno == ENXIO, whole = e->segments == 1 && p->map[0].n == e->size;
	e->map = known && !whole && size > 0 ? p->map : NULL;
	e->segments = e->map ? e->segments : 0;
}

static int pack_segment(struct packer *p, int fd, const struct tar_segment *s, struct fcm_error *err)
{
	for (uint64_t done = 0; done < s->n;) {
		size_t want = (size_t)MIN(s->n - done, (uint64_t)sizeof p->bytes);
		ssize_t n = pread(fd, p->bytes, want, (off_t)(s->at + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail_read(p, err);
		if (n == 0)
			return fcm_fail(
				err, FCM_HOST, "'%.200s' became shorter while it was read", p->e.path);
		if (write_out(p, p->bytes, (size_t)n, err) < 0)
			return -1;
		done += (uint64_t)n;
	}
	p->count->bytes += s->n;
	return 0;
}

static uint64_t sum_of(const struct tar_entry *e)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < e->segments; i++)
		sum += e->map[i].n;
	return e->map ? sum : e->size;
}

/* The one who lists a directory and the one who opens what is in it may see different things; what is opened counts. */
static int open_file(
	const struct packer *p, int dirfd, const char *name, struct stat *st, struct fcm_error *err)
{
	auto_close int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, st) < 0)
		return fail_read(p, err);
	if (!S_ISREG(st->st_mode))
		return fcm_fail(err, FCM_HOST, "'%.200s' became something else while it was read", p->e.path);
	return STEAL_FD(fd);
}

static int pack_file(struct packer *p, int dirfd, const char *name, struct fcm_error *err)
{
	struct stat st;
	auto_close int fd = open_file(p, dirfd, name, &st, err);

	if (fd < 0)
		return -1;
	fill_entry(p, &st);
	p->e.type = TAR_FILE;
	p->e.size = (uint64_t)st.st_size;
	find_segments(p, fd);
	tar_add(&p->head, &p->e);
	if (flush_head(p, err) < 0)
		return -1;
	const struct tar_segment whole = {0, p->e.size};
	p->broken = true;
	for (size_t i = 0; i < (p->e.map ? p->e.segments : 1); i++) {
		const struct tar_segment *s = p->e.map ? &p->e.map[i] : &whole;
		if (pack_segment(p, fd, s, err) < 0)
			return -1;
	}
	p->broken = false;
	tar_pad(&p->head, sum_of(&p->e));
	return flush_head(p, err);
}

static int pack_link(struct packer *p, int dirfd, const char *name, struct fcm_error *err)
{
	ssize_t n = readlinkat(dirfd, name, p->e.link, sizeof p->e.link - 1);

	if (n < 0)
		return fail_read(p, err);
	p->e.link[n] = '\0';
	p->e.type = TAR_SYMLINK;
	tar_add(&p->head, &p->e);
	return flush_head(p, err);
}

static int pack_other(struct packer *p, mode_t mode, struct fcm_error *err)
{
	p->e.type = S_ISCHR(mode) ? TAR_CHAR : S_ISBLK(mode) ? TAR_BLOCKDEV : TAR_FIFO;
	tar_add(&p->head, &p->e);
	return flush_head(p, err);
}

/* ---- directories ---- */

static int pack_one(struct packer *p, int dirfd, const char *name, struct fcm_error *err);

/* A file system that the kernel makes up: it may have no end. */
static bool is_made_up(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && (fs.f_type == PROC_SUPER_MAGIC || fs.f_type == SYSFS_MAGIC);
}

static int pack_child(struct packer *p, int dirfd, const char *name, struct fcm_error *err)
{
	size_t before = strlen(p->e.path);

	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return 0;
	if (!fcm_format(p->e.path + before, sizeof p->e.path - before, "/%s", name))
		return fcm_fail(err, FCM_INVALID, "'%.200s...' is a name of more than %d bytes", p->e.path,
			TAR_PATH_MAX - 1);
	int r = pack_one(p, dirfd, name, err);
	p->e.path[before] = '\0';
	return r;
}

static void closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

static DIR *open_dir(const struct packer *p, int parent, const char *name, struct fcm_error *err)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (d == NULL) {
		fail_read(p, err);
		fcm_closep(&fd);
	}
	return d;
}

/* `outer` is the device of the directory that this one is in. */
static int pack_dir(struct packer *p, int parent, const char *name, dev_t outer, struct fcm_error *err)
{
	_cleanup_(closedirp) DIR *d = open_dir(p, parent, name, err);
	struct stat st;

	if (d == NULL)
		return -1;
	if (p->depth == TREE_DEPTH_MAX)
		return fcm_fail(err, FCM_INVALID, "'%.200s' is more than %d directories deep", p->e.path,
			TREE_DEPTH_MAX);
	p->e.type = TAR_DIR;
	tar_add(&p->head, &p->e);
	if (flush_head(p, err) < 0)
		return -1;
	if (fstat(dirfd(d), &st) < 0)
		return fail_read(p, err);
	if (st.st_dev != outer && is_made_up(dirfd(d)))
		return 0;
	p->depth++;
	errno = 0;
	for (struct dirent *entry; (entry = readdir(d)); errno = 0)
		if (pack_child(p, dirfd(d), entry->d_name, err) < 0)
			return -1;
	p->depth--;
	return errno ? fail_read(p, err) : 0;
}

static int pack_one(struct packer *p, int dirfd, const char *name, struct fcm_error *err)
{
	struct stat st, outer;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		/* what was removed meanwhile isn't there */
		return p->depth > 0 && errno == ENOENT ? 0 : fail_read(p, err);
	if (S_ISSOCK(st.st_mode)) {
		p->count->skipped++;
		return 0;
	}
	p->count->entries++;
	fill_entry(p, &st);
	if (S_ISREG(st.st_mode))
		return pack_file(p, dirfd, name, err);
	if (S_ISLNK(st.st_mode))
		return pack_link(p, dirfd, name, err);
	if (!S_ISDIR(st.st_mode))
		return pack_other(p, st.st_mode, err);
	if (p->depth == 0)
		outer = st;
	else if (fstat(dirfd, &outer) < 0)
		return fail_read(p, err);
	return pack_dir(p, dirfd, name, outer.st_dev, err);
}

/* ---- the whole ---- */

void tree_name(const char *path, char ret[static PATH_MAX])
{
	size_t end = strlen(path), begin;

	while (end > 0 && path[end - 1] == '/')
		end--;
	for (begin = end; begin > 0 && path[begin - 1] != '/';)
		begin--;
	fcm_format(ret, PATH_MAX, "%.*s", (int)(end - begin), path + begin);
	if (ret[0] == '\0' || strcmp(ret, "..") == 0)
		fcm_copy(ret, PATH_MAX, ".");
}

static int check_root(const char *path, struct fcm_error *err)
{
	struct stat st;

	if (fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		fcm_fail_errno(err, "'%.200s'", path);
		if (err->sys == ENOENT || err->sys == ENOTDIR)
			fcm_fail_field(err, FCM_NOT_FOUND, "path", "there is no '%.200s'", path);
		return fcm_hint(err, "%s", "");
	}
	if (S_ISSOCK(st.st_mode))
		return fcm_fail_field(err, FCM_INVALID, "path", "'%.200s' is a socket", path);
	return 0;
}

/* Say in the archive why it has no end. In the middle of a file it just ends: zeros in place of the rest would be taken for it. */
static void say_error(struct packer *p, const struct fcm_error *err)
{
	struct fcm_error ignored;

	p->head.n = 0;
	tar_add_error(&p->head, err->msg);
	if (!p->broken)
		(void)!flush_head(p, &ignored);
}

static int pack_all(struct packer *p, const char *path, struct fcm_error *err)
{
	if (check_root(path, err) < 0)
		return -1;
	if (pack_one(p, AT_FDCWD, path, err) < 0) {
		say_error(p, err);
		return -1;
	}
	tar_add_end(&p->head);
	return flush_head(p, err);
}

int tree_pack(int fd, const char *path, unsigned flags, struct tree_count *ret, struct fcm_error *err)
{
	auto_free struct packer *p = xalloc(sizeof *p);

	*ret = (struct tree_count){0};
	p->fd = fd;
	p->flags = flags;
	p->count = ret;
	tree_name(path, p->e.path);
	int r = pack_all(p, path, err);
	buf_done(&p->head);
	return r;
}
