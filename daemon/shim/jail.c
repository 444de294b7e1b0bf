#include "daemon/shim/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/core/kv.h"

enum { PATH_SIZE = 1024, COMPONENT_SIZE = 64 };

/* "SRC:DST:MODE", cut from the right because a path of the host's may hold a colon. */
struct bind {
	char text[2 * PATH_SIZE];
	const char *src, *dst, *mode;
};

static int parse_bind(const char *text, struct bind *ret, struct fcm_error *err)
{
	if (!fcm_copy(ret->text, sizeof ret->text, text))
		return fcm_fail(err, FCM_INVALID, "bind: too long");
	char *mode = strrchr(ret->text, ':');
	if (mode)
		*mode++ = '\0';
	char *dst = strrchr(ret->text, ':');
	if (dst)
		*dst++ = '\0';
	if (mode == NULL || dst == NULL || ret->text[0] != '/' || dst[0] != '/')
		return fcm_fail(err, FCM_INVALID, "bind '%s': not SRC:DST:ro|rw|dev", text);
	ret->src = ret->text;
	ret->dst = dst + 1;
	ret->mode = mode;
	return 0;
}

/* What a bind of that mode may do, beyond nosuid. What the VMM can write it can't execute. */
static int mount_flags(const char *mode, unsigned long *ret, struct fcm_error *err)
{
	if (strcmp(mode, "ro") == 0)
		*ret = MS_RDONLY | MS_NODEV;
	else if (strcmp(mode, "rw") == 0)
		*ret = MS_NODEV | MS_NOEXEC;
	else if (strcmp(mode, "dev") == 0)
		*ret = MS_NOEXEC;
	else
		return fcm_fail(err, FCM_INVALID, "bind: '%s' is not ro, rw or dev", mode);
	return 0;
}

/* Step from directory *fd into its directory `name`, which is made when it is missing. Never through a link. */
static int step_into(int *fd, const char *name)
{
	if (mkdirat(*fd, name, 0755) < 0 && errno != EEXIST)
		return -1;
	int next = openat(*fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (next < 0)
		return -1;
	close(*fd);
	*fd = next;
	return 0;
}

/* Make the file or directory `path` below the working directory, to mount on. */
static int make_point(const char *path, bool is_dir, struct fcm_error *err)
{
	auto_close int fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char name[COMPONENT_SIZE];

	for (const char *s = path; fd >= 0;) {
		size_t n = strcspn(s, "/");
		bool last = s[n] == '\0';
		if (n == 0 || n >= sizeof name || (n <= 2 && s[0] == '.'))
			return fcm_fail(err, FCM_INVALID, "bind: bad path in the jail: /%s", path);
		memcpy(name, s, n);
		name[n] = '\0';
		if (last && !is_dir) {
			auto_close int file =
				openat(fd, name, O_RDONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
			return file < 0 ? fcm_fail_errno(err, "make /%s in the jail", path) : 0;
		}
		if (step_into(&fd, name) < 0)
			break;
		if (last)
			return 0;
		s += n + 1;
	}
	return fcm_fail_errno(err, "make /%s in the jail", path);
}

static int bind_one(const char *text, struct fcm_error *err)
{
	struct bind b;
	struct stat st;
	unsigned long flags = 0;

	if (parse_bind(text, &b, err) < 0 || mount_flags(b.mode, &flags, err) < 0)
		return -1;
	if (stat(b.src, &st) < 0)
		return fcm_fail_errno(err, "bind %s", b.src);
	if (make_point(b.dst, S_ISDIR(st.st_mode), err) < 0)
		return -1;
	if (mount(b.src, b.dst, NULL, MS_BIND, NULL) < 0 ||
		mount(NULL, b.dst, NULL, MS_BIND | MS_REMOUNT | MS_NOSUID | flags, NULL) < 0)
		return fcm_fail_errno(err, "bind %s at /%s", b.src, b.dst);
	return 0;
}

/* "TARGET:LINK", a link in the jail's root. */
static int link_one(const char *text, struct fcm_error *err)
{
	char target[PATH_SIZE], there[PATH_SIZE];

	if (!fcm_copy(target, sizeof target, text))
		return fcm_fail(err, FCM_INVALID, "link: too long");
	char *name = strchr(target, ':');
	if (name == NULL || name[1] != '/' || name[2] == '\0' || strchr(name + 2, '/'))
		return fcm_fail(err, FCM_INVALID, "link '%s': not TARGET:/LINK", text);
	*name = '\0';
	name += 2;
	ssize_t n = readlink(name, there, sizeof there);
	if (n >= 0 && (size_t)n == strlen(target) && memcmp(there, target, (size_t)n) == 0)
		return 0;
	return symlink(target, name) < 0 ? fcm_fail_errno(err, "link /%s in the jail", name) : 0;
}

static int mount_memory(const char *dir, unsigned mib)
{
	char options[64];
	int n = snprintf(options, sizeof options, "mode=755,nr_inodes=2,size=%um", mib);

	/* Huge pages where it asks for them, as for memory without a file; not each kernel has them. */
	snprintf(options + n, sizeof options - (size_t)n, ",huge=advise");
	int rc = mount("memory", dir, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options);
	if (rc == 0 || errno != EINVAL)
		return rc;
	options[n] = '\0';
	return mount("memory", dir, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options);
}

/* "MIB:/DIR". A tmpfs of its own, since those of the host have a size that all share. Only root makes files there, so this
 * one's size bounds what the VMM can write. */
static int make_memory(const char *text, uid_t uid, struct fcm_error *err)
{
	char dir[COMPONENT_SIZE], path[COMPONENT_SIZE + 8];
	unsigned mib;

	if (sscanf(text, "%u:/%63[a-z]", &mib, dir) != 2)
		return fcm_fail(err, FCM_INVALID, "memory '%s': not MIB:/DIR", text);
	snprintf(path, sizeof path, "%s/memory", dir);
	if (make_point(dir, true, err) < 0)
		return -1;
	if (mount_memory(dir, mib) < 0)
		return fcm_fail_errno(err, "mount a tmpfs at /%s", dir);
	auto_close int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)mib << 20) < 0 || fchown(fd, uid, uid) < 0)
		return fcm_fail_errno(err, "make /%s in the jail", path);
	return 0;
}

/* Make `jail` a mount of its own and the working directory. Who can write to it could lead the mounts astray. */
static int open_root(const char *jail, struct fcm_error *err)
{
	struct stat st;

	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return fcm_fail_errno(err, "make mounts private");
	if (lstat(jail, &st) < 0)
		return fcm_fail_errno(err, "jail %s", jail);
	if (!S_ISDIR(st.st_mode) || st.st_uid != 0 || (st.st_mode & 0022))
		return fcm_fail(err, FCM_HOST, "jail %s: not a directory that only root can write", jail);
	if (mount(jail, jail, NULL, MS_BIND, NULL) < 0 || chdir(jail) < 0)
		return fcm_fail_errno(err, "jail %s", jail);
	return 0;
}

static int pivot(struct fcm_error *err)
{
	if (mount(NULL, ".", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
		    NULL) < 0)
		return fcm_fail_errno(err, "make the jail read-only");
	/* pivot_root(2): with "." for both the old root ends up on top of the new one, and the umount uncovers it. */
	if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return fcm_fail_errno(err, "pivot_root");
	return 0;
}

int jail_enter(const void *plan, size_t n, struct fcm_error *err)
{
	const char *jail = kv_get(plan, n, "jail"), *net = kv_get(plan, n, "net");
	int flags = CLONE_NEWNS | CLONE_NEWIPC | (net && strcmp(net, "none") == 0 ? CLONE_NEWNET : 0);

	if (jail == NULL || jail[0] != '/')
		return fcm_fail(err, FCM_INVALID, "plan: no jail");
	if (unshare(flags) < 0)
		return fcm_fail_errno(err, "unshare");
	if (open_root(jail, err) < 0)
		return -1;
	for (const char *s = NULL; (s = kv_next(plan, n, "bind", s));)
		if (bind_one(s, err) < 0)
			return -1;
	for (const char *s = NULL; (s = kv_next(plan, n, "link", s));)
		if (link_one(s, err) < 0)
			return -1;
	const char *memory = kv_get(plan, n, "memory");
	if (memory && make_memory(memory, (uid_t)kv_i64(plan, n, "uid", 0, INT32_MAX, 0), err) < 0)
		return -1;
	return pivot(err);
}

/* Effective, permitted and inheritable; the ambient set is always within the latter two (capabilities(7)). */
static int clear_capabilities(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};

	return (int)syscall(SYS_capset, &head, none);
}

int jail_drop(uid_t uid, gid_t gid, gid_t group, struct fcm_error *err)
{
	if (uid == 0 || gid == 0)
		return fcm_fail(err, FCM_INVALID, "plan: uid and gid must not be root's");
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return fcm_fail_errno(err, "drop capability %d", cap);
	if (setgroups(group ? 1 : 0, &group) < 0 || setresgid(gid, gid, gid) < 0 ||
		setresuid(uid, uid, uid) < 0)
		return fcm_fail_errno(err, "become uid %u", (unsigned)uid);
	if (clear_capabilities() < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return fcm_fail_errno(err, "drop privileges");
	return 0;
}
