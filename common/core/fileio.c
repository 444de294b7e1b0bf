#include "common/core/fileio.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>

static void closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

/* Whatever it is: its descriptor, to read, or -1. */
static int open_to_look(int dirfd, const char *name, struct stat *ret, struct fcm_error *err)
{
	auto_close int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);

	if (fd < 0 && errno == ENOENT)
		return fcm_fail(err, FCM_NOT_FOUND, "%s: no such file", name);
	if (fd < 0 || fstat(fd, ret) < 0)
		return fcm_fail_errno(err, "open %s", name);
	return STEAL_FD(fd);
}

int file_read(int dirfd, const char *name, size_t max, struct buf *ret, struct fcm_error *err)
{
	struct stat st;
	auto_close int fd = open_to_look(dirfd, name, &st, err);

	if (fd < 0)
		return -1;
	if (!S_ISREG(st.st_mode))
		return fcm_fail(err, FCM_HOST, "%s: not a regular file", name);

	struct buf b = {0};
	char chunk[8192];
	ssize_t n;
	while ((n = read(fd, chunk, sizeof chunk)) > 0) {
		buf_add(&b, chunk, (size_t)n);
		if (b.n > max) {
			buf_done(&b);
			return fcm_fail(err, FCM_TOO_LARGE, "%s: larger than %zu bytes", name, max);
		}
	}
	if (n < 0) {
		buf_done(&b);
		return fcm_fail_errno(err, "read %s", name);
	}
	if (b.n == 0) {
		buf_add(&b, "", 1);
		b.n = 0;
	}
	*ret = b;
	return 0;
}

int file_take_over(int dirfd, const char *name, struct stat *ret, struct fcm_error *err)
{
	auto_close int fd = open_to_look(dirfd, name, ret, err);

	if (fd < 0)
		return -1;
	if (!S_ISREG(ret->st_mode) || ret->st_nlink != 1)
		return fcm_fail(err, FCM_INVALID, "%s is no file, or has other names", name);
	if (fchown(fd, 0, 0) < 0 || fchmod(fd, 0444) < 0)
		return fcm_fail_errno(err, "take %s", name);
	return STEAL_FD(fd);
}

/* The directory that holds `name` below dirfd: for fsync after a rename. */
static int open_parent(int dirfd, const char *name)
{
	const char *slash = strrchr(name, '/');

	if (slash == NULL)
		return openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_free char *parent = strndup(name, (size_t)MAX(slash - name, 1));
	return parent ? openat(dirfd, parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
}

/* Owner and mode of a new file; uid and gid -1: ours. */
struct belongs {
	uid_t uid;
	gid_t gid;
	mode_t mode;
};

static struct belongs ours(mode_t mode)
{
	return (struct belongs){(uid_t)-1, (gid_t)-1, mode};
}

static int write_temp(
	int dirfd, const char *temp, struct belongs to, const void *data, size_t n, bool lasting)
{
	auto_close int fd = openat(dirfd, temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0 || fd_write_all(fd, data, n) < 0 || fchown(fd, to.uid, to.gid) < 0 ||
		fchmod(fd, to.mode) < 0)
		return -1;
	return lasting ? fsync(fd) : 0;
}

static int replace(int dirfd, const char *name, struct belongs to, const void *data, size_t n, bool lasting,
	struct fcm_error *err)
{
	uint32_t r;
	if (getrandom(&r, sizeof r, 0) != sizeof r)
		return fcm_fail_errno(err, "getrandom");
	auto_free char *temp = xprintf("%s.%08x.tmp", name, r);

	if (write_temp(dirfd, temp, to, data, n, lasting) < 0 || renameat(dirfd, temp, dirfd, name) < 0) {
		fcm_fail_errno(err, "write %s", name);
		unlinkat(dirfd, temp, 0);
		return -1;
	}
	return 0;
}

int file_replace(int dirfd, const char *name, mode_t mode, const void *data, size_t n, struct fcm_error *err)
{
	return replace(dirfd, name, ours(mode), data, n, false, err);
}

static int write_atomic(
	int dirfd, const char *name, struct belongs to, const void *data, size_t n, struct fcm_error *err)
{
	if (replace(dirfd, name, to, data, n, true, err) < 0)
		return -1;
	auto_close int parent = open_parent(dirfd, name);
	if (parent < 0 || fsync(parent) < 0)
		return fcm_fail_errno(err, "fsync the directory of %s", name);
	return 0;
}

int file_write_atomic(
	int dirfd, const char *name, mode_t mode, const void *data, size_t n, struct fcm_error *err)
{
	return write_atomic(dirfd, name, ours(mode), data, n, err);
}

int file_write_like(int dirfd, const char *name, const struct stat *like, const void *data, size_t n,
	struct fcm_error *err)
{
	const struct belongs to = {like->st_uid, like->st_gid, like->st_mode & 0777};

	return write_atomic(dirfd, name, to, data, n, err);
}

int file_poke(const char *path, const char *text, struct fcm_error *err)
{
	auto_close int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		return fcm_fail_errno(err, "write %s to %s", text, path);
	return 0;
}

int fd_read_all(int fd, void *data, size_t n)
{
	for (char *p = data; n > 0;) {
		ssize_t k = read(fd, p, n);
		if (k < 0 && errno == EINTR)
			continue;
		if (k == 0)
			errno = EPIPE;
		if (k <= 0)
			return -1;
		p += k;
		n -= (size_t)k;
	}
	return 0;
}

int fd_write_all(int fd, const void *data, size_t n)
{
	for (const char *p = data; n > 0;) {
		ssize_t k = write(fd, p, n);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -1;
		p += k;
		n -= (size_t)k;
	}
	return 0;
}

int dir_make(const char *path, mode_t mode, struct fcm_error *err)
{
	auto_free char *p = xstrdup(path);

	for (char *s = p + 1; (s = strchr(s, '/')); s++) {
		*s = '\0';
		if (mkdir(p, 0755) < 0 && errno != EEXIST)
			return fcm_fail_errno(err, "mkdir %s", p);
		*s = '/';
	}
	if (mkdir(path, mode) < 0 && errno != EEXIST)
		return fcm_fail_errno(err, "mkdir %s", path);
	auto_close int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;
	/* nothing is written when all is as it should be: the file system may be read-only */
	if (fd < 0 || fstat(fd, &st) < 0 || ((st.st_mode & 07777) != mode && fchmod(fd, mode) < 0))
		return fcm_fail_errno(err, "directory %s", path);
	return 0;
}

int dir_open(int dirfd, const char *name, struct fcm_error *err)
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT)
		return fcm_fail(err, FCM_NOT_FOUND, "%s: no such directory", name);
	return fd < 0 ? fcm_fail_errno(err, "open %s", name) : fd;
}

static DIR *dir_stream(int dirfd, struct fcm_error *err)
{
	int own = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = own < 0 ? NULL : fdopendir(own);

	if (d == NULL) {
		fcm_fail_errno(err, "read a directory");
		fcm_closep(&own);
	}
	return d;
}

int dir_names(int dirfd, struct strv *ret, struct fcm_error *err)
{
	_cleanup_(closedirp) DIR *d = dir_stream(dirfd, err);
	struct dirent *e;

	if (d == NULL)
		return -1;
	while ((e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			strv_add(ret, e->d_name);
	strv_sort(ret);
	return 0;
}

/*
 * Removing a directory. What is in it may be a stranger's, who nests directories until a stack or all descriptors are used
 * up. So nobody goes down: what lies in a directory of the top and isn't empty is moved to the top, under a number, and has
 * its turn there. Nothing is kept of it but how many such there were.
 */
struct removal {
	int top;
	dev_t dev;
	uint64_t *freed; /* or NULL */
	uint64_t moved, done;
	uint32_t mark; /* of the names of those that were moved; whoever made the rest doesn't know it */
};

typedef int entry_fn(struct removal *r, int fd, const char *name, struct fcm_error *err);

/* While it is read, and without its names in memory, of which there may be millions. */
static int each_entry(struct removal *r, int fd, entry_fn *then, struct fcm_error *err)
{
	_cleanup_(closedirp) DIR *d = dir_stream(fd, err);
	struct dirent *e;

	if (d == NULL)
		return -1;
	while ((e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
			then(r, fd, e->d_name, err) < 0)
			return -1;
	return 0;
}

/* Remove it, but for a directory with something in it: of that *ret_left tells. */
static int remove_one(struct removal *r, int fd, const char *name, bool *ret_left, struct fcm_error *err)
{
	struct stat st;

	*ret_left = false;
	if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : fcm_fail_errno(err, "stat %s", name);
	/* not asked of a file, which an overlayfs shows with the number of its layer; a mounted one is busy anyway */
	if (S_ISDIR(st.st_mode) && st.st_dev != r->dev)
		return fcm_fail(err, FCM_HOST, "%s: a file system is mounted there", name);
	if (unlinkat(fd, name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) == 0) {
		if (r->freed && !S_ISDIR(st.st_mode) && st.st_nlink == 1)
			*r->freed += (uint64_t)st.st_blocks * 512;
		return 0;
	}
	*ret_left = S_ISDIR(st.st_mode) && errno == ENOTEMPTY;
	return *ret_left || errno == ENOENT ? 0 : fcm_fail_errno(err, "remove %s", name);
}

static void moved_name(const struct removal *r, uint64_t number, char ret[static 40])
{
	fcm_format(ret, 40, ".%08x.%llu", r->mark, (unsigned long long)number);
}

static int remove_or_move(struct removal *r, int fd, const char *name, struct fcm_error *err)
{
	char to[40];
	bool left;

	if (remove_one(r, fd, name, &left, err) < 0)
		return -1;
	moved_name(r, r->moved, to);
	if (left && renameat(fd, name, r->top, to) < 0)
		return fcm_fail_errno(err, "move %s, to remove it", name);
	r->moved += left;
	return 0;
}

static int remove_of_top(struct removal *r, const char *name, struct fcm_error *err)
{
	bool left;

	if (remove_one(r, r->top, name, &left, err) < 0)
		return -1;
	if (!left)
		return 0;
	auto_close int fd = dir_open(r->top, name, err);
	if (fd < 0 || each_entry(r, fd, remove_or_move, err) < 0)
		return -1;
	return unlinkat(r->top, name, AT_REMOVEDIR) < 0 ? fcm_fail_errno(err, "remove %s", name) : 0;
}

/* With those that it held, before the next is looked at: the top never has more than one's. */
static int remove_whole(struct removal *r, int fd, const char *name, struct fcm_error *err)
{
	char moved[40];

	(void)fd;
	if (remove_of_top(r, name, err) < 0)
		return -1;
	for (; r->done < r->moved; r->done++) {
		moved_name(r, r->done, moved);
		if (remove_of_top(r, moved, err) < 0)
			return -1;
	}
	return 0;
}

int dir_remove(int dirfd, const char *name, uint64_t *freed, struct fcm_error *err)
{
	struct removal r = {.freed = freed};
	struct stat st;
	bool left;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : fcm_fail_errno(err, "stat %s", name);
	r.dev = st.st_dev;
	if (remove_one(&r, dirfd, name, &left, err) < 0)
		return -1;
	if (!left)
		return 0;
	if (getrandom(&r.mark, sizeof r.mark, 0) != sizeof r.mark)
		return fcm_fail_errno(err, "getrandom");
	auto_close int top = r.top = dir_open(dirfd, name, err);
	if (top < 0 || each_entry(&r, top, remove_whole, err) < 0)
		return -1;
	return unlinkat(dirfd, name, AT_REMOVEDIR) < 0 ? fcm_fail_errno(err, "remove %s", name) : 0;
}

static int socket_address(int dirfd, const char *name, struct sockaddr_un *ret, struct fcm_error *err)
{
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	bool fits = dirfd == AT_FDCWD ? fcm_copy(ret->sun_path, sizeof ret->sun_path, name)
				      : fcm_format(ret->sun_path, sizeof ret->sun_path, "/proc/self/fd/%d/%s",
						dirfd, name);
	return fits ? 0 : fcm_fail(err, FCM_HOST, "socket %s: the path is too long", name);
}

int unix_connect(int dirfd, const char *name, int flags, struct fcm_error *err)
{
	auto_close int node = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct stat st;

	if (node < 0 || fstat(node, &st) < 0)
		return fcm_fail_errno(err, "connect to %s", name);
	if (!S_ISSOCK(st.st_mode))
		return fcm_fail(err, FCM_HOST, "%s: not a socket", name);
	fcm_format(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d", node);
	auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
		return fcm_fail_errno(err, "connect to %s", name);
	return STEAL_FD(fd);
}

int unix_listen(int dirfd, const char *name, mode_t mode, int flags, struct fcm_error *err)
{
	struct sockaddr_un a;
	if (socket_address(dirfd, name, &a, err) < 0)
		return -1;
	if (unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
		return fcm_fail_errno(err, "remove the stale socket %s", name);
	auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || fchmodat(dirfd, name, mode, 0) < 0 ||
		listen(fd, 64) < 0)
		return fcm_fail_errno(err, "listen at %s", name);
	return STEAL_FD(fd);
}
