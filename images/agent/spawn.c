#include "images/agent/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/core/fileio.h"

enum step { STEP_SPACES, STEP_STDIO, STEP_USER, STEP_DIR, STEP_EXEC };

static const char *const step_names[] = {
	[STEP_SPACES] = "enter its namespaces",
	[STEP_STDIO] = "take stdin and output",
	[STEP_USER] = "become the user",
	[STEP_DIR] = "enter the directory",
	[STEP_EXEC] = "execute the program",
};

/* Smaller than PIPE_BUF, so it is read whole or not at all: pipe(7). */
struct report {
	enum step step;
	int error;
};

void spawn_done(struct spawn *s)
{
	strv_done(&s->argv);
	strv_done(&s->env);
	for (int i = 0; i < 3; i++)
		fcm_closep(&s->stdio[i]);
}

/* What PID 1 blocks and ignores isn't for others: both survive an execve(2). */
static void reset_signals(void)
{
	sigset_t none;

	for (int i = 1; i < NSIG; i++)
		signal(i, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* A descriptor that is 0, 1 or 2 already, as where the kernel gave PID 1 no console, is moved away first. */
static bool take_stdio(const struct spawn *s)
{
	int fds[3];

	for (int i = 0; i < 3; i++)
		if ((fds[i] = fcntl(s->stdio[i], F_DUPFD_CLOEXEC, 3)) < 0)
			return false;
	for (int i = 0; i < 3; i++)
		if (dup2(fds[i], i) < 0)
			return false;
	return !s->tty || ioctl(0, TIOCSCTTY, 0) == 0;
}

/* Its pipes are its user's, so that it can open /dev/stdout, where many a daemon's log leads in an image. */
static bool give_stdio(const struct user *u)
{
	struct stat st;

	for (int i = 0; i < 3; i++)
		if (fstat(i, &st) == 0 && S_ISFIFO(st.st_mode) && fchown(i, u->uid, u->gid) < 0)
			return false;
	return true;
}

static bool become(const struct user *u)
{
	return setgroups(u->group_count, u->groups) == 0 && setgid(u->gid) == 0 && setuid(u->uid) == 0;
}

static bool enter(const struct spawn *s)
{
	if (s->dir)
		return chdir(s->dir) == 0;
	return chdir(s->user.home) == 0 || chdir("/") == 0;
}

const char *spawn_path(const struct strv *env)
{
	for (size_t i = 0; i < env->n; i++)
		if (strncmp(env->v[i], "PATH=", 5) == 0)
			return env->v[i] + 5;
	return "";
}

/* As a shell looks for it (POSIX, 2.9.1.1), but what the kernel can't execute isn't given to a shell. Returns errno: of the
 * first that was there. */
static int execute(const struct spawn *s)
{
	const char *name = s->argv.v[0], *dir = spawn_path(&s->env);
	int error = ENOENT;

	if (strchr(name, '/')) {
		execve(name, s->argv.v, s->env.v);
		return errno;
	}
	for (size_t n; *name && *dir; dir += n + (dir[n] == ':')) {
		n = strcspn(dir, ":");
		auto_free char *file = xprintf("%.*s/%s", (int)n, n ? dir : ".", name);
		execve(file, s->argv.v, s->env.v);
		if (error == ENOENT && errno != ENOTDIR)
			error = errno;
	}
	return error;
}

/* Beside an init the agent is spared when memory runs out (yield.c); what it runs isn't. */
static void make_mortal(void)
{
	struct fcm_error ignored;

	(void)!file_poke("/proc/self/oom_score_adj", "0", &ignored);
}

static void make_dirs(const char *path)
{
	auto_free char *copy = xstrdup(path);

	for (char *s = copy; (s = strchr(s + 1, '/'));) {
		*s = '\0';
		mkdir(copy, 0755);
		*s = '/';
	}
	mkdir(copy, 0755); /* what failed mount(2) tells */
}

/* As docker makes it; whether it can be entered is seen when it is. */
static bool make_dir(const char *dir)
{
	if (dir && access(dir, F_OK) < 0)
		make_dirs(dir);
	return true;
}

static bool mount_tmpfs(const struct strv *dirs)
{
	for (size_t i = 0; dirs && i < dirs->n; i++) {
		make_dirs(dirs->v[i]);
		if (mount("tmpfs", dirs->v[i], "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777") < 0)
			return false;
	}
	return true;
}

/* Of the new mount namespace alone: the agent goes on to write to the same root. */
static bool make_spaces(const struct spawn *s)
{
	return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0 &&
	       (s->prepare == NULL || s->prepare()) && mount_tmpfs(s->tmpfs) && make_dir(s->dir) &&
	       (!s->read_only ||
		       mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOATIME, NULL) == 0);
}

static bool enter_spaces(const struct spawn *s)
{
	if (s->isolate)
		return make_spaces(s);
	return s->inside == NULL || setns(s->inside->mnt, CLONE_NEWNS) == 0;
}

static _Noreturn void run_child(const struct spawn *s, int report)
{
	struct report r = {.step = STEP_SPACES};

	report = fcntl(report, F_DUPFD_CLOEXEC, 3);
	setsid();
	reset_signals();
	make_mortal();
	if (enter_spaces(s) && (r.step = STEP_STDIO, take_stdio(s)) &&
		(r.step = STEP_USER, give_stdio(&s->user) && become(&s->user)) &&
		(r.step = STEP_DIR, enter(s))) {
		if (s->run) {
			close_range(3, ~0u, 0); /* the agent's, that an execve(2) would have closed */
			_exit(s->run(s->arg));
		}
		r.step = STEP_EXEC;
		errno = execute(s);
	}
	r.error = errno;
	if (write(report, &r, sizeof r) < 0)
		_exit(125);
	_exit(127);
}

/* What setns(2) says of PID namespaces is for children only; so the child is ours, and its number one that we know. */
static pid_t fork_into(const struct spaces *in)
{
	auto_close int ours = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);

	if (ours < 0 || setns(in->pid, CLONE_NEWPID) < 0)
		return -1;
	pid_t pid = fork();
	int error = errno;
	if (pid != 0)
		(void)!setns(ours, CLONE_NEWPID);
	errno = error;
	return pid;
}

static pid_t fork_child(const struct spawn *s)
{
	if (s->isolate)
		return (pid_t)syscall(SYS_clone, SIGCHLD | CLONE_NEWPID | CLONE_NEWNS, NULL, NULL, NULL, 0);
	return s->inside ? fork_into(s->inside) : fork();
}

int spawn_start(const struct spawn *s, pid_t *ret, int *ret_report, struct fcm_error *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return fcm_fail_errno(err, "make a pipe");
	auto_close int report = ends[0], child = ends[1];
	if (fcntl(report, F_SETFL, O_NONBLOCK) < 0)
		return fcm_fail_errno(err, "make a pipe");
	pid_t pid = fork_child(s);
	if (pid < 0)
		return fcm_fail_errno(err, "start a process");
	if (pid == 0)
		run_child(s, child);
	*ret = pid;
	*ret_report = STEAL_FD(report);
	return 0;
}

enum spawn_state spawn_report(int report, int *ret_exit, struct fcm_error *err)
{
	struct report r;
	ssize_t n = read(report, &r, sizeof r);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return SPAWN_LATER;
	if (n != sizeof r)
		return SPAWN_RUNS;
	errno = r.error;
	fcm_fail_errno(err, "%s", step_names[r.step]);
	*ret_exit = 0;
	if (r.step == STEP_EXEC)
		*ret_exit = r.error == ENOENT || r.error == ENOTDIR ? 127 : 126;
	return SPAWN_FAILED;
}
