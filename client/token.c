/*
 * fcm token: make, list and revoke tokens. A new one is printed once; with --for it goes into that user's ~/.fcm-token, written
 * by a child that has become that user first: root must not follow links that a user planted in a home directory, nor could it
 * write to one on NFS.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/command.h"
#include "client/out.h"
#include "client/report.h"
#include "client/verb.h"
#include "client/where.h"
#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/model.h"

struct token_options {
	char *user, *name, *vms;
	enum token_scope scope;
	uint32_t expires;
};
static const struct token_options defaults = {.scope = SCOPE_FULL};

static const struct field token_fields[] = {
	F(struct token_options, user, FIELD_STR, .max = 63),
	F(struct token_options, name, FIELD_STR, .max = 63),
	F(struct token_options, scope, FIELD_ENUM, .names = token_scope_names),
	F(struct token_options, vms, FIELD_STR),
	F(struct token_options, expires, FIELD_U32, .min = 1, .max = TOKEN_MAX_SECONDS, .flags = FIELD_SPAN),
	FIELD_END,
};

static const struct option_row options[] = {
	{"for", 0, "USER", "user", "write it into the ~/.fcm-token of USER (as root)"},
	{"name", 0, "NAME", NULL, "who or what it is for, in lists and the log"},
	{"scope", 0, "SCOPE", NULL, "read: changes nothing and enters no guest; or full"},
	{"vms", 0, "KEY=VALUE", NULL, "for the VMs with that label alone"},
	{"expires", 0, "TIME", NULL, "it ends after that: 12h, 30d (default: never)"},
	{0},
};

/* ---- create ---- */

static const struct passwd *find_user(const char *user, struct fcm_error *err)
{
	const struct passwd *pw = getpwnam(user);

	if (pw == NULL) {
		fcm_fail(err, FCM_NOT_FOUND, "there is no user '%s'", user);
		fcm_hint(err, "getent passwd lists them");
		return NULL;
	}
	if (geteuid() != 0 && geteuid() != pw->pw_uid) {
		fcm_fail(err, FCM_FORBIDDEN, "only root can write a token for '%s'", user);
		fcm_hint(err, "sudo fcm token create --for %s", user);
		return NULL;
	}
	return pw;
}

/* In the child. */
static int write_token(const struct passwd *pw, const char *token, struct fcm_error *err)
{
	auto_free char *line = xprintf("%s\n", token);

	if (geteuid() == 0 &&
		(initgroups(pw->pw_name, pw->pw_gid) < 0 || setgid(pw->pw_gid) < 0 || setuid(pw->pw_uid) < 0))
		return fcm_fail_errno(err, "become %s", pw->pw_name);
	auto_close int home = open(pw->pw_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (home < 0)
		return fcm_fail_errno(err, "open the home directory %s", pw->pw_dir);
	return file_write_atomic(home, ".fcm-token", 0600, line, strlen(line), err);
}

static int write_token_as(const struct passwd *pw, const char *token, struct fcm_error *err)
{
	int status;

	fflush(NULL);
	pid_t pid = fork();
	if (pid < 0)
		return fcm_fail_errno(err, "fork");
	if (pid == 0) {
		struct fcm_error failed;
		int r = write_token(pw, token, &failed);
		if (r < 0)
			report(&failed);
		_exit(r < 0);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return fcm_fail_errno(err, "wait for the child");
	if (status != 0)
		return fcm_fail(err, FCM_HOST, "no token was written to %s/.fcm-token", pw->pw_dir);
	return 0;
}

/* `name`: where none is given. */
static int make_token(struct cli *cli, const struct token_options *o, const char *name, field_json **ret,
	struct fcm_error *err)
{
	auto_json field_json *body = fj_object();

	fj_set_str(body, "name", o->name ? o->name : name);
	fj_set_str(body, "scope", token_scope_names[o->scope]);
	if (o->vms)
		fj_set_str(body, "vms", o->vms);
	if (o->expires)
		fj_set_int(body, "expires_in", o->expires);
	return api_change(cli->api, "POST", "/v1/tokens", body, NULL, ret, err);
}

/* One that nobody has is nobody's to lose. */
static void take_back(struct cli *cli, const field_json *token)
{
	auto_free char *path = xprintf("/v1/tokens/%s", fj_get_str(token, "id"));
	auto_json field_json *gone = NULL;
	struct fcm_error ignored;

	(void)!api_change(cli->api, "DELETE", path, NULL, NULL, &gone, &ignored);
}

static int create_for(struct cli *cli, const struct token_options *o, struct fcm_error *err)
{
	const struct passwd *pw = find_user(o->user, err);
	auto_json field_json *token = NULL;

	if (pw && *api_context(cli->api)) {
		fcm_fail(err, FCM_USAGE,
			"~/.fcm-token is for the daemon of this host, and the context '%s' is in use",
			api_context(cli->api));
		return fcm_hint(err, "fcm --context local token create --for %s", o->user);
	}
	if (pw && !api_is_here(cli->api)) {
		fcm_fail(err, FCM_USAGE,
			"~/.fcm-token is for the daemon of this host, and that of %s is in use",
			api_place(cli->api));
		return fcm_hint(err, "unset FCM_URL, or print the token: leave out --for");
	}
	if (pw == NULL || make_token(cli, o, o->user, &token, err) < 0)
		return -1;
	if (write_token_as(pw, fj_get_str(token, "token"), err) < 0) {
		take_back(cli, token);
		return -1;
	}
	auto_free char *path = xprintf("%s/.fcm-token", pw->pw_dir);
	fj_set_str(token, "token", "***");
	fj_set_str(token, "file", path);
	out_result(cli, path, token, "%s may use fcm now", o->user);
	return 0;
}

static int create(struct cli *cli, void *options_, struct fcm_error *err)
{
	const struct token_options *o = options_;
	auto_json field_json *token = NULL;

	if (o->user)
		return create_for(cli, o, err);
	if (make_token(cli, o, user_name(), &token, err) < 0)
		return -1;
	if (cli->globals.json)
		out_json(token);
	else
		printf("%s\n", fj_get_str(token, "token"));
	fflush(stdout);
	if (!cli->globals.json)
		out_hint("it isn't shown again; it belongs in ~/.fcm-token (mode 0600) or FCM_TOKEN");
	return 0;
}

/* ---- the list ---- */

static void text_id(const field_json *token, struct buf *b)
{
	out_text(b, fj_get_str(token, "id"));
}

static void text_name(const field_json *token, struct buf *b)
{
	out_text(b, fj_get_str(token, "name"));
}

static void text_scope(const field_json *token, struct buf *b)
{
	out_text(b, fj_get_str(token, "scope"));
}

static void text_vms(const field_json *token, struct buf *b)
{
	const char *vms = fj_get_str(token, "vms");

	out_text(b, *vms ? vms : "all");
}

static void text_created(const field_json *token, struct buf *b)
{
	out_age(b, fj_get_str(token, "created"));
}

static void text_expires(const field_json *token, struct buf *b)
{
	int64_t at;

	if (clock_parse(fj_get_str(token, "expires"), &at) < 0)
		buf_str(b, "never");
	else if (at <= clock_wall())
		buf_str(b, "ended");
	else
		buf_printf(b, "in %s", clock_span((at - clock_wall()) * 1000).s);
}

static const struct column columns[] = {
	{"id", "ID", 0, text_id},
	{"name", "NAME", COLUMN_CUT, text_name},
	{"scope", "SCOPE", 0, text_scope},
	{"vms", "VMS", COLUMN_CUT, text_vms},
	{"created", "CREATED", COLUMN_SPARE, text_created},
	{"expires", "EXPIRES", 0, text_expires},
	{0},
};

static int list(struct cli *cli, void *options_, struct fcm_error *err)
{
	auto_json field_json *answer = NULL;

	(void)options_;
	return api_get(cli->api, "/v1/tokens", &answer, err) < 0
		       ? -1
		       : out_list(cli, columns, fj_get(answer, "tokens"), err);
}

/* ---- revoke ---- */

static int revoke_one(struct cli *cli, const char *id, void *options_, struct fcm_error *err)
{
	auto_free char *escaped = httpc_escape(id), *path = xprintf("/v1/tokens/%s", escaped);
	auto_json field_json *answer = NULL;

	(void)options_;
	if (api_change(cli->api, "DELETE", path, NULL, NULL, &answer, err) < 0)
		return -1;
	out_result(
		cli, fj_get_str(answer, "id"), answer, "revoked, it was for %s", fj_get_str(answer, "name"));
	return 0;
}

static int revoke_all(struct cli *cli, void *options_, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, revoke_one, options_);
}

static const struct verb verbs[] = {
	{"create", NULL, "user name scope vms expires", "takes options only", 0, 0, create},
	{"ls", "list", NULL, "takes no name", 0, 0, list},
	{"revoke", "rm", NULL, "needs an id of fcm token ls", 1, ANY_ARGS, revoke_all},
	{0},
};

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	return verb_run(cli, verbs, options_, err);
}

const struct command cmd_token = {
	.name = "token",
	.args = "create|ls|revoke [ID...]",
	.summary = "tokens, which let somebody use the daemon",
	.example = "sudo fcm token create --for ada",
	.details = "  sudo fcm token create --for ada --vms owner=ada\n"
		   "  sudo fcm token create --name grafana --scope read --expires 90d\n"
		   "Without --for the token is printed: it isn't shown again. With --vms only the\n"
		   "VMs with that label are there for it, and those that it makes get the label.\n"
		   "revoke ends at once whatever goes on with the token, logs and shells as well.\n"
		   "Columns for -o: id name scope vms created expires; or wide.",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.flags = COMMAND_TABLE,
	.options = options,
	.fields = token_fields,
	.size = sizeof(struct token_options),
	.defaults = &defaults,
	.run = run,
};
