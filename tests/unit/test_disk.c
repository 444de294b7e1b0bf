/* Disks: templates and sparse copies, on a tmpfs of our own where we are root, so that it can also be full.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "daemon/disk/disk.h"

enum { MIB = 8192, UID = 64123 };

static char top[] = "/tmp/fcm-disk-XXXXXX";
static int top_fd, vm_fd, templates_fd;

static int make_dirs(void **state)
{
	(void)state;
	if (mkdtemp(top) == NULL)
		return -1;
	top_fd = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (mkdirat(top_fd, "vm", 0700) < 0 || mkdirat(top_fd, "templates", 0700) < 0)
		return -1;
	vm_fd = openat(top_fd, "vm", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	templates_fd = openat(top_fd, "templates", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return vm_fd < 0 || templates_fd < 0 ? -1 : 0;
}

static int drop_dirs(void **state)
{
	struct fcm_error err;

	(void)state;
	close(vm_fd);
	close(templates_fd);
	close(top_fd);
	int r = dir_remove(AT_FDCWD, top, NULL, &err);
	strcpy(top + sizeof top - 7, "XXXXXX");
	return r;
}

static uid_t owner(void)
{
	return geteuid() == 0 ? UID : geteuid();
}

static void create(void)
{
	struct fcm_error err = {0};

	if (disk_create(vm_fd, templates_fd, MIB, owner(), &err) < 0)
		fail_msg("%s", err.msg);
}

static unsigned entries(int dirfd)
{
	DIR *d = fdopendir(openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	unsigned n = 0;

	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

static void test_create(void **state)
{
	struct stat st;

	(void)state;
	assert_int_equal(disk_used(vm_fd), 0);
	create();
	assert_int_equal(fstatat(vm_fd, "rootfs.img", &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_int_equal(st.st_size, (off_t)MIB << 20);
	assert_int_equal(st.st_mode, S_IFREG | 0600);
	assert_int_equal(st.st_uid, owner());
	assert_in_range(disk_used(vm_fd), 64 << 10, 1 << 20); /* sparse */
	assert_int_equal(entries(vm_fd), 1);
	assert_int_equal(entries(templates_fd), 1);
	assert_true(disk_free_bytes(vm_fd) > 0);
}

static void test_is_clean_ext4(void **state)
{
	(void)state;
	create();
	auto_free char *cmd =
		xprintf("/sbin/e2fsck -fn %s/vm/rootfs.img >/dev/null 2>&1 && "
			"/sbin/dumpe2fs %s/vm/rootfs.img 2>/dev/null | grep -q ITABLE_ZEROED && "
			"cmp -s %s/vm/rootfs.img %s/templates/8192.ext4 -n 100000000",
			top, top, top, top);
	assert_int_equal(system(cmd), 0);
}

static void test_replaces(void **state)
{
	(void)state;
	create();
	int fd = openat(vm_fd, "rootfs.img", O_RDWR | O_CLOEXEC);
	char c = 0;
	assert_int_equal(pwrite(fd, "x", 1, 3ll << 30), 1);
	close(fd);
	assert_int_equal(
		symlinkat("/etc/passwd", vm_fd, "rootfs.img.tmp"), 0); /* planted: replaced, not followed */
	create();
	fd = openat(vm_fd, "rootfs.img", O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, &c, 1, 3ll << 30), 1);
	assert_int_equal(c, 0);
	close(fd);
	assert_int_equal(entries(vm_fd), 1);
}

static void test_two_disks_are_apart(void **state)
{
	char c = 0;

	(void)state;
	create();
	int fd = openat(vm_fd, "rootfs.img", O_RDWR | O_CLOEXEC), template;
	assert_int_equal(pwrite(fd, "x", 1, 1024), 1);
	template = openat(templates_fd, "8192.ext4", O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(template, &c, 1, 1024), 1);
	assert_int_not_equal(c, 'x');
	close(fd);
	close(template);
}

static void test_template_of_wrong_size(void **state)
{
	struct fcm_error err = {0};

	(void)state;
	close(openat(templates_fd, "8192.ext4", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	assert_int_equal(disk_create(vm_fd, templates_fd, MIB, owner(), &err), -1);
	assert_int_equal(err.code, FCM_HOST);
	assert_non_null(strstr(err.msg, "8192.ext4"));
	assert_int_equal(entries(vm_fd), 0);
	assert_int_equal(unlinkat(templates_fd, "8192.ext4", 0), 0);
	assert_int_equal(symlinkat("/dev/zero", templates_fd, "8192.ext4"), 0);
	assert_int_equal(disk_create(vm_fd, templates_fd, MIB, owner(), &err), -1);
	assert_int_equal(err.sys, ELOOP);
}

static void *create_elsewhere(void *arg)
{
	struct fcm_error err;
	int fd = *(int *)arg;

	return disk_create(fd, templates_fd, MIB, owner(), &err) < 0 ? arg : NULL;
}

static void test_first_ones_together(void **state)
{
	pthread_t t[4];
	int fd[ARRAY_SIZE(t)];
	void *r;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		auto_free char *name = xprintf("vm%zu", i);
		assert_int_equal(mkdirat(top_fd, name, 0700), 0);
		fd[i] = openat(top_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_int_equal(pthread_create(&t[i], NULL, create_elsewhere, &fd[i]), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		pthread_join(t[i], &r);
		assert_null(r);
		assert_true(disk_used(fd[i]) > 0);
		close(fd[i]);
	}
	assert_int_equal(entries(templates_fd), 1);
}

/* A tmpfs of `size` on <top>/vm or <top>/templates, in a mount namespace of our own. */
static int small_tmpfs(const char *name, const char *size)
{
	auto_free char *path = xprintf("%s/%s", top, name), *options = xprintf("size=%s", size);

	if (mount("fcm-test", path, "tmpfs", 0, options) < 0)
		return -1;
	return openat(top_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void expect_full(const char *name, int *fd)
{
	auto_free char *path = xprintf("%s/%s", top, name);
	struct fcm_error err = {0};
	int old = *fd;

	*fd = small_tmpfs(name, "64k");
	if (*fd < 0) {
		*fd = old;
		skip();
	}
	close(old);
	assert_int_equal(disk_create(vm_fd, templates_fd, MIB, owner(), &err), -1);
	assert_int_equal(err.code, FCM_NO_SPACE);
	assert_int_equal(entries(*fd), 0);
	assert_int_equal(disk_free_bytes(*fd), 64 << 10);
	assert_int_equal(umount2(path, MNT_DETACH), 0);
}

static void test_no_space_for_template(void **state)
{
	(void)state;
	expect_full("templates", &templates_fd);
}

static void test_no_space_for_disk(void **state)
{
	(void)state;
	expect_full("vm", &vm_fd);
}

/* From tmpfs to another file system: neither FICLONE nor, on some kernels, copy_file_range(2) works. */
static void test_across_file_systems(void **state)
{
	auto_free char *path = xprintf("%s/templates", top);
	int fd = small_tmpfs("templates", "64m");

	(void)state;
	if (fd < 0)
		skip();
	close(templates_fd);
	templates_fd = fd;
	create();
	assert_in_range(disk_used(vm_fd), 64 << 10, 1 << 20);
	assert_int_equal(umount2(path, MNT_DETACH), 0);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, make_dirs, drop_dirs)
	const struct CMUnitTest tests[] = {
		T(test_create),
		T(test_is_clean_ext4),
		T(test_replaces),
		T(test_two_disks_are_apart),
		T(test_template_of_wrong_size),
		T(test_first_ones_together),
		T(test_no_space_for_template),
		T(test_no_space_for_disk),
		T(test_across_file_systems),
	};
	if (unshare(CLONE_NEWNS) == 0)
		(void)mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	return cmocka_run_group_tests_name("disk", tests, NULL, NULL);
}
