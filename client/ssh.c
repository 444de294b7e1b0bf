/*
 * fcm ssh, ssh-config, proxy: the user's own ssh, through the daemon.
 *
 * `fcm ssh` looks the VM up, gives it our public key, notes its host key, and becomes ssh with a ProxyCommand that is fcm
 * again. Plain ssh, scp, rsync and editors do the same through what `fcm ssh-config` prints: there it is `fcm proxy
 * <name>.fcm 22` that gives the key and notes the host key, before ssh asks for either. No HostKeyAlias is needed in
 * that block: known_hosts has a line for <name>.fcm.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "client/command.h"
#include "client/out.h"
#include "client/paths.h"
#include "client/session.h"
#include "client/sshkey.h"
#include "client/vmtext.h"
#include "client/where.h"
#include "common/core/fileio.h"

enum { SSH_PORT = 22, MAX_CONFIG = 1 << 20 };

static const char config_begin[] = "# fcm begin\n", config_end[] = "# fcm end\n";

/* ---- before ssh can connect ---- */

static int find_running(struct cli *cli, const char *vm, field_json **ret, struct fcm_error *err)
{
	auto_free char *path = api_vm_path(vm, "");
	field_json *v = NULL;

	if (api_get(cli->api, path, &v, err) < 0)
		return -1;
	const char *state = fj_get_str(v, "state"), *name = fj_get_str(v, "name");
	if (strcmp(state, "running") == 0) {
		*ret = v;
		return 0;
	}
	if (strcmp(state, "failed") == 0)
		fcm_fail(err, FCM_WRONG_STATE, "'%s' has failed: %s", name, vm_reason(v));
	else if (*vm_reason(v))
		fcm_fail(err, FCM_WRONG_STATE, "'%s' is %s: %s", name, state, vm_reason(v));
	else
		fcm_fail(err, FCM_WRONG_STATE, "'%s' is %s", name, state);
	if (strcmp(state, "stopped") == 0 || strcmp(state, "suspended") == 0 || strcmp(state, "paused") == 0)
		fcm_hint(err, "fcm %s %s", vm_verb(v), name);
	else if (strcmp(state, "failed") == 0)
		fcm_hint(err, "fcm logs %s shows its console, fcm start %s starts it again", name, name);
	else
		fcm_hint(err, "fcm wait %s", name);
	fj_free(v);
	return -1;
}

static int give_key(struct cli *cli, const char *id, struct fcm_error *err)
{
	auto_free char *path = api_vm_path(id, "/ssh-keys"), *key = NULL;
	field_json *answer = NULL;

	if (sshkey_public(&key, err) < 0)
		return -1;
	field_json *body = fj_object(), *keys = fj_array();
	fj_append(keys, fj_str(key));
	fj_set(body, "keys", keys);
	int r = api_change(cli->api, "PUT", path, body, NULL, &answer, err);
	fj_free(body);
	if (r == 0)
		fj_free(answer);
	return r;
}

/* Make sure that the VM knows our key and that we know its. The id and the name are the caller's. */
static int prepare(struct cli *cli, const char *vm, char **ret_id, char **ret_name, struct fcm_error *err)
{
	field_json *v = NULL;

	if (find_running(cli, vm, &v, err) < 0)
		return -1;
	auto_free char *id = xstrdup(fj_get_str(v, "id")), *name = xstrdup(fj_get_str(v, "name"));
	int r = sshkey_know(v, err);
	fj_free(v);
	if (r < 0 || give_key(cli, id, err) < 0)
		return -1;
	*ret_id = STEAL(id);
	*ret_name = STEAL(name);
	return 0;
}

/* ---- words for ssh and for the shell that runs its ProxyCommand ---- */

/* `s` in single quotes for sh, with '%' doubled for ssh_config(5). */
static void add_quoted(struct buf *b, const char *s)
{
	buf_str(b, "'");
	for (; *s; s++)
		if (*s == '\'')
			buf_str(b, "'\\''");
		else if (*s == '%')
			buf_str(b, "%%");
		else
			buf_add(b, s, 1);
	buf_str(b, "'");
}

/* A file name as an ssh_config value: in double quotes, with '%' doubled. */
static void add_file(struct buf *b, const char *key, const char *path)
{
	buf_printf(b, "%s \"", key);
	for (; *path; path++)
		buf_printf(b, "%s%c", *path == '%' ? "%" : *path == '"' || *path == '\\' ? "\\" : "", *path);
	buf_str(b, "\"");
}

/* fcm itself with the options that say which daemon. */
static void add_self(struct buf *b, const struct cli *cli)
{
	auto_free char *self = path_self();

	add_quoted(b, self);
	if (cli->globals.url) {
		buf_str(b, " --url ");
		add_quoted(b, cli->globals.url);
	}
	if (cli->globals.context) {
		buf_str(b, " --context ");
		add_quoted(b, cli->globals.context);
	}
	if (cli->globals.token_file) {
		auto_free char *absolute = realpath(cli->globals.token_file, NULL);
		buf_str(b, " --token-file ");
		add_quoted(b, absolute ? absolute : cli->globals.token_file);
	}
}

/* The options that `fcm ssh` and the block of ssh-config share. */
static void common_options(const struct cli *cli, const char *target, struct strv *ret)
{
	auto_free char *key = sshkey_path(), *known = sshkey_known_hosts_path();
	_cleanup_(buf_done) struct buf proxy = {0}, identity = {0}, hosts = {0};

	buf_str(&proxy, "ProxyCommand ");
	add_self(&proxy, cli);
	buf_printf(&proxy, " proxy %s", target);
	add_file(&identity, "IdentityFile", key);
	add_file(&hosts, "UserKnownHostsFile", known);
	strv_add(ret, proxy.p);
	strv_add(ret, identity.p);
	strv_add(ret, hosts.p);
	strv_add(ret, "IdentitiesOnly yes");
	strv_add(ret, "StrictHostKeyChecking yes");
	strv_add(ret, "User root");
}

/* Options of ssh behind the name would reach the guest's shell as a command. */
static int refuse_options(const char *vm, const char *word, struct fcm_error *err)
{
	if (word[0] != '-' || strcmp(word, "--") == 0)
		return 0;
	fcm_fail(err, FCM_USAGE, "ssh: '%s' is no command to run in '%s'", word, vm);
	return fcm_hint(err, "options of ssh: fcm ssh-config --install, then ssh %s ... %s.fcm", word, vm);
}

static int run_ssh(struct cli *cli, void *options, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv argv = {0}, shared = {0};
	auto_free char *id = NULL, *name = NULL;

	(void)options;
	if (cli->argc > 1 && refuse_options(cli->argv[0], cli->argv[1], err) < 0)
		return -1;
	if (prepare(cli, cli->argv[0], &id, &name, err) < 0)
		return -1;
	auto_free char *target = xprintf("%s %d", id, SSH_PORT);
	common_options(cli, target, &shared);
	strv_add(&argv, "ssh");
	for (size_t i = 0; i < shared.n; i++) {
		strv_add(&argv, "-o");
		strv_add(&argv, shared.v[i]);
	}
	strv_add(&argv, "-o");
	strv_addf(&argv, "HostKeyAlias fcm-%s", id);
	strv_add(&argv, "-o");
	strv_add(&argv, "LogLevel ERROR");
	/* a guest that panics closes no connection */
	strv_add(&argv, "-o");
	strv_add(&argv, "ServerAliveInterval 10");
	strv_add(&argv, "--");
	strv_addf(&argv, "%s.fcm", name);
	int first = cli->argc > 1 && strcmp(cli->argv[1], "--") == 0 ? 2 : 1;
	for (int i = first; i < cli->argc; i++)
		strv_add(&argv, cli->argv[i]);
	execvp("ssh", argv.v);
	fcm_fail_errno(err, "run ssh");
	return fcm_hint(err, "install it: sudo apt-get install openssh-client");
}

/* ---- fcm proxy ---- */

/* "web.fcm", as plain ssh says it: the VM's name, which has no dot. */
static bool strip_suffix(char *host)
{
	size_t n = strlen(host);

	if (n <= 4 || strcmp(host + n - 4, ".fcm") != 0)
		return false;
	host[n - 4] = '\0';
	return true;
}

static int run_proxy(struct cli *cli, void *options, struct fcm_error *err)
{
	auto_free char *vm = xstrdup(cli->argv[0]), *id = NULL, *name = NULL;
	struct httpc_tunnel *tunnel = NULL;
	int64_t port;

	(void)options;
	if (!fcm_parse_i64(cli->argv[1], 1, 65535, &port))
		return fcm_fail(err, FCM_USAGE, "port: %s is outside 1..65535", cli->argv[1]);
	if (strip_suffix(vm) && port == SSH_PORT && prepare(cli, vm, &id, &name, err) < 0)
		return -1;
	auto_free char *query = xprintf("/tunnel?port=%d", (int)port);
	auto_free char *path = api_vm_path(id ? id : vm, query);
	if (api_upgrade(cli->api, path, NULL, "fcm-tunnel", &tunnel, err) < 0) {
		if (err->code == FCM_GUEST && strcmp(err->hint, fcm_code_info(FCM_GUEST)->hint) == 0)
			fcm_hint(err, "does something listen there? fcm ssh %.63s -- ss -ltn", vm);
		return -1;
	}
	/* Ctrl-C is for ssh, which then says goodbye through us */
	if (port == SSH_PORT && !isatty(STDIN_FILENO))
		signal(SIGINT, SIG_IGN);
	const struct session s = {.in = STDIN_FILENO, .out = STDOUT_FILENO, .leave = SESSION_NO_KEY};
	int r = session_run(&s, tunnel, err);
	httpc_tunnel_free(tunnel);
	return r;
}

/* ---- fcm ssh-config ---- */

struct config_options {
	bool install;
};

static const struct field config_fields[] = {
	F(struct config_options, install, FIELD_BOOL),
	FIELD_END,
};

static const struct option_row config_rows[] = {
	{"install", 0, NULL, NULL, "put it at the top of ~/.ssh/config"},
	{0},
};

static void config_block(const struct cli *cli, struct buf *b)
{
	_cleanup_(strv_done) struct strv lines = {0};

	common_options(cli, "%n %p", &lines);
	buf_str(b, config_begin);
	buf_str(b, "Host *.fcm\n");
	for (size_t i = 0; i < lines.n; i++)
		buf_printf(b, "    %s\n", lines.v[i]);
	/* or what follows in the file would belong to our Host */
	buf_str(b, "Host *\n");
	buf_str(b, config_end);
}

/* `text` without our block. Options given first win in ssh_config(5), so the block goes to the top. */
static void without_block(struct buf *text)
{
	char *begin = text->n ? strstr(text->p, config_begin) : NULL;
	char *end = begin ? strstr(begin, config_end) : NULL;

	if (end == NULL)
		return;
	end += sizeof config_end - 1;
	memmove(begin, end, strlen(end) + 1);
	text->n = strlen(text->p);
}

static int install_block(const struct buf *block, struct fcm_error *err)
{
	auto_free char *dir = xprintf("%s/.ssh", home_dir()), *path = xprintf("%s/config", dir);
	_cleanup_(buf_done) struct buf old = {0}, text = {0};

	if (access(dir, F_OK) < 0 && dir_make(dir, 0700, err) < 0)
		return -1;
	/* a config that is a link (dotfiles) is replaced where it points to */
	auto_free char *real = realpath(path, NULL);
	const char *target = real ? real : path;
	if (file_read(AT_FDCWD, target, MAX_CONFIG, &old, err) < 0 && err->code != FCM_NOT_FOUND)
		return -1;
	without_block(&old);
	buf_add(&text, block->p, block->n);
	buf_add(&text, old.p, old.n);
	if (file_write_atomic(AT_FDCWD, target, 0600, text.p, text.n, err) < 0)
		return -1;
	printf("%s\n", target);
	out_hint("now: ssh NAME.fcm, scp, rsync and all that use ssh");
	return 0;
}

static int run_config(struct cli *cli, void *options, struct fcm_error *err)
{
	const struct config_options *o = options;
	_cleanup_(buf_done) struct buf block = {0};
	auto_free char *key = NULL;

	config_block(cli, &block);
	if (!o->install) {
		fputs(block.p, stdout);
		return 0;
	}
	return sshkey_public(&key, err) < 0 ? -1 : install_block(&block, err);
}

const struct command cmd_ssh = {
	.name = "ssh",
	.args = "VM [--] [COMMAND...]",
	.summary = "a shell in a VM, or a command",
	.example = "fcm ssh web -- uname -r",
	.details = "The exit status is that of ssh, which is that of the command.\n"
		   "For options of ssh (-L, -A, -v) use plain ssh: fcm ssh-config --help",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.flags = COMMAND_FIRST_ENDS,
	.run = run_ssh,
};

const struct command cmd_ssh_config = {
	.name = "ssh-config",
	.summary = "let plain ssh, scp and rsync reach NAME.fcm",
	.example = "fcm ssh-config --install",
	.details = "Without --install the lines are printed. Then, for example:\n"
		   "  ssh -L 8080:localhost:80 web.fcm\n"
		   "  scp file web.fcm:   rsync -a dir/ web.fcm:dir/",
	.options = config_rows,
	.fields = config_fields,
	.size = sizeof(struct config_options),
	.run = run_config,
};

const struct command cmd_proxy = {
	.name = "proxy",
	.args = "VM PORT",
	.summary = "join stdin and stdout to a TCP port of a VM",
	.example = "fcm proxy web 5432",
	.min_args = 2,
	.max_args = 2,
	.run = run_proxy,
};
