#include "daemon/image/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/core/fileio.h"

#define JOB "kernel"
#define RELEASE "release"

enum { RELEASE_MAX = 1 << 10 };

static const struct file {
	const char *name;
	off_t max;	   /* bytes */
	const char *magic; /* how it begins, or NULL */
	const char *what;  /* and what it is then */
} files[] = {
	{"vmlinux", 128 << 20, "\177ELF", "an uncompressed kernel (ELF)"},
	{"initrd", 128 << 20, NULL, NULL},
	{RELEASE, RELEASE_MAX, NULL, NULL},
};

void kernel_names(struct strv *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		strv_add(ret, files[i].name);
}

int kernel_make_begin(uid_t uid, struct kernel_making *ret, struct fcm_error *err)
{
	*ret = (struct kernel_making){.begun = true, .temp = image_temp_name()};
	if (image_job_dirs(true, &ret->temp, JOB, uid, &ret->dir_fd, &ret->job_fd, err) == 0)
		return 0;
	kernel_make_done(ret);
	return -1;
}

static int take_file(int dirfd, const struct file *f, struct fcm_error *err)
{
	size_t n = f->magic ? strlen(f->magic) : 0;
	struct stat st;
	char found[8];
	auto_close int fd = file_take_over(dirfd, f->name, &st, err);

	if (fd < 0)
		return err->code == FCM_NOT_FOUND
			       ? fcm_fail(err, FCM_INVALID, "%s is missing in the tar", f->name)
			       : -1;
	if (st.st_size == 0)
		return fcm_fail(err, FCM_INVALID, "%s in the tar is empty", f->name);
	if (st.st_size > f->max)
		return fcm_fail(
			err, FCM_TOO_LARGE, "%s is larger than %lld KiB", f->name, (long long)f->max >> 10);
	if (n && (pread(fd, found, n, 0) != (ssize_t)n || memcmp(found, f->magic, n) != 0))
		return fcm_fail(err, FCM_INVALID, "%s is not %s", f->name, f->what);
	return fsync(fd) < 0 ? fcm_fail_errno(err, "store %s", f->name) : 0;
}

static int check_release(int dirfd, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};

	if (file_read(dirfd, RELEASE, RELEASE_MAX, &text, err) < 0)
		return -1;
	size_t n = strspn(text.p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+~-");
	if (n == 0 || n > 64 || text.n > n + 1 || (text.n == n + 1 && text.p[n] != '\n'))
		return fcm_fail(err, FCM_INVALID,
			"release is not the release of a kernel (one line, as uname -r prints)");
	return 0;
}

/* The job ran as a stranger, and has ended. */
static int take(int dirfd, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv names = {0};

	if (fchown(dirfd, 0, 0) < 0 || fchmod(dirfd, 0755) < 0)
		return fcm_fail_errno(err, "take the kernel");
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		if (take_file(dirfd, &files[i], err) < 0)
			return -1;
	if (dir_names(dirfd, &names, err) < 0 || check_release(dirfd, err) < 0)
		return -1;
	if (names.n != ARRAY_SIZE(files))
		return fcm_fail(err, FCM_INVALID, "there is more than a kernel in the tar");
	return fsync(dirfd) < 0 ? fcm_fail_errno(err, "store the kernel") : 0;
}

/* Into its place; an older one is exchanged for it, and goes with what is left of the making. */
static int publish(const struct kernel_making *m, const char *place, struct fcm_error *err)
{
	int parent = image_dir(true);

	if (renameat2(m->dir_fd, JOB, parent, place, RENAME_NOREPLACE) < 0 &&
		(errno != EEXIST || renameat2(m->dir_fd, JOB, parent, place, RENAME_EXCHANGE) < 0))
		return fcm_fail_errno(err, "put '%s' into its place", place);
	return fsync(parent) < 0 ? fcm_fail_errno(err, "store '%s'", place) : 0;
}

int kernel_make_commit(
	struct kernel_making *m, const struct asset_name *name, struct image_info *ret, struct fcm_error *err)
{
	if (take(m->job_fd, err) < 0 || publish(m, name->s, err) < 0 || image_link_default(err) < 0)
		return -1;
	return image_find_kernel(name, ret, err);
}

void kernel_make_done(struct kernel_making *m)
{
	struct fcm_error ignored;

	if (!m->begun)
		return;
	m->begun = false;
	fcm_closep(&m->job_fd);
	fcm_closep(&m->dir_fd);
	(void)!dir_remove(image_dir(true), m->temp.s, NULL, &ignored); /* else image_init() will */
}
