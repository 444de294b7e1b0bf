#include <stdlib.h>
#include <string.h>

#include "client/command.h"
#include "common/near.h"

const struct command *const commands[] = {&cmd_create, &cmd_run, &cmd_ls, &cmd_ps, &cmd_inspect, &cmd_exec,
	&cmd_attach, &cmd_cp, &cmd_ssh, &cmd_ssh_config, &cmd_proxy, &cmd_stop, &cmd_start, &cmd_restart,
	&cmd_kill, &cmd_pause, &cmd_resume, &cmd_suspend, &cmd_snapshot, &cmd_restore, &cmd_clone,
	&cmd_destroy, &cmd_rename, &cmd_update, &cmd_logs, &cmd_stats, &cmd_events, &cmd_console, &cmd_expose,
	&cmd_unexpose, &cmd_publish, &cmd_unpublish, &cmd_port, &cmd_wait, &cmd_build, &cmd_image,
	&cmd_images, &cmd_pull, &cmd_login, &cmd_logout, &cmd_rmi, &cmd_volume, &cmd_system, &cmd_assets,
	&cmd_api, &cmd_token, &cmd_connect, &cmd_context, &cmd_info, &cmd_doctor, &cmd_bench, &cmd_daemon,
	&cmd_version, &cmd_help, NULL};

const struct option_row global_options[] = {
	{"json", 0, NULL, NULL, "print JSON"},
	{"quiet", 'q', NULL, NULL, "print names or ids only"},
	{"output", 'o', "COLS", NULL, "the columns of a table, or wide"},
	{"no-headings", 0, NULL, "no_headings", "no headings in tables"},
	{"url", 0, "URL", NULL, "the daemon: http://, https:// or unix:/// (FCM_URL)"},
	{"host", 0, "URL", NULL, NULL},
	{"context", 0, "CONTEXT", NULL, "a daemon that fcm connect knows (FCM_CONTEXT)"},
	{"token-file", 0, "FILE", "token_file", "the file with the token (else FCM_TOKEN, ~/.fcm-token)"},
	{"version", 0, NULL, NULL, "print the version"},
	{"help", 'h', NULL, NULL, "print this"},
	{0},
};

const struct field global_fields[] = {
	F(struct globals, json, FIELD_BOOL),
	F(struct globals, quiet, FIELD_BOOL),
	F(struct globals, no_headings, FIELD_BOOL),
	F(struct globals, help, FIELD_BOOL),
	F(struct globals, version, FIELD_BOOL),
	F(struct globals, output, FIELD_STR, .max = 4095),
	F(struct globals, token_file, FIELD_STR, .max = 4095),
	F(struct globals, url, FIELD_STR, .max = 255),
	F(struct globals, context, FIELD_STR, .max = 63),
	FIELD_END,
};

bool words_have(const char *list, const char *word)
{
	size_t len = strlen(word);

	while (list && *list) {
		size_t n = strcspn(list, " ");
		if (n == len && strncmp(list, word, n) == 0)
			return true;
		list += n + (list[n] == ' ');
	}
	return false;
}

static const char *nearest(const char *name)
{
	struct near n = near_of(name);

	for (size_t i = 0; commands[i]; i++)
		near_try(&n, commands[i]->name);
	return n.best;
}

const struct command *command_find(const char *name, struct fcm_error *err)
{
	for (size_t i = 0; commands[i]; i++)
		if (strcmp(commands[i]->name, name) == 0 || words_have(commands[i]->aliases, name))
			return commands[i];
	const char *near = nearest(name);
	fcm_fail(err, FCM_USAGE, "there is no command '%s'", name);
	if (near)
		fcm_hint(err, "did you mean: fcm %s", near);
	else
		fcm_hint(err, "fcm --help lists them");
	return NULL;
}
