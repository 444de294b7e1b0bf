#include "images/agent/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "images/agent/agent.h"
#include "images/agent/start.h"
#include "images/agent/yield.h"

/* Where the guest's root is put together, in the initramfs. */
#define ROOT "/newroot"

#define CGROUP "/sys/fs/cgroup"

struct mount_point {
	const char *type, *dir, *options;
	unsigned long flags;
	mode_t mode; /* of a directory that must be made */
};

static const struct mount_point early[] = {
	{"devtmpfs", "/dev", "mode=0755", MS_NOSUID, 0755},
	{"proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, 0555},
	{"sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, 0555},
};

/* In the guest's root. What an image for containers has in /run and /tmp its programs count on, as in a container: there only the
 * agent's own place is in memory. */
static const struct mount_point of_machine[] = {
	{"tmpfs", "/run", "mode=0755", MS_NOSUID | MS_NODEV, 0755},
	{"tmpfs", "/tmp", "mode=1777", MS_NOSUID | MS_NODEV, 0755},
};
static const struct mount_point of_container[] = {
	{"tmpfs", "/run/fcm", "mode=0755", MS_NOSUID | MS_NODEV, 0755},
};

/* The options of devpts are those of the FHS (group tty is 5 in every Debian). */
static const struct mount_point late[] = {
	{"devpts", "/dev/pts", "gid=5,mode=0620,ptmxmode=0666", MS_NOSUID | MS_NOEXEC, 0755},
	{"tmpfs", "/dev/shm", "mode=1777", MS_NOSUID | MS_NODEV, 0755},
	{"mqueue", "/dev/mqueue", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, 0755},
	{"cgroup2", CGROUP, "nsdelegate", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0755},
};

static int mount_points(const struct mount_point *m, size_t n, struct fcm_error *err)
{
	for (; n > 0; m++, n--) {
		mkdir(m->dir, m->mode);
		if (mount(m->type, m->dir, m->type, m->flags, m->options) < 0)
			return fcm_fail_errno(err, "mount %s at %s", m->type, m->dir);
	}
	return 0;
}

void mount_early(void)
{
	struct fcm_error ignored;

	for (size_t i = 0; i < ARRAY_SIZE(early); i++)
		(void)!mount_points(&early[i], 1, &ignored);
}

/* noload: a read-only image has no journal to replay, and mounting must not try to write one.
 * noinit_itable: the disk is sparse, and its unwritten inode tables read as zeros; writing them out in the background
 * would cost each VM 128 MiB of an 8 GiB disk. */
static int mount_layers(const char *image, const char *disk, struct fcm_error *err)
{
	if (mount(image, "/image", "ext4", MS_RDONLY | MS_NOATIME, "noload") < 0)
		return fcm_fail_errno(err, "mount the image %s", image);
	if (mount(disk, "/disk", "ext4", MS_NOATIME, "noinit_itable") < 0)
		return fcm_fail_errno(err, "mount the disk %s", disk);
	mkdir("/disk/upper", 0755);
	mkdir("/disk/work", 0755);
	if (mount("overlay", ROOT, "overlay", MS_NOATIME,
		    "lowerdir=/image,upperdir=/disk/upper,workdir=/disk/work") < 0)
		return fcm_fail_errno(err, "mount the overlay");
	return 0;
}

static void unmount_layers(void)
{
	umount2(ROOT, MNT_DETACH);
	umount2("/disk", MNT_DETACH);
	umount2("/image", MNT_DETACH);
}

/* Carry proc, sys and dev over, and make the new root ours (what switch_root(8) does, but the initramfs
 * stays: it holds the agent). */
static int move_root(struct fcm_error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(early); i++) {
		char dir[64];
		(void)fcm_format(dir, sizeof dir, ROOT "%s", early[i].dir);
		mkdir(dir, early[i].mode);
		if (mount(early[i].dir, dir, NULL, MS_MOVE, NULL) < 0)
			return fcm_fail_errno(err, "move %s", early[i].dir);
	}
	if (chdir(ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
		return fcm_fail_errno(err, "move to the guest's root");
	return 0;
}

/* An image that names no program of its own for the machine is one for containers. */
static int mount_run(struct fcm_error *err)
{
	if (access(START_RC, X_OK) == 0 || yield_wanted())
		return mount_points(of_machine, ARRAY_SIZE(of_machine), err);
	mkdir("/run", 0755);
	if (mkdir("/tmp", 0777) == 0)
		chmod("/tmp", 01777);
	return mount_points(of_container, ARRAY_SIZE(of_container), err);
}

/* A bind mount instead of a copy: the agent's pages are in memory once. `self` was opened before the move. */
static int offer_agent(int self, struct fcm_error *err)
{
	char path[64];

	(void)fcm_format(path, sizeof path, "/proc/self/fd/%d", self);
	mkdir("/run/fcm", 0755);
	auto_close int fd = open(AGENT_PATH, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
	if (fd < 0 || mount(path, AGENT_PATH, NULL, MS_BIND, NULL) < 0)
		return fcm_fail_errno(err, "bind %s", AGENT_PATH);
	return 0;
}

static void make_links(void)
{
	static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
		{"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"}};

	for (size_t i = 0; i < ARRAY_SIZE(links); i++)
		(void)!symlink(links[i][0], links[i][1]);
}

int mount_guest(struct guest_root *r, const char *image, const char *disk, struct fcm_error *err)
{
	mkdir("/image", 0755);
	mkdir("/disk", 0755);
	mkdir(ROOT, 0755);
	auto_close int self = open("/init", O_PATH | O_CLOEXEC);
	if (mount_layers(image, disk, err) < 0) {
		unmount_layers();
		return -1;
	}
	auto_close int disk_fd = open("/disk", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (self < 0 || disk_fd < 0)
		return fcm_fail_errno(err, "open what the initramfs holds");
	if (move_root(err) < 0 || mount_run(err) < 0 || mount_points(late, ARRAY_SIZE(late), err) < 0 ||
		offer_agent(self, err) < 0)
		return -1;
	make_links();
	r->disk_fd = STEAL_FD(disk_fd);
	/* a mount of our own, which keeps nobody from unmounting theirs */
	r->cgroup_fd = open_tree(AT_FDCWD, CGROUP, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	r->mounted = true;
	return 0;
}

const char *mount_sshd(void)
{
	if (access("/usr/sbin/sshd", X_OK) == 0)
		return "openssh";
	return access("/usr/sbin/dropbear", X_OK) == 0 ? "dropbear" : "none";
}

void mount_finish(const struct guest_root *r)
{
	sync();
	if (!r->mounted)
		return;
	mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	if (fchdir(r->disk_fd) == 0)
		mount(NULL, ".", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	sync();
}
