#include "images/agent/hooks.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/kv.h"

static const char *const variables[][2] = {
	{"id", "FCM_ID"},
	{"name", "FCM_NAME"},
	{"ip", "FCM_IP"},
	{"old_id", "FCM_OLD_ID"},
	{"old_name", "FCM_OLD_NAME"},
	{"old_ip", "FCM_OLD_IP"},
};

int hooks_parse(const void *kv, size_t n, struct hooks *ret, struct buf *ret_env, struct fcm_error *err)
{
	ret->timeout_ms = kv_i64(kv, n, "timeout_ms", 1, HOOKS_TIMEOUT_MAX_MS, HOOKS_TIMEOUT_MS);
	for (size_t i = 0; i < ARRAY_SIZE(variables); i++) {
		const char *key = variables[i][0], *value = kv_get(kv, n, key);
		if (value == NULL || strlen(value) > HOOKS_VALUE_MAX || strpbrk(value, "\r\n"))
			return fcm_fail_field(err, FCM_INVALID, key, "%s: not a line of at most %d bytes",
				key, HOOKS_VALUE_MAX);
		kv_addf(ret_env, "env", "%s=%s", variables[i][1], value);
	}
	return 0;
}

bool hooks_name_valid(const char *name)
{
	size_t n = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-");

	return n > 0 && name[n] == '\0';
}

/* ---- one of them ---- */

/* A process of it, and the read end of its stdout and stderr. */
struct hook {
	pid_t pid;
	int pidfd, out;
	size_t passed; /* bytes of its output, on to ours */
};

static void hook_done(struct hook *k)
{
	fcm_closep(&k->pidfd);
	fcm_closep(&k->out);
}

static _Noreturn void run_child(const struct hooks *h, const char *path, int out)
{
	char *const argv[] = {xstrdup(path), NULL};
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (dup2(null, 0) == 0 && dup2(out, 1) == 1 && dup2(out, 2) == 2)
		execve(path, argv, h->env->v);
	dprintf(out, "cannot be run: %s\n", strerror(errno));
	_exit(127);
}

static int start(const struct hooks *h, const char *path, struct hook *ret)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return -1;
	ret->out = ends[0];
	auto_close int theirs = ends[1];
	ret->pid = fork();
	if (ret->pid == 0) {
		(void)fcntl(theirs, F_SETFL, 0);
		run_child(h, path, theirs);
	}
	if (ret->pid < 0)
		return -1;
	ret->pidfd = (int)syscall(SYS_pidfd_open, ret->pid, 0);
	return ret->pidfd < 0 ? -1 : 0;
}

/* Pass on what is there; what is too much goes nowhere, so nobody waits for us. Returns false at its end. */
static bool pass_on(struct hook *k)
{
	char chunk[4096];
	ssize_t n;

	while ((n = read(k->out, chunk, sizeof chunk)) > 0) {
		size_t room = MIN((size_t)n, HOOKS_OUTPUT_MAX - k->passed);
		if (fd_write_all(STDERR_FILENO, chunk, room) < 0)
			room = 0;
		k->passed += room;
	}
	return n < 0 && errno == EAGAIN;
}

/* Until it has ended, and not until its output has: a daemon that it started may keep that. False when it is too late. */
static bool wait_for(struct hook *k, int64_t deadline)
{
	while (clock_left(deadline) > 0) {
		struct pollfd fds[2] = {{.fd = k->pidfd, .events = POLLIN}, {.fd = k->out, .events = POLLIN}};
		poll(fds, 2, clock_left(deadline));
		if (fds[1].revents && !pass_on(k))
			fcm_closep(&k->out);
		if (fds[0].revents)
			return true;
	}
	return false;
}

/* What it came to: 0, or 1 with a line that says why. */
static int judge(const struct hooks *h, const char *name, const struct hook *k, bool in_time)
{
	int status = 0;

	if (!in_time) {
		kill(-k->pid, SIGKILL);
		kill(k->pid, SIGKILL); /* it may not be as far as its group */
	}
	waitpid(k->pid, &status, 0);
	if (!in_time)
		dprintf(STDOUT_FILENO, "%s: not done within %lld ms\n", name, (long long)h->timeout_ms);
	else if (WIFSIGNALED(status))
		dprintf(STDOUT_FILENO, "%s: ended by signal %d\n", name, WTERMSIG(status));
	else if (WEXITSTATUS(status) != 0)
		dprintf(STDOUT_FILENO, "%s: exit status %d\n", name, WEXITSTATUS(status));
	return !in_time || status != 0;
}

static int run_one(const struct hooks *h, const char *name, const char *path)
{
	_cleanup_(hook_done) struct hook k = {.pidfd = -1, .out = -1};

	if (start(h, path, &k) < 0) {
		dprintf(STDOUT_FILENO, "%s: %s\n", name, strerror(errno));
		return 1;
	}
	bool in_time = wait_for(&k, clock_in(h->timeout_ms));
	if (k.out >= 0)
		pass_on(&k);
	return judge(h, name, &k, in_time);
}

/* ---- all of them ---- */

static void closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

/* In the order of their bytes. False when there are more than HOOKS_MAX names. */
static bool list(const char *dir, struct strv *ret)
{
	_cleanup_(closedirp) DIR *d = opendir(dir);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		if (!hooks_name_valid(e->d_name))
			continue;
		if (ret->n == HOOKS_MAX)
			return false;
		strv_add(ret, e->d_name);
	}
	strv_sort(ret);
	return true;
}

bool hooks_any(const char *dir)
{
	_cleanup_(strv_done) struct strv names = {0};

	return !list(dir, &names) || names.n > 0;
}

int hooks_run(const void *hooks)
{
	const struct hooks *h = hooks;
	_cleanup_(strv_done) struct strv names = {0};
	struct stat st;
	int failed = 0;

	if (!list(h->dir, &names)) {
		dprintf(STDOUT_FILENO, "%s: more than %d files, none was run\n", h->dir, HOOKS_MAX);
		return 1;
	}
	for (size_t i = 0; i < names.n; i++) {
		auto_free char *path = xprintf("%s/%s", h->dir, names.v[i]);
		if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0)
			failed |= run_one(h, names.v[i], path);
	}
	return failed;
}
