/*
 * The two directories and the VMs' directories in them. All names are looked up below descriptors that were opened
 * once, without following links.
 */
#include "daemon/store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>

#include "common/config.h"
#include "common/core/fileio.h"
#include "daemon/store/store_internal.h"

static int state_fd = -1, run_fd = -1;

/* Open `path`, made if missing, and give it `mode`; on a read-only file system it may stay as it is. */
static int open_own(const char *path, mode_t mode, struct fcm_error *err)
{
	struct stat st;

	if (lstat(path, &st) < 0 && errno == ENOENT && dir_make(path, mode, err) < 0)
		return -1;
	auto_close int fd = dir_open(AT_FDCWD, path, err);
	if (fd < 0) {
		if (err->sys == ENOTDIR || err->sys == ELOOP)
			fcm_hint(err, "name a real directory, not a link, in " CONFIG_FILE);
		return -1;
	}
	if (fstat(fd, &st) < 0)
		return fcm_fail_errno(err, "stat %s", path);
	if (st.st_uid != geteuid())
		return fcm_fail(err, FCM_CONFIG, "%s belongs to uid %u, not to the daemon", path, st.st_uid);
	return STEAL_FD(fd);
}

static int set_mode(int fd, const char *path, mode_t mode, struct fcm_error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || ((st.st_mode & 07777) != mode && fchmod(fd, mode) < 0 && errno != EROFS))
		return fcm_fail_errno(err, "chmod %s", path);
	return 0;
}

/* "config.json.1a2b3c4d.tmp": what file_write_atomic() leaves behind when we are killed. */
static bool is_temp(const char *name)
{
	size_t n = strlen(name);

	return n > 13 && name[n - 13] == '.' && strspn(name + n - 12, "0123456789abcdef") == 8 &&
	       strcmp(name + n - 4, ".tmp") == 0;
}

/* Of a VM also a disk that is half a copy, and a machine that is half saved or forgotten: "rootfs.img.tmp", "saved.new". */
static bool is_half(const char *name)
{
	const char *dot = strrchr(name, '.');

	return dot && (strcmp(dot, ".tmp") == 0 || strcmp(dot, ".new") == 0);
}

/* If something stays, the next start tries again. */
static void sweep(int fd, bool (*is_left)(const char *name))
{
	_cleanup_(strv_done) struct strv names = {0};
	struct fcm_error ignored;

	if (dir_names(fd, &names, &ignored) < 0)
		return;
	for (size_t i = 0; i < names.n; i++)
		if (is_left(names.v[i]))
			(void)!dir_remove(fd, names.v[i], NULL, &ignored);
}

static int sweep_all(struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv ids = {0};

	if (store_vm_list(&ids, err) < 0)
		return -1;
	sweep(state_fd, is_temp);
	sweep(run_fd, is_temp);
	for (size_t i = 0; i < ids.n; i++) {
		auto_close int fd =
			openat(state_fd, ids.v[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0)
			sweep(fd, is_half);
	}
	return 0;
}

static int open_and_lock(const char *state_dir, const char *run_dir, struct fcm_error *err)
{
	state_fd = open_own(state_dir, 0711, err);
	if (state_fd < 0)
		return -1;
	if (flock(state_fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return fcm_fail_errno(err, "lock %s", state_dir);
		fcm_fail(err, FCM_WRONG_STATE, "another fcmd has %s in use", state_dir);
		return fcm_hint(err, "stop it first: sudo systemctl stop fcmd");
	}
	run_fd = open_own(run_dir, 0755, err);
	if (run_fd < 0 || set_mode(state_fd, state_dir, 0711, err) < 0 ||
		set_mode(run_fd, run_dir, 0755, err) < 0)
		return -1;
	return sweep_all(err);
}

int store_init(const char *state_dir, const char *run_dir, struct fcm_error *err)
{
	if (open_and_lock(state_dir, run_dir, err) == 0)
		return 0;
	store_done();
	return -1;
}

void store_done(void)
{
	fcm_closep(&state_fd);
	fcm_closep(&run_fd);
}

int store_dirfd(void)
{
	return state_fd;
}

int store_run_dirfd(void)
{
	return run_fd;
}

bool store_writable(void)
{
	static const char block[4096];
	auto_close int fd = openat(state_fd, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);

	return fd >= 0 && fd_write_all(fd, block, sizeof block) == 0;
}

/* Make a directory below fd, or take the one that is there, and give it mode and owner. Its descriptor, or -1. */
static int make_dir(int parent, const char *name, mode_t mode, uid_t uid, struct fcm_error *err)
{
	if (mkdirat(parent, name, 0700) < 0 && errno != EEXIST)
		return fcm_fail_errno(err, "mkdir %s", name);
	auto_close int fd = dir_open(parent, name, err);
	if (fd < 0)
		return -1;
	if (fchown(fd, uid, (gid_t)uid) < 0 || fchmod(fd, mode) < 0)
		return fcm_fail_errno(err, "give directory %s to uid %u", name, uid);
	return STEAL_FD(fd);
}

int store_vm_make(const struct vm_id *id, uid_t uid, struct fcm_error *err)
{
	auto_close int fd = make_dir(state_fd, id->s, 0711, geteuid(), err);
	if (fd < 0)
		return -1;
	auto_close int jail = make_dir(fd, "jail", 0755, geteuid(), err);
	if (jail < 0)
		return -1;
	auto_close int run = make_dir(jail, "run", 0700, uid, err);
	if (run < 0)
		return -1;
	return fsync(state_fd) < 0 ? fcm_fail_errno(err, "fsync the state directory") : 0;
}

int store_vm_open(const struct vm_id *id, struct fcm_error *err)
{
	return dir_open(state_fd, id->s, err);
}

int store_vm_remove(const struct vm_id *id, uint64_t *freed, struct fcm_error *err)
{
	if (dir_remove(state_fd, id->s, freed, err) < 0)
		return -1;
	return fsync(state_fd) < 0 ? fcm_fail_errno(err, "fsync the state directory") : 0;
}

static bool is_dir(int fd, const char *name)
{
	struct stat st;

	return fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

int store_vm_list(struct strv *ret, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv names = {0};

	if (dir_names(state_fd, &names, err) < 0)
		return fcm_wrap(err, "the state directory");
	for (size_t i = 0; i < names.n; i++)
		if (vm_id_valid(names.v[i]) && is_dir(state_fd, names.v[i]))
			strv_add(ret, names.v[i]);
	return 0;
}
