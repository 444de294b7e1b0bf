#include <unistd.h>

#include "client/command.h"
#include "client/paths.h"

static int run(struct cli *cli, void *options, struct fcm_error *err)
{
	auto_free char *fcmd = path_daemon();
	struct strv argv = {0};

	(void)options;
	strv_add(&argv, "fcmd");
	for (int i = 0; i < cli->argc; i++)
		strv_add(&argv, cli->argv[i]);
	execvp(fcmd, argv.v);
	fcm_fail_errno(err, "run %s", fcmd);
	strv_done(&argv);
	return fcm_hint(err, "is fcm installed whole? fcmd is looked for beside fcm and in PATH");
}

const struct command cmd_daemon = {
	.name = "daemon",
	.args = "[-- OPTION-OF-FCMD...]",
	.summary = "run the daemon, fcmd, in the foreground",
	.example = "sudo fcm daemon -- --set listen=127.0.0.1:7778",
	.details = "It needs root: sudo fcm daemon",
	.max_args = ANY_ARGS,
	.run = run,
};
