/*
 * How it works. mkfs.ext4 makes a template once a size, in a file that has no name yet (O_TMPFILE), which is
 * linked into place when it is whole and on the disk: no half template, and nothing to sweep up after a
 * crash. 8 GiB of empty ext4 occupy 0.2 MB in a sparse file, and copying those takes less than a millisecond. With the feature
 * resize_inode it were 4.3 MB in each VM and each snapshot; it is there to grow a file system, which the kernel can do without.
 *
 * mkfs is told that the storage reads as zeros already (mke2fs(8), assume_storage_prezeroed): else the
 * guest's kernel would zero 128 MiB of inode tables in the background of its first minutes, and the sparse
 * file fill up with them.
 */
#include "daemon/disk/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "common/core/clock.h"
#include "common/core/sparse.h"
#include "daemon/proc/proc.h"

#define MKFS "/sbin/mkfs.ext4"
#define DISK "rootfs.img"

enum {
	MKFS_MS = 60000,
	FULL_BELOW = 1 << 20, /* bytes free: mkfs failed for want of space */
};

static int run_mkfs(int fd, int dirfd, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv argv = {0};
	static const char *const words[] = {MKFS, "-q", "-F", "-m", "1", "-O", "^resize_inode", "-E",
		"assume_storage_prezeroed=1,nodiscard"};

	if (access(MKFS, X_OK) < 0) {
		fcm_fail_errno(err, "run %s", MKFS);
		return fcm_hint(err, "sudo apt-get install e2fsprogs");
	}
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		strv_add(&argv, words[i]);
	/* mkfs gets none of our descriptors, but may open this one's file through our /proc entry (proc(5)). */
	strv_addf(&argv, "/proc/%d/fd/%d", (int)getpid(), fd);
	struct proc_run run = {.argv = argv.v, .deadline = clock_in(MKFS_MS), .output_max = 4096};
	if (proc_run(&run, NULL, err) == 0)
		return 0;
	if (disk_free_bytes(dirfd) < FULL_BELOW) /* while what it wrote is still there */
		return fcm_fail(err, FCM_NO_SPACE, "mkfs.ext4: no space left on device");
	return -1;
}

/* Make the template `name` and return it open. */
static int make_template(int dirfd, const char *name, unsigned mib, struct fcm_error *err)
{
	auto_close int fd = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, (off_t)mib << 20) < 0)
		return fcm_fail_errno(err, "make disk template %s", name);
	if (run_mkfs(fd, dirfd, err) < 0)
		return fcm_wrap(err, "make disk template %s", name);
	auto_free char *path = xprintf("/proc/self/fd/%d", fd);
	if (fsync(fd) < 0 || (linkat(AT_FDCWD, path, dirfd, name, AT_SYMLINK_FOLLOW) < 0 &&
				     errno != EEXIST)) /* another was faster */
		return fcm_fail_errno(err, "make disk template %s", name);
	return STEAL_FD(fd);
}

static int open_template(int dirfd, unsigned mib, struct fcm_error *err)
{
	auto_free char *name = xprintf("%u.ext4", mib);
	auto_close int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;

	if (fd < 0 && errno == ENOENT)
		return make_template(dirfd, name, mib, err);
	if (fd < 0 || fstat(fd, &st) < 0)
		return fcm_fail_errno(err, "open disk template %s", name);
	if (!S_ISREG(st.st_mode) || st.st_size != (off_t)mib << 20) {
		fcm_fail(err, FCM_HOST, "disk template %s is not a file of %u MiB", name, mib);
		return fcm_hint(err, "remove it: the next create makes it anew");
	}
	return STEAL_FD(fd);
}

static int fill_disk(int dirfd, const char *temp, const char *name, int template, uid_t uid, bool lasting,
	struct fcm_error *err)
{
	auto_close int fd = openat(dirfd, temp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0 || sparse_copy(template, fd) < 0 || fchown(fd, uid, (gid_t)-1) < 0 ||
		fchmod(fd, 0600) < 0 || (lasting && fsync(fd) < 0) ||
		renameat(dirfd, temp, dirfd, name) < 0 || (lasting && fsync(dirfd) < 0))
		return fcm_fail_errno(err, "make the disk");
	return 0;
}

int disk_copy(int from, int dirfd, const char *name, uid_t uid, bool lasting, struct fcm_error *err)
{
	auto_free char *temp = xprintf("%s" DISK_TEMP, name);

	if (unlinkat(dirfd, temp, 0) < 0 && errno != ENOENT)
		return fcm_fail_errno(err, "remove a half-made disk");
	if (fill_disk(dirfd, temp, name, from, uid, lasting, err) < 0) {
		unlinkat(dirfd, temp, 0);
		return -1;
	}
	return 0;
}

int disk_make(int dirfd, const char *name, int templates_dirfd, unsigned mib, uid_t uid, bool lasting,
	struct fcm_error *err)
{
	auto_close int template = open_template(templates_dirfd, mib, err);

	return template <0 ? -1 : disk_copy(template, dirfd, name, uid, lasting, err);
}

int disk_create(int vm_dirfd, int templates_dirfd, unsigned mib, uid_t uid, struct fcm_error *err)
{
	return disk_make(vm_dirfd, DISK, templates_dirfd, mib, uid, false, err);
}

int disk_open(int vm_dirfd, struct fcm_error *err)
{
	int fd = openat(vm_dirfd, DISK, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	return fd < 0 ? fcm_fail_errno(err, "open the disk") : fd;
}

int disk_sync(int vm_dirfd, struct fcm_error *err)
{
	auto_close int fd = disk_open(vm_dirfd, err);

	if (fd < 0)
		return -1;
	return fsync(fd) < 0 ? fcm_fail_errno(err, "write the disk") : 0;
}

int disk_replace(int vm_dirfd, int from, uid_t uid, bool lasting, struct fcm_error *err)
{
	return disk_copy(from, vm_dirfd, DISK, uid, lasting, err);
}

uint64_t disk_used(int vm_dirfd)
{
	struct stat st;

	if (fstatat(vm_dirfd, DISK, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
		return 0;
	return (uint64_t)st.st_blocks * 512; /* stat(2): the unit is 512 whatever the block size */
}

uint64_t disk_free_bytes(int dirfd)
{
	struct statvfs st;

	return fstatvfs(dirfd, &st) < 0 ? 0 : (uint64_t)st.f_bavail * st.f_frsize;
}
