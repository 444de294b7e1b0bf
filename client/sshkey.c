#include "client/sshkey.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "client/where.h"
#include "common/core/fileio.h"
#include "common/core/names.h"

enum { MAX_KNOWN_HOSTS = 4 << 20, MAX_PUBLIC = 4096 };

extern char **environ;

static char *ssh_dir(void)
{
	return xprintf("%s/.ssh", home_dir());
}

static char *cache_dir(void)
{
	const char *xdg = getenv("XDG_CACHE_HOME");

	if (xdg && *xdg == '/')
		return xprintf("%s/fcm", xdg);
	return xprintf("%s/.cache/fcm", home_dir());
}

char *sshkey_path(void)
{
	return xprintf("%s/.ssh/fcm_ed25519", home_dir());
}

char *sshkey_known_hosts_path(void)
{
	auto_free char *dir = cache_dir();

	return xprintf("%s/known_hosts", dir);
}

/* A lock on a directory, until the descriptor is closed: two fcm at once must not both make a key, nor lose each other's
 * line. */
static int lock_dir(const char *path, struct fcm_error *err)
{
	auto_close int fd = -1;

	if (access(path, F_OK) < 0 && dir_make(path, 0700, err) < 0)
		return -1;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fcm_fail_errno(err, "open %s", path);
	while (flock(fd, LOCK_EX) < 0)
		if (errno != EINTR)
			return fcm_fail_errno(err, "lock %s", path);
	return STEAL_FD(fd);
}

char *sshkey_public_if_any(void)
{
	_cleanup_(buf_done) struct buf text = {0};
	auto_free char *path = sshkey_path(), *public = xprintf("%s.pub", path);
	struct fcm_error ignored;

	if (file_read(AT_FDCWD, public, MAX_PUBLIC, &text, &ignored) < 0 || text.n == 0)
		return NULL;
	text.p[strcspn(text.p, "\r\n")] = '\0';
	return *text.p ? xstrdup(text.p) : NULL;
}

static int run_keygen(const char *path, struct fcm_error *err)
{
	const char *const argv[] = {
		"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "fcm", "-f", path, NULL};
	posix_spawn_file_actions_t actions;
	pid_t pid;
	int status;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
	errno = posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (errno) {
		fcm_fail_errno(err, "run ssh-keygen");
		return fcm_hint(err, "install it: sudo apt-get install openssh-client");
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return fcm_fail_errno(err, "wait for ssh-keygen");
	return status == 0 ? 0 : fcm_fail(err, FCM_HOST, "ssh-keygen made no key at %s", path);
}

int sshkey_public(char **ret, struct fcm_error *err)
{
	auto_free char *dir = ssh_dir(), *path = sshkey_path();
	auto_close int lock = lock_dir(dir, err);

	if (lock < 0)
		return -1;
	if (access(path, F_OK) < 0 && run_keygen(path, err) < 0)
		return -1;
	char *line = sshkey_public_if_any();
	if (line == NULL) {
		fcm_fail(err, FCM_HOST, "%s has no public half", path);
		return fcm_hint(err, "ssh-keygen -y -f %s > %s.pub   or remove both", path, path);
	}
	*ret = line;
	return 0;
}

/* Does the first word of the line of n bytes, names with commas between, hold `name`? */
static bool line_names(const char *line, size_t n, const char *name)
{
	size_t len = strlen(name), i = 0;

	while (i < n && line[i] != ' ') {
		size_t word = 0;
		while (i + word < n && line[i + word] != ',' && line[i + word] != ' ')
			word++;
		if (word == len && memcmp(line + i, name, len) == 0)
			return true;
		i += word + (i + word < n && line[i + word] == ',');
	}
	return false;
}

char *sshkey_replace_line(const char *text, const char *alias, const char *host, const char *key)
{
	struct buf b = {0};

	while (text && *text) {
		size_t n = strcspn(text, "\n"), whole = n + (text[n] == '\n');
		if (n && !line_names(text, n, alias) && !line_names(text, n, host)) {
			buf_add(&b, text, n);
			buf_str(&b, "\n");
		}
		text += whole;
	}
	buf_printf(&b, "%s,%s %s\n", alias, host, key);
	return b.p;
}

/* "ssh-ed25519 AAAA...": nothing else gets into known_hosts. */
static bool host_key_valid(const char *key)
{
	static const char type[] = "ssh-ed25519 ";
	static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
	const char *rest = key + sizeof type - 1;

	return strncmp(key, type, sizeof type - 1) == 0 && *rest && strspn(rest, base64) == strlen(rest);
}

int sshkey_know(const field_json *vm, struct fcm_error *err)
{
	const char *id = fj_get_str(vm, "id"), *name = fj_get_str(vm, "name"),
		   *key = fj_get_str(vm, "host_key");
	_cleanup_(buf_done) struct buf old = {0};
	auto_free char *dir = cache_dir(), *alias = xprintf("fcm-%s", id), *host = xprintf("%s.fcm", name);

	if (!vm_id_valid(id) || !vm_name_valid(name) || !host_key_valid(key))
		return fcm_fail(err, FCM_GUEST, "'%s' has no host key that could be verified", name);
	auto_close int fd = lock_dir(dir, err);
	if (fd < 0)
		return -1;
	if (file_read(fd, "known_hosts", MAX_KNOWN_HOSTS, &old, err) < 0 && err->code != FCM_NOT_FOUND)
		return -1;
	auto_free char *text = sshkey_replace_line(old.p, alias, host, key);
	if (old.p && strcmp(old.p, text) == 0)
		return 0;
	return file_write_atomic(fd, "known_hosts", 0600, text, strlen(text), err);
}
