/*
 * fcm: the client. It finds the command, reads the options into the command's struct, runs it, and turns its error into
 * two lines and an exit status (common/core/errors.def).
 */
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "client/command.h"
#include "client/report.h"

/* An empty name is a variable that was never set. What follows the first argument may be somebody else's command. */
static bool has_empty(const struct command *cmd, const struct cli *cli)
{
	int n = cmd->flags & COMMAND_FIRST_ENDS ? MIN(cli->argc, 1) : cli->argc;

	for (int i = 0; i < n; i++)
		if (cli->argv[i][0] == '\0')
			return true;
	return false;
}

static int check_args(const struct command *cmd, const struct cli *cli, struct fcm_error *err)
{
	if (cli->argc < cmd->min_args)
		fcm_fail(err, FCM_USAGE, "%s needs more: fcm %s %s", cmd->name, cmd->name, cmd->args);
	else if (cli->argc > cmd->max_args)
		fcm_fail(err, FCM_USAGE, "%s: '%s' is one argument too many", cmd->name,
			cli->argv[cmd->max_args]);
	else if (has_empty(cmd, cli))
		fcm_fail(err, FCM_USAGE, "%s: an argument is empty", cmd->name);
	else if ((cli->globals.output || cli->globals.no_headings) && !(cmd->flags & COMMAND_TABLE))
		fcm_fail(err, FCM_USAGE, "%s prints no table: it takes neither --output nor --no-headings",
			cmd->name);
	else
		return 0;
	return fcm_hint(err, "fcm %s --help", cmd->name);
}

static int run_command(
	const struct command *cmd, struct cli *cli, int argc, char **argv, struct fcm_error *err)
{
	auto_free void *options = xalloc(cmd->size);
	struct option_set sets[OPTION_SETS] = {
		{cmd->options, cmd->fields, options, &cli->given},
		{global_options, global_fields, &cli->globals, NULL},
	};
	int first;

	cli->own_status = cmd->flags & COMMAND_OWN_STATUS;
	if (cmd->defaults)
		memcpy(options, cmd->defaults, cmd->size);
	int r = options_parse(sets, argc, argv, cmd->flags & COMMAND_FIRST_ENDS, &first, err);
	if (r < 0 && err->hint[0] == '\0')
		fcm_hint(err, "fcm %s --help lists the options", cmd->name);
	if (r == 0 && cli->globals.help) {
		help_command(stdout, cmd);
	} else if (r == 0 && cli->globals.version) {
		r = cmd_version.run(cli, NULL, err);
	} else if (r == 0) {
		cli->command = cmd;
		cli->called = argv[0];
		cli->argc = argc - first;
		cli->argv = argv + first;
		cli->api = api_new(cli->globals.url, cli->globals.context, cli->globals.token_file);
		r = check_args(cmd, cli, err);
		if (r == 0)
			r = cmd->run(cli, options, err);
		if (r < 0 && report_status(err) == 2 && err->hint[0] == '\0')
			fcm_hint(err, "fcm %s --help", cmd->name);
	}
	if (cmd->fields)
		field_done(cmd->fields, options);
	return r;
}

static int run(struct cli *cli, int argc, char **argv, struct fcm_error *err)
{
	struct option_set sets[OPTION_SETS] = {{global_options, global_fields, &cli->globals, NULL}};
	int first;

	if (options_parse(sets, argc, argv, true, &first, err) < 0)
		return err->hint[0] ? -1 : fcm_hint(err, "fcm --help lists the options");
	if (cli->globals.version)
		return cmd_version.run(cli, NULL, err);
	if (first == argc) {
		help_all(cli->globals.help ? stdout : stderr);
		cli->status = cli->globals.help ? 0 : 2;
		return 0;
	}
	const struct command *cmd = command_find(argv[first], err);
	if (cmd == NULL)
		return -1;
	return run_command(cmd, cli, argc - first, argv + first, err);
}

/* A full disk or a closed pipe behind stdout is a failure, though printf() never said so. */
static int close_stdout(int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	if (errno != EPIPE)
		fprintf(stderr, "fcm: write to stdout: %s\n", strerror(errno));
	return status ? status : 1;
}

/* A descriptor of ours must not become stdout or stderr where the caller closed them: opened the wrong way round, the
 * place is taken and writing still fails. */
static void fill_standard_fds(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			(void)!open("/dev/null", (fd == 0 ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
}

int main(int argc, char **argv)
{
	struct cli cli = {.status = 0};
	struct fcm_error err = {0};

	fill_standard_fds();
	setlocale(LC_CTYPE, "");
	if (run(&cli, argc, argv, &err) < 0) {
		report(&err);
		cli.status = cli.own_status ? COMMAND_FAILED : report_status(&err);
	}
	api_free(cli.api);
	strv_done(&cli.given);
	field_done(global_fields, &cli.globals);
	return close_stdout(cli.status);
}
