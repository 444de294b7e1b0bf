/*
 * A group a VM is `<parent>/<id>` in each hierarchy that we use, where <parent> is:
 *
 *	v2	/sys/fs/cgroup/system.slice/<name>-vms.service, the group of a unit that is delegated to us, where the
 *		daemon is <name>d.service or that unit is up; else /sys/fs/cgroup/<name>. Never below the daemon's own
 *		group: a group that gives controllers to its children can't hold processes (cgroups(7), "no internal
 *		processes"), so as long as VMs ran below its unit, systemd could not start the daemon there again, and
 *		one started from a shell could not make groups at all.
 *	v1	<the daemon's group>/<name> in each of the memory, pids and freezer hierarchies. v1 has no
 *such rule.
 */
#include "daemon/proc/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "daemon/proc/proc.h"

#define ROOT "/sys/fs/cgroup"

enum {
	KILL_MS = 5000, /* until a killed group is empty: exits of large processes take a while */
	TEXT_MAX = 1 << 20,
	PARENT_TRIES = 16,
};

/* Controllers that we use. v1's freezer limits nothing: it is a hierarchy that hardly anybody else moves
 * processes in, so the group stays complete there. */
static const char *const controllers[] = {"memory", "pids", "freezer"};

static bool v2;
static bool lasting;	    /* the parent is a unit's group: systemd's to remove */
static struct strv parents; /* their paths; empty: groups don't work here */
static char why[160];

const char *cgroup_why(void)
{
	return why;
}

/* Our group in the v1 hierarchy of `controller`, or with "" in v2's, as /proc/self/cgroup has it: "ID:CONTROLLERS:/path".
 */
static char *own_group(const char *controller)
{
	_cleanup_(buf_done) struct buf b = {0};
	struct fcm_error err;
	char *save = NULL;

	if (file_read(AT_FDCWD, "/proc/self/cgroup", TEXT_MAX, &b, &err) < 0)
		return NULL;
	for (char *line = strtok_r(b.p, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
		if (path == NULL)
			continue;
		*path++ = '\0';
		if (strcmp(names + 1, controller) == 0)
			return xstrdup(strcmp(path, "/") == 0 ? "" : path);
	}
	return NULL;
}

/* The directory of our group in a hierarchy that is mounted at `mount`. In a container the mount shows only a
 * part of the hierarchy: then its root is as good as our group. */
static char *own_dir(const char *mount, const char *group)
{
	char *path = xprintf("%s%s", mount, group);

	if (access(path, F_OK) == 0)
		return path;
	free(path);
	return xstrdup(mount);
}

static int make_group(const char *path, struct fcm_error *err)
{
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		return fcm_fail_errno(err, "make cgroup %s", path);
	return 0;
}

static int poke(const char *dir, const char *file, const char *text, struct fcm_error *err)
{
	auto_free char *path = xprintf("%s/%s", dir, file);
	return file_poke(path, text, err);
}

static int make_parent(const char *path, struct fcm_error *err)
{
	if (make_group(path, err) < 0)
		return -1;
	return v2 ? poke(path, "cgroup.subtree_control", "+memory +pids", err) : 0;
}

/* Make the parent once to see that it can be made, and keep none without a VM in it. */
static int try_parent(const char *path, struct fcm_error *err)
{
	if (make_parent(path, err) < 0)
		return -1;
	if (!lasting)
		rmdir(path);
	strv_add(&parents, path);
	return 0;
}

/* Are we <name>d.service? */
static bool is_service(const char *name)
{
	auto_free char *own = own_group(""), *unit = xprintf("/%sd.service", name);
	const char *last = own ? strrchr(own, '/') : NULL;

	return last && strcmp(last, unit) == 0;
}

static int init_v2(const char *name, struct fcm_error *err)
{
	auto_free char *unit = xprintf(ROOT "/system.slice/%s-vms.service", name);

	lasting = access(unit, F_OK) == 0 || is_service(name);
	auto_free char *parent = lasting ? xstrdup(unit) : xprintf(ROOT "/%s", name);
	if (poke(ROOT, "cgroup.subtree_control", "+memory +pids", err) < 0)
		return -1;
	return try_parent(parent, err);
}

static int init_v1(const char *name, struct fcm_error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(controllers); i++) {
		auto_free char *mount = xprintf(ROOT "/%s", controllers[i]),
			       *group = own_group(controllers[i]);
		struct statfs fs;
		if (group == NULL || statfs(mount, &fs) < 0 || fs.f_type != CGROUP_SUPER_MAGIC)
			continue;
		auto_free char *dir = own_dir(mount, group), *parent = xprintf("%s/%s", dir, name);
		if (try_parent(parent, err) < 0)
			return -1;
	}
	return parents.n ? 0 : fcm_fail(err, FCM_HOST, "no cgroup hierarchy is mounted at " ROOT);
}

void cgroup_init(const char *name)
{
	struct statfs fs;
	struct fcm_error err;

	strv_done(&parents);
	why[0] = '\0';
	v2 = statfs(ROOT, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
	if ((v2 ? init_v2(name, &err) : init_v1(name, &err)) < 0) {
		strv_done(&parents);
		fcm_format(why, sizeof why, "%s", err.msg);
	}
}

static char *group_path(const char *parent, const struct vm_id *id)
{
	return xprintf("%s/%s", parent, id->s);
}

/* Set a limit where the group has the file for it: each v1 hierarchy has only its own. 0 is no limit. */
static int set_limit(
	const char *group, const char *file, uint64_t value, const char *none, struct fcm_error *err)
{
	auto_free char *path = xprintf("%s/%s", group, file);
	char text[24];

	if (access(path, F_OK) < 0)
		return 0;
	snprintf(text, sizeof text, "%" PRIu64, value);
	return file_poke(path, value ? text : none, err);
}

/* Make a VM's group and, where it is the first, the parent; cgroup_remove() of another VM may just be taking the parent
 * away, hence more than one try. */
static int make_below(const char *parent, const char *group, struct fcm_error *err)
{
	for (int i = 0; i < PARENT_TRIES; i++) {
		struct fcm_error lost;
		if (make_parent(parent, &lost) < 0 && lost.sys != ENOENT && lost.sys != ENODEV) {
			*err = lost;
			return -1;
		}
		if (make_group(group, err) == 0)
			return 0;
		if (err->sys != ENOENT)
			return -1;
	}
	return -1;
}

/* As much swap as memory: else one that was taken over could push all of the host's full. v1 counts both together, and takes that
 * only behind the first. */
static int set_limits(const char *group, const struct cgroup_limits *l, struct fcm_error *err)
{
	const struct {
		const char *file;
		uint64_t value;
		const char *none;
	} rows[] = {
		{v2 ? "memory.max" : "memory.limit_in_bytes", l->memory_max, v2 ? "max" : "-1"},
		{v2 ? "memory.swap.max" : "memory.memsw.limit_in_bytes", l->memory_max * (v2 ? 1 : 2),
			v2 ? "max" : "-1"},
		{"pids.max", l->pids_max, "max"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (set_limit(group, rows[i].file, rows[i].value, rows[i].none, err) < 0)
			return -1;
	return 0;
}

int cgroup_make(const struct vm_id *id, const struct cgroup_limits *limits, struct fcm_error *err)
{
	for (size_t i = 0; i < parents.n; i++) {
		auto_free char *group = group_path(parents.v[i], id);
		if (make_below(parents.v[i], group, err) < 0 || set_limits(group, limits, err) < 0)
			return -1;
	}
	return 0;
}

void cgroup_procs(const struct vm_id *id, struct strv *ret)
{
	for (size_t i = 0; i < parents.n; i++)
		strv_addf(ret, "%s/%s/%s", parents.v[i], id->s, v2 ? "cgroup.procs" : "tasks");
}

/* Send SIGKILL to all in the group. Returns how many there are, -1 when the group is gone. A pid can't be
 * reused between the read and the kill unless its process has ended and been reaped within these
 * microseconds, so each is held by a pidfd and looked up again. */
static int kill_members(const char *group)
{
	_cleanup_(buf_done) struct buf b = {0};
	auto_free char *path = xprintf("%s/cgroup.procs", group);
	struct fcm_error err;
	char *save = NULL;
	int n = 0;

	if (file_read(AT_FDCWD, path, TEXT_MAX, &b, &err) < 0)
		return -1;
	for (char *line = strtok_r(b.p, "\n", &save); line; line = strtok_r(NULL, "\n", &save), n++) {
		struct proc_id who;
		int64_t pid;
		if (!fcm_parse_i64(line, 1, INT32_MAX, &pid) || proc_identify((pid_t)pid, &who, &err) < 0)
			continue;
		auto_close int pidfd = proc_open(&who, &err);
		if (pidfd < 0 || proc_signal(pidfd, SIGKILL, &err) < 0)
			continue;
	}
	return n;
}

static int remove_group(const char *group, struct fcm_error *err)
{
	int64_t deadline = clock_in(KILL_MS);
	auto_free char *kill_file = xprintf("%s/cgroup.kill", group);

	for (int pause = 1;; pause = MIN(pause * 2, 50)) {
		if (rmdir(group) == 0 || errno == ENOENT)
			return 0;
		if (errno != EBUSY)
			return fcm_fail_errno(err, "remove cgroup %s", group);
		struct fcm_error ignored;
		/* cgroup.kill (Linux 5.14) catches also what is being forked; where it isn't, the next round
		 * does. */
		if (access(kill_file, F_OK) < 0 || file_poke(kill_file, "1", &ignored) < 0)
			kill_members(group);
		if (clock_left(deadline) == 0)
			return fcm_fail(err, FCM_HOST, "cgroup %s: processes survive SIGKILL", group);
		clock_sleep(pause);
	}
}

int cgroup_remove(const struct vm_id *id, struct fcm_error *err)
{
	for (size_t i = 0; i < parents.n; i++) {
		auto_free char *group = group_path(parents.v[i], id);
		if (remove_group(group, err) < 0)
			return -1;
		if (!lasting)
			rmdir(parents.v[i]); /* fails while others live in it */
	}
	return 0;
}

static void closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

int cgroup_list(struct strv *ret, struct fcm_error *err)
{
	for (size_t i = 0; i < parents.n; i++) {
		_cleanup_(closedirp) DIR *d = opendir(parents.v[i]);
		if (d == NULL && errno == ENOENT)
			continue;
		if (d == NULL)
			return fcm_fail_errno(err, "read cgroup %s", parents.v[i]);
		for (struct dirent *e; (e = readdir(d));)
			if (e->d_type == DT_DIR && vm_id_valid(e->d_name) && !strv_has(ret, e->d_name))
				strv_add(ret, e->d_name);
	}
	return 0;
}

int64_t cgroup_cpu_us(const struct vm_id *id)
{
	_cleanup_(buf_done) struct buf b = {0};
	struct fcm_error unknown;

	if (!v2 || parents.n == 0)
		return -1;
	auto_free char *path = xprintf("%s/%s/cpu.stat", parents.v[0], id->s);
	return file_read(AT_FDCWD, path, TEXT_MAX, &b, &unknown) < 0 ? -1
								     : fcm_line_number(b.p, "usage_usec");
}
