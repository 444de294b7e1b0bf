#include "images/agent/start.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "common/core/kv.h"

bool start_env_valid(const char *s)
{
	size_t name = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789");

	return name > 0 && s[name] == '=' && strchr("0123456789", s[0]) == NULL && strpbrk(s, "\n\r") == NULL;
}

int start_env_parse(const void *kv, size_t n, struct strv *ret, struct fcm_error *err)
{
	for (const char *s = NULL; (s = kv_next(kv, n, "env", s));) {
		if (!start_env_valid(s))
			return fcm_fail_field(
				err, FCM_INVALID, "env", "env: '%.64s' is not NAME=value on one line", s);
		if (ret->n == START_ENV_COUNT)
			return fcm_fail_field(
				err, FCM_INVALID, "env", "env: more than %d entries", START_ENV_COUNT);
		strv_add(ret, s);
	}
	return 0;
}

int start_env_write(const struct strv *env, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};

	for (size_t i = 0; i < env->n; i++)
		buf_printf(&text, "%s\n", env->v[i]);
	mkdir("/etc/fcm", 0755);
	return file_replace(AT_FDCWD, START_ENV, 0600, text.p, text.n, err);
}

/* posix_spawn(3) attributes: its own session, and none of the signals that PID 1 blocks or ignores. */
static int spawn_rc(char *const envp[], pid_t *ret)
{
	char *const argv[] = {(char[]){START_RC}, NULL};
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, ignored;

	sigemptyset(&none);
	sigemptyset(&ignored);
	sigaddset(&ignored, SIGPIPE);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&files, 1, "/dev/console", O_WRONLY | O_NOCTTY, 0);
	posix_spawn_file_actions_adddup2(&files, 1, 2);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &ignored);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	int e = posix_spawn(ret, START_RC, &files, &attr, argv, envp);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	return e;
}

int start_rc(const struct strv *env, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv all = {0};
	pid_t pid;

	if (start_env_write(env, err) < 0)
		return -1;
	strv_add(&all, "PATH=" START_PATH);
	strv_add(&all, "HOME=/root");
	for (size_t i = 0; i < env->n; i++)
		strv_add(&all, env->v[i]);
	errno = spawn_rc(all.v, &pid);
	if (errno != 0 &&
		errno != ENOENT) /* an image for containers has none: its main process is all of it */
		return fcm_fail_errno(err, "start %s of the image", START_RC);
	return 0;
}
