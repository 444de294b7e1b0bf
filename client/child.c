#include "client/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include "client/ending.h"

extern char **environ;

static volatile sig_atomic_t group, passed; /* its process group; the last signal that it got of us, or 0 */

static void pass_on(int sig)
{
	passed = sig;
	kill(-(pid_t)group, sig);
}

/* In a process group of its own, so that what it runs ends with it, whoever sends us a signal. */
static int spawn(const char *const argv[], const sigset_t *mask, pid_t *ret, struct fcm_error *err)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;

	posix_spawnattr_init(&attr);
	posix_spawnattr_setpgroup(&attr, 0);
	posix_spawnattr_setsigmask(&attr, mask);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
	errno = posix_spawnp(ret, argv[0], &actions, &attr, (char *const *)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	if (errno == ENOENT)
		return fcm_fail(err, FCM_NOT_FOUND, "there is no program '%s'", argv[0]);
	return errno ? fcm_fail_errno(err, "run %s", argv[0]) : 0;
}

/* `mask` is what it was before: a signal that comes while there is nobody to pass it on to waits. */
static int spawn_and_wait(
	const char *const argv[], const sigset_t *mask, int *ret_status, struct fcm_error *err)
{
	sigset_t held;
	pid_t pid;

	if (spawn(argv, mask, &pid, err) < 0)
		return -1;
	group = pid;
	ending_instead(pass_on);
	sigprocmask(SIG_SETMASK, mask, &held);
	int r;
	do
		r = waitpid(pid, ret_status, 0);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		fcm_fail_errno(err, "wait for %s", argv[0]);
	sigprocmask(SIG_SETMASK, &held, NULL);
	ending_instead(NULL);
	return r < 0 ? -1 : 0;
}

int child_run(const char *const argv[], struct fcm_error *err)
{
	sigset_t endings, before;
	int status = 0;

	passed = 0;
	ending_signals(&endings);
	sigprocmask(SIG_BLOCK, &endings, &before);
	int r = spawn_and_wait(argv, &before, &status, err);
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (r < 0)
		return -1;
	if (WIFSIGNALED(status))
		return fcm_fail(err, FCM_CANCELLED, "%s was ended by signal %d", argv[0], WTERMSIG(status));
	if (status == 0 && passed)
		raise((int)passed); /* it was done already */
	return status == 0 ? 0 : fcm_fail(err, FCM_HOST, "%s failed; its last lines say why", argv[0]);
}

char *child_directory(const char *name, struct fcm_error *err)
{
	const char *tmp = getenv("TMPDIR");
	auto_free char *dir = xprintf("%s/%s-XXXXXX", tmp && *tmp ? tmp : "/var/tmp", name);

	if (mkdtemp(dir))
		return STEAL(dir);
	fcm_fail_errno(err, "make a directory in %s", tmp && *tmp ? tmp : "/var/tmp");
	return NULL;
}
