/*
 * `caddy validate` and `caddy reload` run as Caddy's own user: validating opens the log files of the configuration, and
 * files that root made are closed to Caddy at its next start (caddy#7829). Without that user there is nothing to fall
 * back on: any other one would leave the same trap.
 *
 * They run with the environment of the Caddy that is running, where there is one: a Caddyfile may say {$NAME}, and
 * loading it with another environment would quietly change the user's sites. What Caddy's user put there must not reach
 * the program that drops our privileges (LD_PRELOAD), nor a command line that everybody can read (secrets): it goes
 * through the standard input of a shell that is that user already.
 */
#include "daemon/caddy/run.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>

#include "common/config.h"
#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "daemon/proc/proc.h"

#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum {
	RUN_MS = 10000,
	OUTPUT_MAX = 16 << 20, /* `caddy adapt` prints the whole configuration */
	ENVIRON_MAX = 256 << 10,
};

static char *find_program(const char *name)
{
	const char *path = getenv("PATH");

	if (strchr(name, '/'))
		return access(name, X_OK) == 0 ? xstrdup(name) : NULL;
	for (const char *s = path ? path : PATH_DEFAULT; *s; s += *s == ':') {
		size_t n = strcspn(s, ":");
		auto_free char *file = xprintf("%.*s/%s", (int)n, s, name);
		if (*file == '/' && access(file, X_OK) == 0)
			return STEAL(file);
		s += n;
	}
	return NULL;
}

static void closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

/* Reads the environment, then runs its arguments. */
static const char script[] = "while IFS= read -r line; do export \"$line\"; done; exec \"$@\"";

/* Something that the script can export, and not what the manager of that Caddy meant for it alone (systemd.exec(5)). */
static bool is_usable(const char *entry)
{
	size_t n = strspn(entry, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");

	return n && entry[n] == '=' && !isdigit((unsigned char)*entry) && strchr(entry, '\n') == NULL &&
	       strncmp(entry, "NOTIFY_SOCKET=", 14) != 0 && strncmp(entry, "LISTEN_", 7) != 0 &&
	       strncmp(entry, "WATCHDOG_", 9) != 0;
}

/* Is process `pid` a `caddy` of that user? */
static bool is_caddy(int proc_fd, const char *pid, uid_t uid)
{
	auto_free char *comm = xprintf("%s/comm", pid);
	_cleanup_(buf_done) struct buf name = {0};
	struct fcm_error ignored;
	struct stat st;

	return isdigit((unsigned char)*pid) && fstatat(proc_fd, pid, &st, 0) == 0 && st.st_uid == uid &&
	       file_read(proc_fd, comm, 64, &name, &ignored) == 0 && strcmp(name.p, "caddy\n") == 0;
}

static ino_t network_of(int proc_fd, const char *pid)
{
	auto_free char *ns = xprintf("%s/ns/net", pid);
	struct stat st;

	return fstatat(proc_fd, ns, &st, 0) == 0 ? st.st_ino : 0;
}

static void add_environ(int proc_fd, const char *pid, struct buf *ret)
{
	auto_free char *file = xprintf("%s/environ", pid);
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error ignored;

	if (file_read(proc_fd, file, ENVIRON_MAX, &text, &ignored) < 0)
		return;
	for (const char *s = text.p, *end = s + text.n; s < end; s += strlen(s) + 1)
		if (is_usable(s))
			buf_printf(ret, "%s\n", s);
}

/* The environment of the Caddy that runs in our network, where its admin endpoint is; a container may have another. */
static void read_running(struct caddy_program *p)
{
	_cleanup_(closedirp) DIR *d = opendir("/proc");
	struct dirent *e;

	while (d && p->env.n == 0 && (e = readdir(d))) {
		if (!is_caddy(dirfd(d), e->d_name, p->uid))
			continue;
		ino_t network = network_of(dirfd(d), e->d_name);
		if (network == network_of(dirfd(d), "self"))
			add_environ(dirfd(d), e->d_name, &p->env);
		p->env_hidden |= network == 0;
	}
	p->env_hidden &= p->env.n == 0;
}

static int find_user(const char *user, struct caddy_program *p, struct fcm_error *err)
{
	struct passwd pw, *found = NULL;
	char space[16384];

	errno = getpwnam_r(user, &pw, space, sizeof space, &found);
	if (found == NULL) {
		fcm_fail(err, FCM_CONFIG, "there is no user '%s' for Caddy to run as", user);
		return fcm_hint(err, "set caddy_user in " CONFIG_FILE " to the user that Caddy runs as");
	}
	p->uid = pw.pw_uid;
	p->gid = pw.pw_gid;
	read_running(p);
	if (p->env.n == 0)
		buf_printf(&p->env, "HOME=%s\nUSER=%s\n", pw.pw_dir, user);
	return 0;
}

int caddy_program_find(const struct caddy_config *config, struct caddy_program *ret, struct fcm_error *err)
{
	_cleanup_(caddy_program_done) struct caddy_program p = {0};

	if (*config->binary == '\0') {
		fcm_fail(err, FCM_CONFIG, "public names are switched off");
		return fcm_hint(err, "set caddy = caddy in " CONFIG_FILE);
	}
	p.path = find_program(config->binary);
	if (p.path == NULL) {
		fcm_fail(err, FCM_UNAVAILABLE, "Caddy is not installed (%s)", config->binary);
		return fcm_hint(err, "sudo apt-get install caddy");
	}
	if (find_user(config->user, &p, err) < 0)
		return -1;
	*ret = p;
	p = (struct caddy_program){0};
	return 0;
}

void caddy_program_done(struct caddy_program *p)
{
	free(p->path);
	buf_done(&p->env);
	*p = (struct caddy_program){0};
}

/* Say it shorter: Caddy's reason is at the end of its last line, behind what every failure has. */
static int fail_verb(const char *verb, struct fcm_error *err)
{
	static const char *const fronts[] = {"Error: ", "sending configuration to instance: ",
		"{\"error\":\"", "loading config: ", "loading new config: "};
	auto_free char *copy = xstrdup(err->msg);
	char *reason = copy;

	for (size_t i = 0; i < ARRAY_SIZE(fronts); i++) {
		char *found = strstr(reason, fronts[i]);
		if (found)
			reason = found + strlen(fronts[i]);
	}
	fcm_copy(err->msg, sizeof err->msg, reason);
	return fcm_wrap(err, "caddy %s", verb);
}

int caddy_run(const struct caddy_program *p, const char *verb, const char *caddyfile, const char *address,
	struct buf *output, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv argv = {0};

	strv_add(&argv, "/bin/sh");
	strv_add(&argv, "-c");
	strv_add(&argv, script);
	strv_add(&argv, "sh");
	strv_add(&argv, p->path);
	strv_add(&argv, verb);
	strv_add(&argv, "--config");
	strv_add(&argv, caddyfile);
	strv_add(&argv, "--adapter");
	strv_add(&argv, "caddyfile");
	if (address) {
		strv_add(&argv, "--address");
		strv_add(&argv, address);
	}
	const struct proc_run run = {
		.argv = argv.v,
		.input = p->env.p,
		.input_n = p->env.n,
		.uid = p->uid,
		.gid = p->gid,
		.deadline = clock_in(RUN_MS),
		.output_max = OUTPUT_MAX,
	};
	return proc_run(&run, output, err) < 0 ? fail_verb(verb, err) : 0;
}
