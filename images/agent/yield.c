#include "images/agent/yield.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/core/fileio.h"
#include "images/agent/start.h"

bool yield_wanted(void)
{
	return access(YIELD_INIT, X_OK) == 0;
}

/* PID 1's part. Returns only when it goes wrong. Signals are as they were then. */
static int execute(struct fcm_error *err)
{
	char *const argv[] = {(char[]){YIELD_INIT}, NULL};
	char *const envp[] = {(char[]){"PATH=" START_PATH}, (char[]){"HOME=/"}, (char[]){"TERM=linux"}, NULL};
	sigset_t none, before;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, &before);
	signal(SIGPIPE, SIG_DFL);
	execve(YIELD_INIT, argv, envp);
	fcm_fail_errno(err, "execute %s of the image", YIELD_INIT);
	signal(SIGPIPE, SIG_IGN);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return -1;
}

/* Wait until PID 1 has become the init: its end of the pipe is closed then, and not before. */
static void wait_for_exec(int pipe)
{
	char c;

	while (read(pipe, &c, 1) < 0 && errno == EINTR)
		;
}

/* What is missing after an error here is comfort: ps shows another name, the init finds nobody to tell. */
static void settle(char *argv0)
{
	struct fcm_error ignored;
	char pid[16];

	setsid();
	argv0[0] = '@';
	prctl(PR_SET_NAME, "fcm-agent");
	(void)!file_poke("/proc/self/oom_score_adj", "-1000", &ignored);
	(void)fcm_format(pid, sizeof pid, "%d\n", (int)getpid());
	(void)!file_write_atomic(AT_FDCWD, YIELD_PID, 0644, pid, strlen(pid), &ignored);
}

int yield_pid1(char *argv0, struct fcm_error *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return fcm_fail_errno(err, "make a pipe");
	auto_close int ours = ends[0], theirs = ends[1];
	pid_t pid = fork();
	if (pid < 0)
		return fcm_fail_errno(err, "start a process");
	if (pid == 0) {
		fcm_closep(&theirs);
		wait_for_exec(ours);
		settle(argv0);
		return 0;
	}
	(void)!execute(err);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return -1;
}

void yield_ask(enum power_intent intent)
{
	kill(1, intent == POWER_REBOOT ? SIGRTMIN + 5 : SIGRTMIN + 4);
}
