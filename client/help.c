#include <string.h>

#include "client/command.h"

void help_all(FILE *f)
{
	fputs("fcm: microVMs, each a real machine with its own kernel, address and shell\n\n"
	      "usage: fcm [OPTION...] COMMAND ...\n\ncommands:\n",
		f);
	for (size_t i = 0; commands[i]; i++)
		fprintf(f, "  %-12s  %s\n", commands[i]->name, commands[i]->summary);
	fputs("\noptions of every command:\n", f);
	options_print(f, global_options);
	fputs("\nfcm COMMAND --help tells more about one.\n", f);
}

static void print_usage(FILE *f, const struct command *cmd)
{
	enum { WIDTH = 80 };
	auto_free char *head = xprintf("usage: fcm %s%s", cmd->name, cmd->options ? " [OPTION...]" : "");
	const char *args = cmd->args ? cmd->args : "";
	bool fits = strlen(head) + 1 + strlen(args) <= WIDTH;

	fprintf(f, "%s%s%s\n", head, *args == '\0' ? "" : fits ? " " : "\n       ", args);
}

void help_command(FILE *f, const struct command *cmd)
{
	fprintf(f, "fcm %s: %s\n\n", cmd->name, cmd->summary);
	print_usage(f, cmd);
	if (cmd->aliases)
		fprintf(f, "also:  %s\n", cmd->aliases);
	fprintf(f, "e.g.:  %s\n", cmd->example);
	if (cmd->options) {
		fputs("\noptions:\n", f);
		options_print(f, cmd->options);
	}
	if (cmd->details)
		fprintf(f, "\n%s\n", cmd->details);
	fputs("\noptions of every command:\n", f);
	options_print(f, global_options);
}

static int run(struct cli *cli, void *options, struct fcm_error *err)
{
	(void)options;
	if (cli->argc == 0) {
		help_all(stdout);
		return 0;
	}
	const struct command *cmd = command_find(cli->argv[0], err);
	if (cmd == NULL)
		return -1;
	help_command(stdout, cmd);
	return 0;
}

const struct command cmd_help = {
	.name = "help",
	.args = "[COMMAND]",
	.summary = "say how to use fcm, or one command",
	.example = "fcm help create",
	.max_args = 1,
	.run = run,
};
