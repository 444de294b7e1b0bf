#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "common/core/fileio.h"
#include "common/core/tar.h"
#include "common/core/tree.h"

enum { TEMP_MAX = 32 };

/* A directory on the way to where we are. What the archive says of one that we made is done when we leave it: until then
 * it must be ours to write to, and its time changes. */
struct level {
	int fd;
	char *name; /* in the one before; of the first NULL */
	bool made, said;
	unsigned mode;
	uint32_t uid, gid;
	int64_t mtime;
};

struct unpacker {
	unsigned flags;
	struct tree_count *count;
	struct level levels[TREE_DEPTH_MAX + 1]; /* and the target */
	size_t depth;				 /* levels that are open; the first is the target */

	/* of TREE_PLACE */
	bool placed;
	const char *target;
	char root[NAME_MAX + 1]; /* the one name that all entries begin with; "": there is none */
	char *rename;		 /* what it is called here, or NULL */

	struct tar_entry e;
	struct tar_reader reader;
};

/* ---- names ---- */

/* Without "." and doubled slashes. A name that is absolute or goes up is refused: it would be no mistake, but an attack. */
static int clean_name(char *name, const char *what, struct fcm_error *err)
{
	char *to = name;

	if (name[0] == '/')
		return fcm_fail(err, FCM_INVALID, "the archive's %s '%.200s' begins with /", what, name);
	for (char *from = name; *from;) {
		size_t n = strcspn(from, "/");
		bool last = from[n] == '\0';
		if (n == 2 && strncmp(from, "..", 2) == 0)
			return fcm_fail(err, FCM_INVALID, "the archive's %s '%.200s' has a ..", what, name);
		if (n > NAME_MAX)
			return fcm_fail(
				err, FCM_INVALID, "the archive's %s '%.64s...' is too long", what, name);
		if (n > 0 && !(n == 1 && *from == '.')) {
			if (to > name)
				*to++ = '/';
			memmove(to, from, n);
			to += n;
		}
		from += n + !last;
	}
	*to = '\0';
	return 0;
}

/* In place of the archive's one name the one that it has here. */
static int place_name(const struct unpacker *u, char *name, const char *what, struct fcm_error *err)
{
	char copy[TAR_PATH_MAX];
	size_t n = strlen(u->root);

	if (clean_name(name, what, err) < 0)
		return -1;
	if (n == 0)
		return 0;
	if (strncmp(name, u->root, n) != 0 || (name[n] != '\0' && name[n] != '/'))
		return fcm_fail(err, FCM_INVALID, "the archive has '%.128s' beside '%.128s'", name, u->root);
	if (u->rename == NULL)
		return 0;
	fcm_copy(copy, sizeof copy, name + n);
	if (!fcm_format(name, TAR_PATH_MAX, "%s%s", u->rename, copy))
		return fcm_fail(err, FCM_INVALID, "the archive's %s '%.64s...' is too long", what, name);
	return 0;
}

/* ---- levels ---- */

static mode_t mode_of(const struct unpacker *u, unsigned mode)
{
	return mode & (u->flags & TREE_SETID ? 07777 : 0777);
}

static int fail_make(const char *path, struct fcm_error *err)
{
	return fcm_fail_errno(err, "make '%.200s'", path);
}

/* In this order: a change of the owner clears the setuid bit, and it may take away our right to change the mode. */
static int set_attributes(
	const struct unpacker *u, int fd, unsigned mode, uint32_t uid, uint32_t gid, int64_t mtime)
{
	const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = mtime}};

	if (u->flags & TREE_OWNERS && fchown(fd, uid, gid) < 0)
		return -1;
	return fchmod(fd, mode_of(u, mode)) < 0 || futimens(fd, times) < 0 ? -1 : 0;
}

static int leave(struct unpacker *u, struct fcm_error *err)
{
	struct level *l = &u->levels[--u->depth];
	int r = 0;

	if (l->made && l->said && set_attributes(u, l->fd, l->mode, l->uid, l->gid, l->mtime) < 0)
		r = fcm_fail_errno(err, "mode and owner of '%.200s'", l->name ? l->name : u->target);
	fcm_closep(&l->fd);
	free(STEAL(l->name));
	return r;
}

/* Enter `name` of the directory where we are; make it where it isn't there. */
static int enter(struct unpacker *u, const char *name, struct fcm_error *err)
{
	int parent = u->levels[u->depth - 1].fd;
	struct level l = {.fd = -1};

	if (u->depth == ARRAY_SIZE(u->levels))
		return fcm_fail(err, FCM_INVALID, "'%.200s' is more than %d directories deep", u->e.path,
			TREE_DEPTH_MAX);
	if (mkdirat(parent, name, 0700) == 0)
		l.made = true;
	else if (errno != EEXIST)
		return fail_make(u->e.path, err);
	/* one that is there may be closed to readers; ours needs fchmod(2), which O_PATH doesn't have */
	l.fd = openat(parent, name, (l.made ? O_RDONLY : O_PATH) | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (l.fd < 0 && (errno == ENOTDIR || errno == ELOOP)) {
		fcm_fail_field(err, FCM_INVALID, "path",
			"'%.200s': what is called '%.128s' there is no directory", u->e.path, name);
		return fcm_hint(err, "links below the target aren't followed: copy to where it leads");
	}
	if (l.fd < 0)
		return fail_make(u->e.path, err);
	l.name = xstrdup(name);
	/* what nobody says more about: a directory that only stands in names */
	l.said = l.made;
	l.mode = 0755;
	l.uid = l.gid = 0;
	l.mtime = u->e.mtime;
	u->levels[u->depth++] = l;
	return 0;
}

/* Be in the directory that `path` names; *ret is what is behind its last slash, or with `whole` nothing. */
static int go_to(struct unpacker *u, const char *path, bool whole, const char **ret, struct fcm_error *err)
{
	size_t depth = 1;
	const char *s = path, *end;
	char name[NAME_MAX + 1];

	for (; (end = strchr(s, '/')) || (whole && *s); s = end + (*end == '/')) {
		end = end ? end : s + strlen(s);
		fcm_format(name, sizeof name, "%.*s", (int)(end - s), s);
		if (depth < u->depth && strcmp(u->levels[depth].name, name) != 0)
			while (u->depth > depth)
				if (leave(u, err) < 0)
					return -1;
		if (depth == u->depth && enter(u, name, err) < 0)
			return -1;
		depth++;
	}
	while (u->depth > depth)
		if (leave(u, err) < 0)
			return -1;
	*ret = s;
	return 0;
}

/* ---- one entry ---- */

static void temp_name(char ret[static TEMP_MAX])
{
	uint64_t random = 0;

	(void)!getrandom(&random, sizeof random, 0);
	fcm_format(ret, TEMP_MAX, ".fcm-%016" PRIx64, random);
}

/* What may be replaced: nothing, a file, a link. */
static int check_place(int dirfd, const char *name, const char *path, struct fcm_error *err)
{
	struct stat st;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : fail_make(path, err);
	if (S_ISREG(st.st_mode) || S_ISLNK(st.st_mode))
		return 0;
	fcm_fail_field(err, FCM_INVALID, "path", "'%.200s' is %s there: it isn't replaced", path,
		S_ISDIR(st.st_mode) ? "a directory" : "a device, fifo or socket");
	return fcm_hint(err, "give another name, or remove it first");
}

/* Under its own name what stands under `temp`. Where both are names of one file rename(2) does nothing, so `temp` is removed. */
static int put_in_place(
	int dirfd, const char *temp, const char *name, const char *path, struct fcm_error *err)
{
	int r = check_place(dirfd, name, path, err);

	if (r == 0 && renameat(dirfd, temp, dirfd, name) < 0)
		r = fail_make(path, err);
	unlinkat(dirfd, temp, 0);
	return r;
}

static int write_data(struct unpacker *u, int fd, struct fcm_error *err)
{
	const char *p;
	uint64_t at;
	ssize_t n;

	while ((n = tar_data(&u->reader, &p, &at, err)) > 0) {
		for (ssize_t done = 0, r; done < n; done += r) {
			r = pwrite(fd, p + done, (size_t)(n - done), (off_t)at + done);
			if (r < 0)
				return fcm_fail_errno(err, "write '%.200s'", u->e.path);
		}
		u->count->bytes += (uint64_t)n;
	}
	if (n < 0)
		return -1;
	return u->e.map && ftruncate(fd, (off_t)u->e.size) < 0
		       ? fcm_fail_errno(err, "write '%.200s'", u->e.path)
		       : 0;
}

static int unpack_file(struct unpacker *u, int dirfd, const char *name, struct fcm_error *err)
{
	const struct tar_entry *e = &u->e;
	char temp[TEMP_MAX];

	if (check_place(dirfd, name, e->path, err) < 0)
		return -1;
	temp_name(temp);
	auto_close int fd = openat(dirfd, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return fail_make(e->path, err);
	if (write_data(u, fd, err) < 0) {
		unlinkat(dirfd, temp, 0);
		return -1;
	}
	if (set_attributes(u, fd, e->mode, e->uid, e->gid, e->mtime) < 0) {
		fcm_fail_errno(err, "mode and owner of '%.200s'", e->path);
		unlinkat(dirfd, temp, 0);
		return -1;
	}
	return put_in_place(dirfd, temp, name, e->path, err);
}

/* Links, devices and fifos: `make` makes it under a name that is free. */
static int unpack_node(struct unpacker *u, int dirfd, const char *name,
	int (*make)(struct unpacker *u, int dirfd, const char *temp), struct fcm_error *err)
{
	const struct tar_entry *e = &u->e;
	char temp[TEMP_MAX];

	temp_name(temp);
	if (make(u, dirfd, temp) < 0)
		return fail_make(e->path, err);
	if (e->type != TAR_HARDLINK && u->flags & TREE_OWNERS &&
		fchownat(dirfd, temp, e->uid, e->gid, AT_SYMLINK_NOFOLLOW) < 0) {
		fcm_fail_errno(err, "owner of '%.200s'", e->path);
		unlinkat(dirfd, temp, 0);
		return -1;
	}
	return put_in_place(dirfd, temp, name, e->path, err);
}

static int make_symlink(struct unpacker *u, int dirfd, const char *temp)
{
	const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = u->e.mtime}};

	return symlinkat(u->e.link, dirfd, temp) < 0 || utimensat(dirfd, temp, times, AT_SYMLINK_NOFOLLOW) < 0
		       ? -1
		       : 0;
}

static int make_device(struct unpacker *u, int dirfd, const char *temp)
{
	const struct tar_entry *e = &u->e;
	mode_t type = e->type == TAR_CHAR ? S_IFCHR : e->type == TAR_BLOCKDEV ? S_IFBLK : S_IFIFO;

	if (mknodat(dirfd, temp, type | 0600, makedev(e->major, e->minor)) < 0)
		return -1;
	/* ours, under a name that nobody else knows */
	return fchmodat(dirfd, temp, mode_of(u, e->mode), 0);
}

/* Open the directory of a name from the target on, without a link on the way. */
static int open_parent(const struct unpacker *u, const char *path, const char **ret_name)
{
	auto_close int fd = fcntl(u->levels[0].fd, F_DUPFD_CLOEXEC, 0);
	char name[NAME_MAX + 1];
	const char *end;

	for (; fd >= 0 && (end = strchr(path, '/')); path = end + 1) {
		fcm_format(name, sizeof name, "%.*s", (int)(end - path), path);
		int next = openat(fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		fcm_closep(&fd);
		fd = next;
	}
	*ret_name = path;
	return STEAL_FD(fd);
}

/* A second name of a file below the target; of a link it is the link's own, which linkat(2) doesn't follow. */
static int make_hardlink(struct unpacker *u, int dirfd, const char *temp)
{
	const char *name;
	auto_close int from = open_parent(u, u->e.link, &name);

	return from < 0 ? -1 : linkat(from, name, dirfd, temp, 0);
}

static int unpack_dir(struct unpacker *u, struct fcm_error *err)
{
	const char *rest;

	if (go_to(u, u->e.path, true, &rest, err) < 0)
		return -1;
	struct level *l = &u->levels[u->depth - 1];
	l->said = true;
	l->mode = u->e.mode;
	l->uid = u->e.uid;
	l->gid = u->e.gid;
	l->mtime = u->e.mtime;
	return 0;
}

static int unpack_other(struct unpacker *u, struct fcm_error *err)
{
	const char *name;

	if (u->e.path[0] == '\0')
		return fcm_fail(err, FCM_INVALID, "the archive has a file without a name");
	if (go_to(u, u->e.path, false, &name, err) < 0)
		return -1;
	int dirfd = u->levels[u->depth - 1].fd;
	switch (u->e.type) {
	case TAR_DIR:
	case TAR_FILE:
		return unpack_file(u, dirfd, name, err);
	case TAR_SYMLINK:
		return unpack_node(u, dirfd, name, make_symlink, err);
	case TAR_HARDLINK:
		return place_name(u, u->e.link, "link to", err) < 0
			       ? -1
			       : unpack_node(u, dirfd, name, make_hardlink, err);
	case TAR_CHAR:
	case TAR_BLOCKDEV:
	case TAR_FIFO:
		break;
	}
	if (u->flags & TREE_DEVICES)
		return unpack_node(u, dirfd, name, make_device, err);
	u->count->skipped++;
	return 0;
}

/* ---- the target ---- */

static int fail_target(const char *why, const char *target, struct fcm_error *err)
{
	fcm_fail_field(err, FCM_NOT_FOUND, "path", "%s '%.200s'", why, target);
	return fcm_hint(err, "%s", "");
}

static int open_target(struct unpacker *u, const char *path, bool made, struct fcm_error *err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 && errno == EACCES)
		fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
		return fail_target("there is no directory", path, err);
	if (fd < 0)
		return fcm_fail_errno(err, "open '%.200s'", path);
	u->levels[u->depth++] = (struct level){.fd = fd, .made = made};
	return 0;
}

/* The target without what is behind its last slash, and that. A target that ends in slashes is meant without them. */
static int open_beside(struct unpacker *u, struct fcm_error *err)
{
	auto_free char *path = xstrdup(u->target), *dir = NULL;
	size_t n = strlen(path);

	while (n > 1 && path[n - 1] == '/')
		path[--n] = '\0';
	char *slash = strrchr(path, '/');
	u->rename = xstrdup(slash ? slash + 1 : path);
	dir = slash == path ? xstrdup("/")
	      : slash	    ? xprintf("%.*s", (int)(slash - path), path)
			    : xstrdup(".");
	return open_target(u, dir, false, err);
}

/* The first entry decides where all of them go. */
static int place(struct unpacker *u, struct fcm_error *err)
{
	const struct tar_entry *e = &u->e;
	size_t n = strcspn(e->path, "/");
	bool is_dir = e->type == TAR_DIR || e->path[n] != '\0',
	     slash = *u->target && u->target[strlen(u->target) - 1] == '/';
	struct stat st;

	u->placed = true;
	fcm_format(u->root, sizeof u->root, "%.*s", (int)n, e->path);
	if (stat(u->target, &st) == 0) {
		if (S_ISDIR(st.st_mode))
			return open_target(u, u->target, false, err);
		return is_dir ? fcm_fail_field(err, FCM_INVALID, "path",
					"'%.200s' is no directory, and what is copied is one", u->target)
			      : open_beside(u, err);
	}
	if (errno != ENOENT)
		return errno == ENOTDIR ? fail_target("there is no directory", u->target, err)
					: fcm_fail_errno(err, "'%.200s'", u->target);
	if (slash && !is_dir)
		return fail_target("there is no directory", u->target, err);
	if (u->root[0])
		return open_beside(u, err);
	if (mkdir(u->target, 0700) < 0)
		return errno == ENOENT ? fail_target("there is no directory for", u->target, err)
				       : fail_make(u->target, err);
	return open_target(u, u->target, true, err);
}

static int unpack_entry(struct unpacker *u, struct fcm_error *err)
{
	struct tar_entry *e = &u->e;

	if (++u->count->entries > TREE_ENTRIES_MAX)
		return fcm_fail(err, FCM_INVALID, "the archive has more than %d entries", TREE_ENTRIES_MAX);
	if (clean_name(e->path, "name", err) < 0 ||
		(u->flags & TREE_PLACE && !u->placed && place(u, err) < 0) ||
		place_name(u, e->path, "name", err) < 0)
		return -1;
	if ((e->type == TAR_DIR ? unpack_dir(u, err) : unpack_other(u, err)) == 0)
		return 0;
	return fcm_wrap(err, "to '%.200s'", u->target);
}

static int unpack_all(struct unpacker *u, struct fcm_error *err)
{
	int r;

	if (!(u->flags & TREE_PLACE) && open_target(u, u->target, false, err) < 0)
		return -1;
	while ((r = tar_next(&u->reader, &u->e, err)) > 0)
		if (unpack_entry(u, err) < 0)
			return -1;
	if (r == 0 && u->count->entries == 0)
		return fcm_fail(err, FCM_INVALID, "the archive is empty");
	tar_drain(&u->reader);
	return r;
}

int tree_check_name(const void *head, size_t n, const char *path, struct fcm_error *err)
{
	auto_free struct tar_reader *r = xalloc(sizeof *r);
	auto_free struct tar_entry *e = xalloc(sizeof *e);
	auto_close int fd = memfd_create("head", MFD_CLOEXEC);
	char name[PATH_MAX];

	if (fd < 0 || fd_write_all(fd, head, n) < 0 || lseek(fd, 0, SEEK_SET) < 0)
		return fcm_fail_errno(err, "keep the begin of an archive");
	r->fd = fd;
	int rc = tar_next(r, e, err);
	tar_reader_done(r);
	if (rc <= 0)
		return rc; /* an empty one has no name */
	if (clean_name(e->path, "name", err) < 0)
		return -1;
	e->path[strcspn(e->path, "/")] = '\0';
	tree_name(path, name);
	/* what is in a directory may be called anything */
	if (strcmp(name, ".") == 0 || strcmp(name, e->path) == 0)
		return 0;
	return fcm_fail(
		err, FCM_INVALID, "what came is called '%.128s', and '%.128s' was asked for", e->path, name);
}

int tree_unpack(int fd, const char *target, unsigned flags, struct tree_count *ret, struct fcm_error *err)
{
	auto_free struct unpacker *u = xalloc(sizeof *u);
	struct fcm_error ignored;

	*ret = (struct tree_count){0};
	u->flags = flags;
	u->count = ret;
	u->target = target;
	u->reader.fd = fd;
	int r = unpack_all(u, err);
	while (u->depth > 0)
		if (leave(u, r < 0 ? &ignored : err) < 0)
			r = -1;
	tar_reader_done(&u->reader);
	free(u->rename);
	return r;
}
