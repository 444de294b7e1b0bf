/*
 * fcm token create: a new token, printed once. With --for it goes into that user's ~/.fcm-token, written by a child that
 * has become that user first: root must not follow links that a user planted in a home directory, nor could it write
 * to one on NFS.
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
#include "client/where.h"
#include "common/core/fileio.h"

struct token_options {
	char *user;
};

static const struct field token_fields[] = {
	F(struct token_options, user, FIELD_STR, .max = 63),
	FIELD_END,
};

static const struct option_row options[] = {
	{"for", 0, "USER", "user", "write it into the ~/.fcm-token of USER (as root)"},
	{0},
};

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

static int make_token(struct cli *cli, const char *name, field_json **ret, struct fcm_error *err)
{
	field_json *body = fj_object();

	fj_set_str(body, "name", name);
	int r = api_change(cli->api, "POST", "/v1/tokens", body, NULL, ret, err);
	fj_free(body);
	return r;
}

static int create_for(struct cli *cli, const char *user, struct fcm_error *err)
{
	const struct passwd *pw = find_user(user, err);
	field_json *token = NULL;

	if (pw && *api_context(cli->api)) {
		fcm_fail(err, FCM_USAGE,
			"~/.fcm-token is for the daemon of this host, and the context '%s' is in use",
			api_context(cli->api));
		return fcm_hint(err, "fcm --context local token create --for %s", user);
	}
	if (pw == NULL || make_token(cli, user, &token, err) < 0)
		return -1;
	int r = write_token_as(pw, fj_get_str(token, "token"), err);
	if (r == 0) {
		auto_free char *path = xprintf("%s/.fcm-token", pw->pw_dir);
		fj_set_str(token, "token", "***");
		fj_set_str(token, "file", path);
		out_result(cli, path, token, "%s may use fcm now", user);
	}
	fj_free(token);
	return r;
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	const struct token_options *o = options_;
	field_json *token = NULL;

	if (strcmp(cli->argv[0], "create") != 0) {
		fcm_fail(err, FCM_USAGE, "there is no 'fcm token %s'", cli->argv[0]);
		return fcm_hint(err, "did you mean: fcm token create");
	}
	if (o->user)
		return create_for(cli, o->user, err);
	if (make_token(cli, user_name(), &token, err) < 0)
		return -1;
	if (cli->globals.json)
		out_json(token);
	else
		printf("%s\n", fj_get_str(token, "token"));
	fflush(stdout);
	if (!cli->globals.json)
		out_hint("it isn't shown again; it belongs in ~/.fcm-token (mode 0600) or FCM_TOKEN");
	fj_free(token);
	return 0;
}

const struct command cmd_token = {
	.name = "token",
	.args = "create",
	.summary = "make a token, which lets somebody use the daemon",
	.example = "sudo fcm token create --for ada",
	.details = "Without --for the token is printed: it isn't shown again.",
	.min_args = 1,
	.max_args = 1,
	.options = options,
	.fields = token_fields,
	.size = sizeof(struct token_options),
	.run = run,
};
