/*
 * fcm exec: a command in a VM, by its agent; neither sshd nor the network has a part in it. The exit status is the
 * command's; what fails before is 125, 126 and 127 as with docker.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/command.h"
#include "client/execio.h"
#include "client/out.h"
#include "client/term.h"
#include "common/model.h"

static const struct option_row options[] = {
	{"interactive", 'i', NULL, "stdin", "give it our stdin"},
	{"tty", 't', NULL, NULL, "give it a terminal"},
	{"detach", 'd', NULL, NULL, "don't wait for it; prints its process id"},
	{"env", 'e', "K=V", NULL, "environment; may be repeated"},
	{"workdir", 'w', "DIR", NULL, "where it runs"},
	{"user", 'u', "USER", NULL, "who runs it: a name or number, USER:GROUP; else root"},
	{"timeout", 0, "SECONDS", NULL, "end it then, which is an error"},
	{0},
};

static int check_text(const char *what, const struct strv *l, struct fcm_error *err)
{
	for (size_t i = 0; i < l->n; i++) {
		field_json *v = fj_exact(l->v[i], strlen(l->v[i]));
		fj_free(v);
		if (v == NULL)
			return fcm_fail(err, FCM_USAGE, "%s: word %zu isn't UTF-8", what, i + 1);
	}
	return 0;
}

/* What goes together. */
static int check(const struct cli *cli, const struct exec_request *rq, struct fcm_error *err)
{
	bool alone = rq->detach || cli->globals.json;

	if (alone && (rq->with_stdin || rq->tty))
		return fcm_fail(
			err, FCM_USAGE, "exec: %s goes without -i and -t", rq->detach ? "-d" : "--json");
	if (rq->detach && rq->timeout)
		return fcm_fail(err, FCM_USAGE, "exec: -d goes without --timeout");
	if (rq->with_stdin && rq->tty && !isatty(STDIN_FILENO)) {
		fcm_fail(err, FCM_USAGE, "exec: stdin isn't a terminal");
		return fcm_hint(err, "leave out -t");
	}
	return check_text("the command", &rq->cmd, err) < 0 || check_text("--env", &rq->env, err) < 0 ? -1
												      : 0;
}

/* The form without a stream: -d and --json. */
static int run_plain(struct cli *cli, const char *path, const field_json *body, struct fcm_error *err)
{
	auto_json field_json *answer = NULL;

	if (api_change(cli->api, "POST", path, body, NULL, &answer, err) < 0)
		return -1;
	if (cli->globals.json)
		out_json(answer);
	else
		printf("%lld\n", (long long)fj_get_int(answer, "pid", 0));
	cli->status = (int)fj_get_int(answer, "exit", 0);
	return 0;
}

static int run_stream(struct cli *cli, const char *path, const field_json *body,
	const struct exec_request *rq, struct fcm_error *err)
{
	struct exec_io io = {.with_stdin = rq->with_stdin, .tty = rq->tty, .raw = rq->tty && rq->with_stdin};

	return exec_io_open(cli->api, path, body, &io, &cli->status, err);
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	struct exec_request *rq = options_;
	int first = cli->argc > 1 && strcmp(cli->argv[1], "--") == 0 ? 2 : 1;

	for (int i = first; i < cli->argc; i++)
		strv_add(&rq->cmd, cli->argv[i]);
	if (rq->cmd.n == 0 || rq->cmd.v[0][0] == '\0')
		return fcm_fail(err, FCM_USAGE, "exec: say what to run in '%s'", cli->argv[0]);
	if (check(cli, rq, err) < 0)
		return -1;
	if (rq->tty && !term_size(STDOUT_FILENO, &rq->rows, &rq->cols))
		term_size(STDIN_FILENO, &rq->rows, &rq->cols);
	rq->rows = MIN(rq->rows, (uint32_t)EXEC_MAX_ROWS);
	rq->cols = MIN(rq->cols, (uint32_t)EXEC_MAX_ROWS);
	auto_json field_json *body = field_encode(exec_request_fields, rq, true);
	auto_free char *path = api_vm_path(cli->argv[0], "/exec");
	bool plain = rq->detach || cli->globals.json;
	return plain ? run_plain(cli, path, body, err) : run_stream(cli, path, body, rq, err);
}

const struct command cmd_exec = {
	.name = "exec",
	.args = "VM [--] COMMAND...",
	.summary = "run a command in a VM",
	.example = "fcm exec -it web bash",
	.details = "By the VM's agent: it needs neither sshd nor the network.\n"
		   "  fcm exec web uname -a\n"
		   "  fcm exec -it web bash\n"
		   "  tar c dir | fcm exec -i -w /srv web tar x\n"
		   "The exit status is the command's, 128 + N when signal N ended it; 126 and\n"
		   "127 when it can't be run, 125 when fcm itself failed. Signals go to it; a\n"
		   "second Ctrl-C, a closed terminal and an end of the daemon end it.",
	.min_args = 2,
	.max_args = ANY_ARGS,
	.flags = COMMAND_FIRST_ENDS | COMMAND_OWN_STATUS,
	.options = options,
	.fields = exec_request_fields,
	.size = sizeof(struct exec_request),
	.run = run,
};
