#include "daemon/proc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"

/* Descriptors are first moved here or above, out of the way of every number that a child may be told to use.
 */
enum { FD_HIGH = 64 };

static char boot_id[37];
static pthread_once_t boot_id_once = PTHREAD_ONCE_INIT;

static void read_boot_id(void)
{
	_cleanup_(buf_done) struct buf b = {0};
	struct fcm_error err;

	if (file_read(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64, &b, &err) < 0)
		return;
	b.p[strcspn(b.p, "\n")] = '\0';
	fcm_copy(boot_id, sizeof boot_id, b.p);
}

const char *proc_boot_id(void)
{
	pthread_once(&boot_id_once, read_boot_id);
	return boot_id;
}

/* Fields 3 (state) and 22 (start time) of /proc/<pid>/stat. The command in field 2 may hold spaces and
 * parentheses, so counting begins behind the last ')'. */
static bool parse_stat(const char *stat, char *ret_state, uint64_t *ret_start)
{
	const char *s = strrchr(stat, ')');
	unsigned long long start;

	if (s == NULL ||
		sscanf(s + 1,
			" %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
			ret_state, &start) != 2)
		return false;
	*ret_start = start;
	return true;
}

int proc_identify(pid_t pid, struct proc_id *ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf b = {0};
	char path[32], state;
	uint64_t start;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	if (pid <= 0 || file_read(AT_FDCWD, path, 4096, &b, err) < 0)
		return fcm_fail(err, FCM_NOT_FOUND, "process %d has ended", (int)pid);
	if (!parse_stat(b.p, &state, &start) || state == 'Z' || state == 'X')
		return fcm_fail(err, FCM_NOT_FOUND, "process %d has ended", (int)pid);
	*ret = (struct proc_id){.pid = pid, .start_ticks = start};
	fcm_copy(ret->boot_id, sizeof ret->boot_id, proc_boot_id());
	return 0;
}

static int pidfd_of(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

static int check_boot(const struct proc_id *id, struct fcm_error *err)
{
	return id->pid > 0 && strcmp(id->boot_id, proc_boot_id()) == 0
		       ? 0
		       : fcm_fail(err, FCM_NOT_FOUND, "process %d is of another boot", (int)id->pid);
}

/* Looked at when a descriptor of the process was taken: had the pid been reused before, the start time would differ. */
static int check_start(const struct proc_id *id, struct fcm_error *err)
{
	struct proc_id now;

	if (proc_identify(id->pid, &now, err) < 0)
		return -1;
	return now.start_ticks == id->start_ticks
		       ? 0
		       : fcm_fail(err, FCM_NOT_FOUND, "pid %d belongs to another process now", (int)id->pid);
}

int proc_open(const struct proc_id *id, struct fcm_error *err)
{
	if (check_boot(id, err) < 0)
		return -1;
	auto_close int fd = pidfd_of(id->pid);
	if (fd < 0 && errno == ESRCH)
		return fcm_fail(err, FCM_NOT_FOUND, "process %d has ended", (int)id->pid);
	if (fd < 0)
		return fcm_fail_errno(err, "pidfd_open %d", (int)id->pid);
	return check_start(id, err) < 0 ? -1 : STEAL_FD(fd);
}

int proc_dir(const struct proc_id *id, struct fcm_error *err)
{
	char path[32];

	if (check_boot(id, err) < 0)
		return -1;
	snprintf(path, sizeof path, "/proc/%d", (int)id->pid);
	auto_close int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fcm_fail(err, FCM_NOT_FOUND, "process %d has ended", (int)id->pid);
	return check_start(id, err) < 0 ? -1 : STEAL_FD(fd);
}

int proc_signal(int pidfd, int sig, struct fcm_error *err)
{
	if (syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0) < 0 && errno != ESRCH)
		return fcm_fail_errno(err, "send signal %d", sig);
	return 0;
}

bool proc_wait(int pidfd, int64_t deadline)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	for (;;) {
		int n = poll(&p, 1, clock_left(deadline));
		if (n > 0)
			break;
		if (n == 0 && clock_left(deadline) == 0)
			return false;
	}
	siginfo_t info;
	while (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG) < 0 && errno == EINTR)
		;
	return true;
}

static pthread_mutex_t spawns = PTHREAD_MUTEX_INITIALIZER;

void proc_hold_spawns(void)
{
	pthread_mutex_lock(&spawns);
}

void proc_release_spawns(void)
{
	pthread_mutex_unlock(&spawns);
}

static bool listed(const struct proc_fd *fds, size_t n, int as)
{
	for (size_t i = 0; i < n; i++)
		if (fds[i].as == as)
			return true;
	return false;
}

/* dup2() in the child makes the copy without CLOEXEC; glibc only clears the flag when both numbers are equal,
 * so going through a high copy keeps one way for all, and no target can overwrite a source that is still
 * needed. */
static int add_fds(posix_spawn_file_actions_t *actions, const struct proc_fd *fds, size_t n, int *high)
{
	for (size_t i = 0; i < n; i++) {
		high[i] = fcntl(fds[i].fd, F_DUPFD_CLOEXEC, FD_HIGH);
		if (high[i] < 0)
			return errno;
	}
	for (size_t i = 0; i < n; i++) {
		int e = posix_spawn_file_actions_adddup2(actions, high[i], fds[i].as);
		if (e)
			return e;
	}
	return 0;
}

/* /dev/null at 0 and 1, and nothing at all above 2 but what is listed: also not what we inherited without
 * CLOEXEC. */
static int close_others(posix_spawn_file_actions_t *actions, const struct proc_fd *fds, size_t n)
{
	int e = 0, last = 2;

	for (size_t i = 0; i < n; i++)
		last = MAX(last, fds[i].as);
	for (int as = 0; as <= last && e == 0; as++) {
		if (listed(fds, n, as) || as == STDERR_FILENO)
			continue;
		if (as < STDERR_FILENO)
			e = posix_spawn_file_actions_addopen(actions, as, "/dev/null", O_RDWR, 0);
		else
			e = posix_spawn_file_actions_addclose(actions, as);
	}
	return e ? e : posix_spawn_file_actions_addclosefrom_np(actions, last + 1);
}

static int set_attributes(posix_spawnattr_t *attr)
{
	sigset_t all, none;

	sigfillset(&all);
	sigemptyset(&none);
	int e = posix_spawnattr_setsigdefault(attr, &all);
	e = e ? e : posix_spawnattr_setsigmask(attr, &none);
	return e ? e
		 : posix_spawnattr_setflags(
			   attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
}

int proc_spawn(char *const argv[], char *const env[], const struct proc_fd *fds, size_t nfds, pid_t *ret_pid,
	struct fcm_error *err)
{
	static char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	char *const default_env[] = {path, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	pid_t pid;
	auto_free int *high = xalloc((nfds + 1) * sizeof *high);

	for (size_t i = 0; i < nfds; i++) {
		high[i] = -1;
		if (fds[i].as >= FD_HIGH)
			return fcm_fail(
				err, FCM_INTERNAL, "descriptor %d is above %d", fds[i].as, FD_HIGH - 1);
	}
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	int e = add_fds(&actions, fds, nfds, high);
	e = e ? e : close_others(&actions, fds, nfds);
	e = e ? e : set_attributes(&attr);
	proc_hold_spawns();
	e = e ? e : posix_spawn(&pid, argv[0], &actions, &attr, argv, env ? env : default_env);
	proc_release_spawns();
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	for (size_t i = 0; i < nfds; i++)
		fcm_closep(&high[i]);
	if (e) {
		errno = e;
		return fcm_fail_errno(err, "start %s", argv[0]);
	}
	int pidfd = pidfd_of(pid);
	if (pidfd < 0) {
		fcm_fail_errno(err, "pidfd of %s", argv[0]);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		return -1;
	}
	*ret_pid = pid;
	return pidfd;
}
