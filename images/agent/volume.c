#include "images/agent/volume.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "common/core/tree.h"
#include "images/agent/copy.h"

#define PLACE "/run/fcm/volume" /* where one is mounted for a moment, unless it has to be filled */
#define DATA "data"
#define FRESH "data.new"

/* ---- mount ---- */

static int parse(const void *kv, size_t n, const char **ret_device, char ret_path[VOLUME_PATH_MAX + 1],
	struct fcm_error *err)
{
	const char *device = kv_get(kv, n, "device"), *path = kv_get(kv, n, "path");

	if (device == NULL || strncmp(device, "/dev/vd", 7) != 0 || strlen(device) != 8)
		return fcm_fail_field(err, FCM_INVALID, "device", "device: one of /dev/vd*");
	*ret_device = device;
	return volume_path_parse(path ? path : "", "path", ret_path, err);
}

static struct volume *find(struct volumes *vs, const char *device)
{
	for (size_t i = 0; i < vs->n; i++)
		if (strcmp(vs->v[i].device, device) == 0)
			return &vs->v[i];
	return NULL;
}

/* noinit_itable: as for the disk (mount.c). A journal that must be replayed keeps a reader out, rather than show it half of what
 * was written. */
static int mount_device(const char *device, const char *place, bool ro, struct fcm_error *err)
{
	unsigned long flags = MS_NOATIME | (ro ? MS_RDONLY : 0);

	mkdir(place, 0700);
	if (mount(device, place, "ext4", flags, "noinit_itable") == 0)
		return 0;
	if (ro && errno == EROFS)
		return fcm_fail(err, FCM_GUEST,
			"whoever wrote it last ended without a shutdown: let a VM that writes it run once");
	return fcm_fail_errno(err, "mount %s", device);
}

static int open_volume(
	struct volumes *vs, const char *device, bool ro, struct volume **ret, struct fcm_error *err)
{
	char place[sizeof PLACE + 8];

	if (vs->n == VOLUMES_MAX)
		return fcm_fail(err, FCM_INVALID, "more than %d volumes", VOLUMES_MAX);
	(void)fcm_format(place, sizeof place, PLACE "%zu", vs->n);
	if (mount_device(device, place, ro, err) < 0)
		return -1;
	int fd = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		fcm_fail_errno(err, "open %s", place);
		umount2(place, MNT_DETACH);
		return -1;
	}
	struct volume *v = &vs->v[vs->n++];
	*v = (struct volume){.fd = fd};
	fcm_copy(v->device, sizeof v->device, device);
	*ret = v;
	return 0;
}

/* Links in the guest's root lead where they lead for everybody in it: it is our root, too. */
static int make_directory(const char *path, struct fcm_error *err)
{
	char dir[VOLUME_PATH_MAX + 1];
	struct stat st;

	(void)fcm_copy(dir, sizeof dir, path);
	for (char *s = dir + 1;; *s++ = '/') {
		s += strcspn(s, "/");
		bool last = *s == '\0';
		*s = '\0';
		if (mkdir(dir, 0755) < 0 && errno != EEXIST)
			return fcm_fail_errno(err, "mkdir %s", dir);
		if (last)
			break;
	}
	if (stat(path, &st) < 0)
		return fcm_fail_errno(err, "look at %s", path);
	return S_ISDIR(st.st_mode) ? 0 : fcm_fail(err, FCM_INVALID, "%s is no directory", path);
}

/* By its descriptor: another VM may have put a link in its place. */
static int bind_data(int data, const char *path, struct fcm_error *err)
{
	char from[64];

	(void)fcm_format(from, sizeof from, "/proc/self/fd/%d", data);
	if (make_directory(path, err) < 0)
		return -1;
	return mount(from, path, NULL, MS_BIND, NULL) < 0 ? fcm_fail_errno(err, "mount at %s", path) : 0;
}

/* What may only be read, and nobody has written, is empty. */
static int mount_nothing(const char *path, struct fcm_error *err)
{
	if (make_directory(path, err) < 0)
		return -1;
	return mount("none", path, "tmpfs", MS_RDONLY, "size=4k,mode=0755") < 0
		       ? fcm_fail_errno(err, "mount at %s", path)
		       : 0;
}

static int show(struct volume *v, const char *path, bool ro, bool *ret_new, struct fcm_error *err)
{
	auto_close int data = openat(v->fd, DATA, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (data < 0 && errno != ENOENT)
		return fcm_fail_errno(err, "open " DATA " of %s", v->device);
	*ret_new = data < 0 && !ro;
	if (*ret_new)
		return 0;
	return data < 0 ? mount_nothing(path, err) : bind_data(data, path, err);
}

int volume_mount(struct volumes *vs, const void *kv, size_t n, bool *ret_new, struct fcm_error *err)
{
	bool ro = kv_i64(kv, n, "ro", 0, 1, 0) == 1;
	char path[VOLUME_PATH_MAX + 1], place[sizeof PLACE + 8];
	const char *device;

	*ret_new = false;
	if (parse(kv, n, &device, path, err) < 0)
		return -1;
	struct volume *v = find(vs, device);
	if (v && v->done)
		return 0;
	if ((v == NULL && open_volume(vs, device, ro, &v, err) < 0) || show(v, path, ro, ret_new, err) < 0)
		return -1;
	if (*ret_new)
		return 0;
	v->done = true;
	(void)fcm_format(place, sizeof place, PLACE "%zu", (size_t)(v - vs->v));
	umount2(place, MNT_DETACH);
	rmdir(place);
	return 0;
}

/* ---- fill ---- */

int volume_fill(
	struct volumes *vs, struct execs *x, uint32_t number, const void *kv, size_t n, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv argv = {0};
	char path[VOLUME_PATH_MAX + 1];
	const char *device;

	if (parse(kv, n, &device, path, err) < 0)
		return -1;
	const struct volume *v = find(vs, device);
	if (v == NULL || v->done)
		return fcm_fail(err, FCM_WRONG_STATE, "fill: %s is no new volume", device);
	strv_add(&argv, "/proc/self/exe");
	strv_add(&argv, COPY_COMMAND);
	strv_add(&argv, "fill");
	strv_add(&argv, path);
	strv_addf(&argv, PLACE "%zu", (size_t)(v - vs->v));
	return exec_own(x, number, &argv, false, err);
}

/* Pack in a process of its own, unpack here: with the directory's own owner and mode, as it gets a name that isn't there. */
static int copy(const char *from, const char *to, struct fcm_error *err)
{
	enum { FLAGS = TREE_OWNERS | TREE_SETID | TREE_DEVICES };
	struct tree_count count;
	int ends[2], status;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return fcm_fail_errno(err, "make a pipe");
	auto_close int in = ends[0], out = ends[1];
	pid_t pid = fork();
	if (pid < 0)
		return fcm_fail_errno(err, "start a process");
	if (pid == 0) {
		fcm_closep(&in);
		_exit(tree_pack(out, from, FLAGS, &count, err) < 0);
	}
	fcm_closep(&out);
	int rc = tree_unpack(in, to, FLAGS | TREE_PLACE, &count, err);
	fcm_closep(&in);
	if (waitpid(pid, &status, 0) == pid && status != 0 && rc == 0)
		rc = fcm_fail(err, FCM_GUEST, "read %s", from);
	return rc;
}

static int fill(const char *path, const char *dir, struct fcm_error *err)
{
	auto_free char *fresh = xprintf("%s/" FRESH, dir), *data = xprintf("%s/" DATA, dir);
	char real[PATH_MAX];
	struct stat st;

	if (dir_remove(AT_FDCWD, fresh, NULL, err) < 0)
		return -1;
	if (realpath(path, real) == NULL || stat(real, &st) < 0 || !S_ISDIR(st.st_mode)) {
		if (mkdir(fresh, 0755) < 0)
			return fcm_fail_errno(err, "make a directory in the volume");
	} else if (copy(real, fresh, err) < 0) {
		return -1;
	}
	sync();
	return rename(fresh, data) < 0 ? fcm_fail_errno(err, "enter what the volume has") : 0;
}

int volume_fill_run(const char *path, const char *dir)
{
	struct fcm_error err;

	signal(SIGPIPE, SIG_IGN);
	if (fill(path, dir, &err) == 0)
		return 0;
	printf("%s\n", err.msg);
	return 1;
}

/* ---- the end ---- */

/* Of the file system itself, whatever mounts of it the guest has left: mount(2) wants a mount that is somewhere. */
static void make_read_only(int fd)
{
	auto_close int fs = fspick(fd, "", FSPICK_EMPTY_PATH | FSPICK_CLOEXEC);

	if (fs >= 0 && fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) == 0)
		(void)!fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0);
}

void volume_finish(const struct volumes *vs)
{
	for (size_t i = 0; i < vs->n; i++)
		make_read_only(vs->v[i].fd);
}
