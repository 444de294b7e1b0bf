/*
 * fcm-shim: the parent of one VMM. It exists because posix_spawn() can't make a jail, and because a VMM outlives the daemon
 * that started it: somebody must hold its console and learn how it ended.
 *
 *	plan -> cgroup, jail -> fork -> child:  drop, PDEATHSIG, exec
 *				     -> parent: pid file, drop, "ready", console until the VMM ends, exit record
 *
 * Everything that needs root is done before "ready". From then on the shim is the VM's own uid, without capabilities, in
 * the jail: it holds the ring and the exit record as open files, so the directory that they are in needs no right of that
 * uid, and nothing that the VM's uid plants there or in the jail is ever followed. It must be the same uid as the VMM's:
 * the kernel checks the dying parent's right to send the child its PDEATHSIG.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "daemon/shim/console.h"
#include "daemon/shim/jail.h"
#include "daemon/shim/plan.h"

enum { ARGS_MAX = 256, ENV_MAX = 8, NOFILE_DEFAULT = 1024, NOFILE_MAX = 1 << 20, ID_MAX = 0x7ffffffe };

static char plan[SHIM_PLAN_MAX];
static size_t plan_n;
static struct console console;

/* Ends of the three pipes between shim and VMM. `status` carries the child's error, or nothing once exec has closed it. */
struct pipes {
	int in[2], out[2], status[2];
};

static int read_plan(struct fcm_error *err)
{
	ssize_t n;

	while ((n = read(SHIM_PLAN_FD, plan + plan_n, sizeof plan - plan_n)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fcm_fail_errno(err, "read the plan");
		plan_n += (size_t)n;
		if (plan_n == sizeof plan)
			return fcm_fail(err, FCM_TOO_LARGE, "plan: too large");
	}
	return 0;
}

static int64_t number(const char *key, int64_t max)
{
	return kv_i64(plan, plan_n, key, 0, max, 0);
}

static bool wanted_fd(int fd)
{
	int64_t v;

	for (const char *s = NULL; (s = kv_next(plan, plan_n, "fd", s));)
		if (fcm_parse_i64(s, SHIM_FIRST_FD, SHIM_FD_END - 1, &v) && v == fd)
			return true;
	return false;
}

/* Close all that the plan doesn't hand on; our own three must not get past the exec. */
static int close_others(struct fcm_error *err)
{
	if (syscall(SYS_close_range, SHIM_FD_END, ~0U, 0) < 0)
		return fcm_fail_errno(err, "close_range");
	for (int fd = SHIM_FIRST_FD; fd < SHIM_FD_END; fd++)
		if (!wanted_fd(fd))
			close(fd);
	for (int fd = SHIM_PLAN_FD; fd < SHIM_FIRST_FD; fd++)
		if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
			return fcm_fail_errno(err, "descriptor %d", fd);
	return 0;
}

/* The TAP must reach exactly one process: with a copy here it would stay busy when the VMM has closed it. */
static void close_handed_on(void)
{
	for (int fd = SHIM_FIRST_FD; fd < SHIM_FD_END; fd++)
		if (wanted_fd(fd))
			close(fd);
}

static int join_cgroups(struct fcm_error *err)
{
	for (const char *s = NULL; (s = kv_next(plan, plan_n, "cgroup", s));)
		if (file_poke(s, "0", err) < 0)
			return fcm_wrap(err, "join cgroup");
	return 0;
}

/* A new file in the VM's directory, in place of the last run's. */
static int new_file(const char *name, mode_t mode, struct fcm_error *err)
{
	if (unlinkat(SHIM_DIR_FD, name, 0) < 0 && errno != ENOENT)
		return fcm_fail_errno(err, "remove the old %s", name);
	int fd = openat(SHIM_DIR_FD, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	return fd < 0 ? fcm_fail_errno(err, "create %s", name) : fd;
}

static int write_pid(pid_t pid, struct fcm_error *err)
{
	auto_close int fd = new_file("firecracker.pid", 0644, err);

	if (fd < 0)
		return -1;
	return dprintf(fd, "%d\n", (int)pid) < 0 ? fcm_fail_errno(err, "write firecracker.pid") : 0;
}

/* Without the record the end reads as that of a killed shim; there is nobody left to tell. */
static void record_end(int fd, int status)
{
	_cleanup_(buf_done) struct buf b = {0};

	kv_addf(&b, "status", "%d", WIFEXITED(status) ? WEXITSTATUS(status) : 0);
	kv_addf(&b, "signal", "%d", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	(void)!write(fd, b.p, b.n);
}

/* The values of `key`, at most `max`, with a NULL behind them. */
static int collect(const char *key, size_t max, char **ret, struct fcm_error *err)
{
	size_t n = 0;

	for (const char *s = NULL; (s = kv_next(plan, plan_n, key, s)); n++) {
		if (n == max)
			return fcm_fail(err, FCM_TOO_LARGE, "plan: more than %zu of %s", max, key);
		ret[n] = (char *)(uintptr_t)s;
	}
	ret[n] = NULL;
	return 0;
}

static int drop(struct fcm_error *err)
{
	return jail_drop((uid_t)number("uid", ID_MAX), (gid_t)number("gid", ID_MAX),
		(gid_t)number("group", ID_MAX), err);
}

static int set_limits(struct fcm_error *err)
{
	rlim_t nofile = (rlim_t)kv_i64(plan, plan_n, "nofile", 16, NOFILE_MAX, NOFILE_DEFAULT);
	struct rlimit core = {0, 0}, files = {nofile, nofile};

	/* Guest memory is mapped: no core dump, neither of the VMM nor of us. */
	if (setrlimit(RLIMIT_CORE, &core) < 0 || setrlimit(RLIMIT_NOFILE, &files) < 0)
		return fcm_fail_errno(err, "set limits");
	return 0;
}

static void set_signals(void (*handler)(int))
{
	static const int ours[] = {SIGPIPE, SIGHUP, SIGINT, SIGTERM};

	for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
		signal(ours[i], handler);
}

static int become_vmm(const struct pipes *p, pid_t shim, struct fcm_error *err)
{
	char *argv[ARGS_MAX + 1], *env[ENV_MAX + 1];

	if (collect("argv", ARGS_MAX, argv, err) < 0 || collect("env", ENV_MAX, env, err) < 0)
		return -1;
	if (argv[0] == NULL)
		return fcm_fail(err, FCM_INVALID, "plan: no argv");
	if (dup2(p->in[0], 0) < 0 || dup2(p->out[1], 1) < 0 || dup2(p->out[1], 2) < 0)
		return fcm_fail_errno(err, "dup2");
	set_signals(SIG_DFL);
	if (drop(err) < 0)
		return -1;
	/* Only now: a change of uid clears it. If the shim died before this line nobody would tell us any more. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return fcm_fail_errno(err, "PR_SET_PDEATHSIG");
	if (getppid() != shim)
		return fcm_fail(err, FCM_HOST, "the shim has gone");
	execve(argv[0], argv, env);
	return fcm_fail_errno(err, "exec %s", argv[0]);
}

static int make_pipes(struct pipes *p, struct fcm_error *err)
{
	if (pipe2(p->in, O_CLOEXEC) < 0 || pipe2(p->out, O_CLOEXEC) < 0 || pipe2(p->status, O_CLOEXEC) < 0)
		return fcm_fail_errno(err, "pipe");
	/* Our ends only: a VMM whose stdout doesn't block would lose output. */
	if (fcntl(p->in[1], F_SETFL, O_NONBLOCK) < 0 || fcntl(p->out[0], F_SETFL, O_NONBLOCK) < 0)
		return fcm_fail_errno(err, "pipe");
	if (kv_get(plan, plan_n, "stdin") && fcntl(p->in[0], F_SETFL, O_NONBLOCK) < 0)
		return fcm_fail_errno(err, "pipe");
	return 0;
}

/* Fork, and wait until the child has become the VMM or told why it couldn't. */
static pid_t start_vmm(struct pipes *p, struct fcm_error *err)
{
	struct fcm_error e;
	pid_t shim = getpid(), pid = fork();

	if (pid < 0)
		return fcm_fail_errno(err, "fork");
	if (pid == 0) {
		become_vmm(p, shim, &e);
		(void)!write(p->status[1], &e, sizeof e);
		_exit(SHIM_FAILED);
	}
	close(p->in[0]);
	close(p->out[1]);
	close(p->status[1]);
	close_handed_on();
	ssize_t n = read(p->status[0], &e, sizeof e);
	close(p->status[0]);
	if (n == 0)
		return pid;
	waitpid(pid, NULL, 0);
	if (n != sizeof e)
		return fcm_fail(err, FCM_INTERNAL, "the child said nothing");
	*err = e;
	return -1;
}

/* All that needs root. Returns the VMM's pid; *ret_exit is the exit record's descriptor, *ret_pidfd the VMM's. */
static pid_t start(struct pipes *p, int *ret_exit, int *ret_pidfd, struct fcm_error *err)
{
	umask(022);
	if (read_plan(err) < 0 || close_others(err) < 0 || set_limits(err) < 0 || join_cgroups(err) < 0)
		return -1;
	*ret_exit = new_file("exit", 0600, err);
	int times = openat(SHIM_DIR_FD, SHIM_TIMES, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (times < 0)
		return fcm_fail_errno(err, "open " SHIM_TIMES);
	if (*ret_exit < 0 || jail_enter(plan, plan_n, err) < 0 ||
		console_open(&console, SHIM_RING_FD, times, "/run/console.sock", err) < 0 ||
		make_pipes(p, err) < 0)
		return -1;
	pid_t pid = start_vmm(p, err);
	if (pid < 0)
		return -1;
	/* A failure ends the shim, and with it the VMM. */
	*ret_pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (*ret_pidfd < 0)
		return fcm_fail_errno(err, "pidfd_open");
	if (write_pid(pid, err) < 0 || drop(err) < 0)
		return -1;
	close(SHIM_DIR_FD);
	return pid;
}

int main(void)
{
	struct pipes p;
	struct fcm_error err;
	int exit_fd, pidfd = -1, status;

	setsid();
	set_signals(SIG_IGN);
	pid_t pid = start(&p, &exit_fd, &pidfd, &err);
	if (pid < 0) {
		dprintf(SHIM_PLAN_FD, "failed %s\n", err.msg);
		return SHIM_FAILED;
	}
	dprintf(SHIM_PLAN_FD, "ready %d\n", (int)pid);
	close(SHIM_PLAN_FD);
	dup2(STDIN_FILENO, STDERR_FILENO); /* nobody shall wait for us at the end of the daemon's stderr */

	console_run(&console, pid, pidfd, p.out[0], p.in[1]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	record_end(exit_fd, status);
	return 0;
}
