/*
 * The commands of fcm: a row each, from which come the dispatch, the help and the parsing of options.
 */
#pragma once

#include "client/api.h"
#include "client/options.h"
#include "common/core/error.h"
#include "common/field.h"

/* The options that every command takes. */
struct globals {
	bool json, quiet, no_headings, help, version;
	char *output;	  /* columns of -o, for one command a file, or NULL */
	char *token_file; /* or NULL */
	char *url;	  /* or NULL */
	char *context;	  /* or NULL */
};

/* One run of fcm. */
struct cli {
	struct globals globals;
	const struct command *command;
	const char *called; /* the command's name or alias, as it was typed */
	struct api *api;    /* connects to the daemon at the first request */
	int argc;	    /* what isn't an option, without the command's name */
	char **argv;
	struct strv given; /* keys of the command's fields that were set by options */
	int status;	   /* exit status when run() returns 0 */
	bool own_status;   /* of a command that is COMMAND_OWN_STATUS */
};

enum {
	COMMAND_FIRST_ENDS =
		1 << 0,		/* options end at the first argument: the rest is somebody else's command */
	COMMAND_TABLE = 1 << 1, /* prints a table, so that -o and --no-headings mean something */
	COMMAND_OWN_STATUS =
		1 << 2, /* the exit status is somebody else's command's, so ours is COMMAND_FAILED */
	COMMAND_FAILED = 125,
};

struct command {
	const char *name;
	const char *aliases; /* other names, separated by spaces, or NULL */
	const char *args;    /* "VM..." */
	const char *summary; /* one line */
	const char *example; /* one command line */
	const char *details; /* more lines for --help, or NULL */
	int min_args, max_args;
	unsigned flags;
	const struct option_row *options;
	const struct field *fields; /* of the struct that the options fill */
	size_t size;		    /* of that struct */
	const void *defaults;	    /* its value before parsing, or NULL for zero */
	int (*run)(struct cli *cli, void *options, struct fcm_error *err);
};

enum { ANY_ARGS = 1 << 20 };

/* All of them, in the order of the help; ended by NULL. */
extern const struct command *const commands[];

extern const struct command cmd_create, cmd_run, cmd_attach, cmd_ls, cmd_ps, cmd_inspect, cmd_ssh,
	cmd_ssh_config, cmd_proxy, cmd_stop, cmd_start, cmd_restart, cmd_kill, cmd_pause, cmd_resume,
	cmd_suspend, cmd_destroy, cmd_rename, cmd_update, cmd_logs, cmd_snapshot, cmd_restore, cmd_clone,
	cmd_stats, cmd_events, cmd_exec, cmd_cp, cmd_console, cmd_expose, cmd_unexpose, cmd_publish,
	cmd_unpublish, cmd_port, cmd_wait, cmd_build, cmd_token, cmd_connect, cmd_context, cmd_info,
	cmd_version, cmd_doctor, cmd_bench, cmd_daemon, cmd_image, cmd_images, cmd_pull, cmd_login,
	cmd_logout, cmd_rmi, cmd_volume, cmd_system, cmd_assets, cmd_api, cmd_help;

extern const struct option_row global_options[];
extern const struct field global_fields[];

/* The command of that name or alias; NULL with FCM_USAGE, which names the nearest. */
const struct command *command_find(const char *name, struct fcm_error *err);

/* Is `word` one of the words of `list`, which are separated by spaces? NULL has none. */
bool words_have(const char *list, const char *word);

/* `fcm --help` and `fcm COMMAND --help`. */
void help_all(FILE *f);
void help_command(FILE *f, const struct command *cmd);

/* Run `one` for each argument, print each failure and go on; the exit status is that of the worst. Always 0. */
int each_argument(struct cli *cli,
	int (*one)(struct cli *cli, const char *name, void *options, struct fcm_error *err), void *options);
