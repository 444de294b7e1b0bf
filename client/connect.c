/*
 * fcm connect, fcm context: daemons elsewhere. A context is a name for a URL and the token that belongs to it (context.h).
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/command.h"
#include "client/context.h"
#include "client/out.h"
#include "client/secret.h"
#include "client/term.h"
#include "client/verb.h"
#include "client/where.h"

enum { TOKEN_MAX = 512 };

/* ---- connect ---- */

struct connect_options {
	char *name;
};

static const struct field connect_fields[] = {
	F(struct connect_options, name, FIELD_STR, .max = 63),
	FIELD_END,
};

static const struct option_row connect_rows[] = {
	{"name", 0, "CONTEXT", NULL, "what to call it; else by its host"},
	{0},
};

/* Without a name it is called as its host. */
static int choose_name(
	const char *given, const struct where *w, struct asset_name *ret, struct fcm_error *err)
{
	const char *host = strstr(w->url, "//") + 2;
	auto_free char *name = xprintf("%.*s", (int)strcspn(host, ":"), host), *url = where_url(w);
	struct fcm_error ignored;

	if (given)
		return context_name(given, ret, err);
	if (w->socket[0] == '\0' && context_name(name, ret, &ignored) == 0)
		return 0;
	fcm_fail(err, FCM_USAGE, "connect: this one needs a name");
	return fcm_hint(err, "fcm connect %s --name NAME", url);
}

/* One name, one URL: another one would make commands that somebody has written down reach another host. */
static int check_free(const struct asset_name *name, const char *url, struct fcm_error *err)
{
	_cleanup_(context_done) struct context c = {0};

	if (context_load(name, &c, err) < 0)
		return err->code == FCM_NOT_FOUND ? 0 : -1;
	if (strcmp(c.url, url) == 0)
		return 0;
	fcm_fail(err, FCM_NAME_TAKEN, "the context '%s' is %s already", name->s, c.url);
	return fcm_hint(err, "choose another name: --name NAME, or first: fcm context rm %s", name->s);
}

/* From --token-file, else from the terminal or stdin; none for a unix socket, whose mode is the check. */
static int ask_token(const struct cli *cli, const struct where *w, char **ret, struct fcm_error *err)
{
	auto_free char *prompt = xprintf("Token for %s: ", w->url);
	bool terminal = isatty(STDIN_FILENO);
	char text[TOKEN_MAX + 2];

	if (cli->globals.token_file)
		return where_token(w, cli->globals.token_file, ret, err);
	if (w->socket[0])
		return 0;
	if (terminal ? term_ask(prompt, false, text, sizeof text, err) < 0
		     : term_read("token", text, sizeof text, err) < 0)
		return -1;
	if (secret_token(text, strlen(text), terminal ? "the terminal" : "stdin", ret, err) == 0)
		return 0;
	return fcm_hint(err, "fcm connect %s <FILE, or --token-file FILE", w->url);
}

/* Is there a daemon that takes the token? *ret_version is the caller's. */
static int try_out(const struct where *w, const char *token, char **ret_version, struct fcm_error *err)
{
	auto_json field_json *info = NULL;
	struct api *api = api_at(w, token);
	int r = api_get(api, "/v1", &info, err);

	api_free(api);
	if (r < 0)
		return -1;
	if (strcmp(fj_get_str(info, "api"), "v1") != 0)
		return fcm_fail(err, FCM_UNAVAILABLE, "what answers at %s isn't fcmd", where_name(w));
	*ret_version = xstrdup(fj_get_str(info, "version"));
	return 0;
}

/* What counts more than the context in use. Is there any? */
static bool hint_environment(void)
{
	static const char *const names[] = {"FCM_URL", "FCM_CONTEXT"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const char *value = getenv(names[i]);
		if (value && *value) {
			out_hint("but %s is set and counts more: %s", names[i], value);
			return true;
		}
	}
	return false;
}

static void told(struct cli *cli, const struct asset_name *name, const char *url, const char *version)
{
	auto_json field_json *v = fj_object();

	fj_set_str(v, "name", name->s);
	fj_set_str(v, "url", url);
	fj_set_str(v, "version", version);
	out_result(cli, name->s, v, "connected to %s (fcmd %s), and used from now on", url, version);
	if (!hint_environment() && !cli->globals.json && !cli->globals.quiet)
		out_hint("back to this host: fcm context use " CONTEXT_LOCAL);
}

static int run_connect(struct cli *cli, void *options, struct fcm_error *err)
{
	const struct connect_options *o = options;
	auto_free char *token = NULL, *url = NULL, *version = NULL;
	struct asset_name name;
	struct where w;

	if (where_parse(cli->argv[0], &w, err) < 0 || where_secure(&w, err) < 0 ||
		choose_name(o->name, &w, &name, err) < 0)
		return -1;
	url = where_url(&w);
	if (check_free(&name, url, err) < 0 || ask_token(cli, &w, &token, err) < 0 ||
		try_out(&w, token, &version, err) < 0)
		return -1;
	const struct context c = {.url = url, .token = token};
	if (context_save(&name, &c, err) < 0 || context_use(&name, err) < 0)
		return -1;
	told(cli, &name, url, version);
	return 0;
}

const struct command cmd_connect = {
	.name = "connect",
	.args = "URL",
	.summary = "use a daemon elsewhere",
	.example = "fcm connect https://api.203-0-113-10.sslip.io --name prod",
	.details = "URL is that of its host, https://..., with api_domain in its config. The token,\n"
		   "which root there makes with fcm token create, is asked for, or read from stdin\n"
		   "or --token-file; the daemon is asked whether it takes it. URL and token are\n"
		   "kept as a context, which commands use from now on:\n"
		   "  fcm connect https://api.203-0-113-10.sslip.io --name prod\n"
		   "  fcm --context prod ls\n"
		   "  fcm context use local                back to the daemon of this host\n"
		   "docs/REMOTE.md tells more.",
	.min_args = 1,
	.max_args = 1,
	.options = connect_rows,
	.fields = connect_fields,
	.size = sizeof(struct connect_options),
	.run = run_connect,
};

/* ---- context ---- */

static void text_name(const field_json *row, struct buf *b)
{
	out_text(b, fj_get_str(row, "name"));
}

static void text_url(const field_json *row, struct buf *b)
{
	out_text(b, fj_get_str(row, "url"));
}

static void text_current(const field_json *row, struct buf *b)
{
	buf_str(b, fj_get_bool(row, "current") ? "*" : "");
}

static const struct column columns[] = {
	{"name", "NAME", 0, text_name},
	{"url", "URL", 0, text_url},
	{"current", "IN USE", 0, text_current},
	{0},
};

static void add_row(field_json *rows, const char *name, const char *url, bool current)
{
	field_json *row = fj_object();

	fj_set_str(row, "name", name);
	fj_set_str(row, "url", url);
	fj_set_bool(row, "current", current);
	fj_append(rows, row);
}

/* FCM_URL counts more than any of them. */
static bool url_is_set(void)
{
	const char *url = getenv("FCM_URL");

	return url && *url;
}

/* One that can't be read is listed all the same. */
static void add_context(field_json *rows, const char *text, const char *current)
{
	_cleanup_(context_done) struct context c = {0};
	struct asset_name name;
	struct fcm_error why;
	bool good = context_name(text, &name, &why) == 0 && context_load(&name, &c, &why) == 0;

	add_row(rows, text, good ? c.url : why.msg, strcmp(text, current) == 0);
}

static int list(struct cli *cli, void *unused, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv names = {0};
	auto_json field_json *rows = fj_array();
	struct asset_name used;
	struct where here;

	(void)unused;
	if (context_list(&names, err) < 0 || where_context(cli->globals.context, &used, err) < 0)
		return -1;
	const char *current = used.s[0] ? used.s : CONTEXT_LOCAL;
	bool none = url_is_set() && cli->globals.context == NULL;
	where_local(&here);
	auto_free char *url = where_url(&here);
	add_row(rows, CONTEXT_LOCAL, url, !none && strcmp(current, CONTEXT_LOCAL) == 0);
	for (size_t i = 0; i < names.n; i++)
		add_context(rows, names.v[i], none ? "" : current);
	int r = out_list(cli, columns, rows, err);
	fflush(stdout);
	if (none && !cli->globals.json)
		out_hint("FCM_URL is set and counts more: %s", getenv("FCM_URL"));
	return r;
}

static int use(struct cli *cli, void *unused, struct fcm_error *err)
{
	_cleanup_(context_done) struct context c = {0};
	bool local = strcmp(cli->argv[0], CONTEXT_LOCAL) == 0;
	auto_json field_json *v = fj_object();
	struct asset_name name;

	(void)unused;
	if (!local && (context_name(cli->argv[0], &name, err) < 0 || context_load(&name, &c, err) < 0))
		return -1;
	if (context_use(local ? NULL : &name, err) < 0)
		return -1;
	fj_set_str(v, "name", cli->argv[0]);
	fj_set_str(v, "url", c.url);
	out_result(cli, cli->argv[0], v, "used from now on: %s", local ? "the daemon of this host" : c.url);
	(void)hint_environment();
	return 0;
}

static int remove_one(struct cli *cli, const char *arg, void *unused, struct fcm_error *err)
{
	auto_json field_json *v = fj_object();
	struct asset_name name, current;

	(void)unused;
	if (context_name(arg, &name, err) < 0 || context_current(&current, err) < 0 ||
		context_remove(&name, err) < 0)
		return -1;
	bool used = strcmp(name.s, current.s) == 0;
	if (used && context_use(NULL, err) < 0)
		return -1;
	fj_set_str(v, "name", name.s);
	out_result(
		cli, name.s, v, "forgotten%s", used ? "; commands go to the daemon of this host again" : "");
	return 0;
}

static int rm(struct cli *cli, void *unused, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, remove_one, unused);
}

static const struct verb verbs[] = {
	{"ls", "list", NULL, "takes no name", 0, 0, list},
	{"use", NULL, NULL, "needs one name", 1, 1, use},
	{"rm", "remove", NULL, "needs a name", 1, ANY_ARGS, rm},
	{0},
};

static int run_context(struct cli *cli, void *options, struct fcm_error *err)
{
	return verb_run(cli, verbs, options, err);
}

const struct command cmd_context = {
	.name = "context",
	.args = "ls|use|rm [CONTEXT...]",
	.summary = "the daemons that fcm connect knows",
	.example = "fcm context use prod",
	.details = "  fcm context use prod     commands go there from now on\n"
		   "  fcm context use local    and back to the daemon of this host\n"
		   "For one command: fcm --context prod ls, or FCM_CONTEXT=prod. FCM_URL counts\n"
		   "more than FCM_CONTEXT and the one in use. rm forgets a URL and its token.\n"
		   "Columns for -o: name url current.",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.flags = COMMAND_TABLE,
	.run = run_context,
};
