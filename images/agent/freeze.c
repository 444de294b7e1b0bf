#include "images/agent/freeze.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "images/agent/session.h"

/* Where what was in the root group is meanwhile. */
#define OWN "fcm-freeze"

enum {
	LIST_MAX = 16 << 20, /* bytes that the kernel may say of a group's processes */
	BACK_ROUNDS = 100,   /* of moving them back */
};

/* Fields of /proc/<pid>/stat, counted from its name. */
enum { STAT_STATE = 1, STAT_FLAGS = 7 };

#define PF_KTHREAD 0x00200000u /* of the flags in /proc/<pid>/stat: kernel, include/linux/sched.h */

void freeze_init(struct freezer *f, int root)
{
	*f = (struct freezer){.root = root, .syncing = -1};
}

bool freeze_is_on(const struct freezer *f)
{
	return f->phase != FREEZE_NONE;
}

void freeze_forget_host(struct freezer *f)
{
	f->asked = 0;
}

/* ---- files of the tree ---- */

static bool path_of(char ret[NAME_MAX + 32], const char *group, const char *file)
{
	return fcm_format(ret, NAME_MAX + 32, "%s/%s", group, file);
}

/* Returns 0, or -1 with errno. */
static int tree_write(const struct freezer *f, const char *group, const char *file, const char *text)
{
	char path[NAME_MAX + 32];

	if (!path_of(path, group, file))
		return -1;
	auto_close int fd = openat(f->root, path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 || write(fd, text, strlen(text)) < 0 ? -1 : 0;
}

static int tree_read(
	const struct freezer *f, const char *group, const char *file, struct buf *ret, struct fcm_error *err)
{
	char path[NAME_MAX + 32];

	if (!path_of(path, group, file))
		return fcm_fail(err, FCM_HOST, "the name of group %s is too long", group);
	return file_read(f->root, path, LIST_MAX, ret, err);
}

/* ---- processes of the root group ---- */

/* The n-th field behind the name, which may hold anything and ends with the last parenthesis of the line: proc(5). */
static const char *field_of(const char *stat, unsigned n)
{
	const char *s = strrchr(stat, ')');

	for (; s && n > 0; n--)
		s = strchr(s + 1, ' ');
	return s ? s + 1 : "";
}

/* *ret_dead: only its main thread has ended, or all of it. */
static bool is_kernel_thread(const char *pid, bool *ret_dead)
{
	_cleanup_(buf_done) struct buf stat = {0};
	struct fcm_error ignored;
	char path[64];

	*ret_dead = true;
	if (!fcm_format(path, sizeof path, "/proc/%s/stat", pid) ||
		file_read(AT_FDCWD, path, 4096, &stat, &ignored) < 0)
		return false;
	*ret_dead = field_of(stat.p, STAT_STATE)[0] == 'Z';
	return strtoul(field_of(stat.p, STAT_FLAGS), NULL, 10) & PF_KTHREAD;
}

static int make_own(struct freezer *f, struct fcm_error *err)
{
	if (strv_has(&f->groups, OWN))
		return 0;
	if ((mkdirat(f->root, OWN, 0755) < 0 && errno != EEXIST) ||
		tree_write(f, OWN, "cgroup.freeze", "1") < 0)
		return fcm_fail_errno(err, "make the group %s", OWN);
	strv_add(&f->groups, OWN);
	return 0;
}

/* Move what isn't ours into the group that is frozen. Returns how many, or -1. */
static int move_away(struct freezer *f, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf list = {0};
	const pid_t self = getpid();
	char *save = NULL;
	int moved = 0;
	bool dead;

	if (tree_read(f, ".", "cgroup.procs", &list, err) < 0)
		return -1;
	for (char *pid = strtok_r(list.p, "\n", &save); pid; pid = strtok_r(NULL, "\n", &save)) {
		if (strtol(pid, NULL, 10) == self || is_kernel_thread(pid, &dead))
			continue;
		if (make_own(f, err) < 0)
			return -1;
		if (tree_write(f, OWN, "cgroup.procs", pid) == 0)
			moved += !dead;
		else if (errno != ESRCH)
			return fcm_fail_errno(err, "move process %s", pid);
	}
	return moved;
}

/* By their threads, one of which is enough to move a process: one whose main thread has ended isn't among the processes. */
static void move_back(const struct freezer *f)
{
	for (int i = 0; i < BACK_ROUNDS; i++) {
		_cleanup_(buf_done) struct buf list = {0};
		struct fcm_error ignored;
		char *save = NULL;
		if (tree_read(f, OWN, "cgroup.threads", &list, &ignored) < 0 || list.n == 0)
			return;
		for (char *tid = strtok_r(list.p, "\n", &save); tid; tid = strtok_r(NULL, "\n", &save))
			(void)!tree_write(f, ".", "cgroup.procs", tid);
	}
}

/* ---- groups ---- */

static void closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

/* Freeze a group, unless somebody else has. Returns 1 when all in it stand still, 0 when they don't yet, or -1. */
static int freeze_group(struct freezer *f, const char *name, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf state = {0}, events = {0};

	if (tree_read(f, name, "cgroup.freeze", &state, err) < 0 ||
		tree_read(f, name, "cgroup.events", &events, err) < 0)
		return -1;
	if (fcm_line_number(events.p, "frozen") == 1)
		return 1;
	if (state.p[0] == '1')
		return 0;
	if (f->groups.n == FREEZE_GROUPS_MAX)
		return fcm_fail(err, FCM_HOST, "there are more than %d groups", FREEZE_GROUPS_MAX);
	if (tree_write(f, name, "cgroup.freeze", "1") < 0)
		return fcm_fail_errno(err, "freeze the group %s", name);
	strv_add(&f->groups, name);
	return 0;
}

/* One that was removed meanwhile doesn't count. *ret_moving: the name of one that isn't still yet, or "". */
static int freeze_groups(struct freezer *f, char ret_moving[NAME_MAX + 1], struct fcm_error *err)
{
	int fd = openat(f->root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_(closedirp) DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (d == NULL)
		return fcm_fail_errno(err, "read the groups of processes");
	while ((e = readdir(d))) {
		if (e->d_type != DT_DIR || strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		int still = freeze_group(f, e->d_name, err);
		if (still < 0 && faccessat(f->root, e->d_name, F_OK, 0) == 0)
			return -1;
		if (still == 0)
			fcm_copy(ret_moving, NAME_MAX + 1, e->d_name);
	}
	return 0;
}

/* Returns 1 when all stand still, 0 when they don't yet, or -1. */
static int freeze_round(struct freezer *f, struct fcm_error *err)
{
	char moving[NAME_MAX + 1] = "";
	int moved = move_away(f, err);

	if (moved < 0 || freeze_groups(f, moving, err) < 0)
		return -1;
	if (moved == 0 && moving[0] == '\0')
		return 1;
	if (clock_left(f->give_up) > 0)
		return 0;
	return fcm_fail(
		err, FCM_TIMEOUT, "processes of the group %s didn't stop in time", moving[0] ? moving : "/");
}

/* What we have moved goes first, as long as it stands still: nobody forks then. */
static void undo(struct freezer *f)
{
	if (strv_has(&f->groups, OWN))
		move_back(f);
	for (size_t i = f->groups.n; i-- > 0;)
		(void)!tree_write(f, f->groups.v[i], "cgroup.freeze", "0");
	(void)!unlinkat(f->root, OWN, AT_REMOVEDIR);
	strv_done(&f->groups);
	fcm_closep(&f->syncing);
	f->phase = FREEZE_NONE;
}

/* ---- the request ---- */

static void answer(struct freezer *f, struct channel *c, const struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf results = {0};

	if (f->asked == 0)
		return;
	if (err)
		session_error(&results, err);
	else
		kv_add(&results, "ok", "1");
	channel_send(c, f->asked, FRAME_RES, &results);
	f->asked = 0;
}

int freeze_begin(struct freezer *f, uint32_t number, const void *kv, size_t n, struct fcm_error *err)
{
	int64_t hold_ms = kv_i64(kv, n, "hold_ms", 1, FREEZE_HOLD_MAX_MS, 0);

	if (hold_ms == 0)
		return fcm_fail_field(err, FCM_INVALID, "hold_ms", "hold_ms: 1 to %d", FREEZE_HOLD_MAX_MS);
	if (f->root < 0)
		return fcm_fail(err, FCM_WRONG_STATE, "freeze: there is no cgroup v2 here");
	if (f->asked)
		return fcm_fail(err, FCM_BUSY, "freeze: another one isn't answered yet");
	if (f->phase == FREEZE_NONE) {
		if (tree_write(f, ".", "cgroup.procs", "0") < 0)
			return fcm_fail_errno(err, "freeze: enter the root of cgroup v2");
		f->phase = FREEZE_BEGUN;
		f->give_up = clock_in(FREEZE_GIVE_UP_MS);
		f->look_at = 0;
	}
	f->until = clock_in(hold_ms);
	f->sync = kv_i64(kv, n, "sync", 0, 1, 0) == 1;
	f->asked = number;
	return 0;
}

bool freeze_thaw(struct freezer *f, struct channel *c, const char *why)
{
	struct fcm_error err;

	if (f->phase == FREEZE_NONE)
		return false;
	undo(f);
	fcm_fail(&err, FCM_WRONG_STATE, "freeze: %s", why);
	answer(f, c, &err);
	return true;
}

/* Ours isn't frozen: it is in the root group, as we are. */
static int begin_sync(struct freezer *f, struct fcm_error *err)
{
	pid_t pid = fork();

	if (pid == 0) {
		sync();
		_exit(0);
	}
	if (pid < 0 || (f->syncing = (int)syscall(SYS_pidfd_open, pid, 0)) < 0)
		return fcm_fail_errno(err, "freeze: start a process for sync");
	return 0;
}

static void serve_sync(struct freezer *f, struct channel *c)
{
	struct pollfd p = {.fd = f->syncing, .events = POLLIN};
	struct fcm_error err;

	if (f->syncing < 0 && begin_sync(f, &err) < 0) {
		undo(f);
		answer(f, c, &err);
	} else if (poll(&p, 1, 0) == 1) {
		fcm_closep(&f->syncing);
		answer(f, c, NULL);
	}
}

static void go_on(struct freezer *f, struct channel *c)
{
	struct fcm_error err;
	int done = freeze_round(f, &err);

	f->look_at = clock_in(FREEZE_LOOK_MS);
	if (done > 0)
		f->phase = FREEZE_DONE;
	if (done >= 0)
		return;
	undo(f);
	fcm_wrap(&err, "freeze");
	answer(f, c, &err);
}

void freeze_tick(struct freezer *f, struct channel *c)
{
	if (f->phase != FREEZE_NONE && clock_left(f->until) == 0)
		freeze_thaw(f, c, "hold_ms were over before all was done");
	if (f->phase == FREEZE_BEGUN && clock_left(f->look_at) == 0)
		go_on(f, c);
	if (f->phase != FREEZE_DONE || f->asked == 0)
		return;
	if (f->sync)
		serve_sync(f, c);
	else
		answer(f, c, NULL);
}

int64_t freeze_deadline(const struct freezer *f)
{
	if (f->phase == FREEZE_NONE)
		return FCM_FOREVER;
	return f->phase == FREEZE_BEGUN ? MIN(f->look_at, f->until) : f->until;
}

void freeze_poll(const struct freezer *f, struct pollfd *fds)
{
	fds[0] = (struct pollfd){.fd = f->syncing, .events = POLLIN};
}
