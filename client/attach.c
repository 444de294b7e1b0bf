#include "client/attach.h"

#include <unistd.h>

#include "client/execio.h"
#include "client/out.h"

enum { REMOVED_S = 30 };

struct attach_options {
	bool no_stdin;
};

static const struct field attach_fields[] = {
	FK("no-stdin", struct attach_options, no_stdin, FIELD_BOOL),
	FIELD_END,
};

static const struct option_row options[] = {
	{"no-stdin", 0, NULL, NULL, "leave its stdin alone"},
	{0},
};

/* So that what it had can be had again when we end. One that doesn't go in time is the daemon's business. */
static void wait_removed(struct cli *cli, const field_json *vm)
{
	auto_free char *rest = xprintf("/wait?state=removed&timeout=%d", REMOVED_S);
	auto_free char *path = api_vm_path(fj_get_str(vm, "id"), rest);
	auto_json field_json *gone = NULL;
	struct fcm_error err;

	if (api_wait(cli->api, path, REMOVED_S, &gone, &err) < 0 && err.code != FCM_NOT_FOUND)
		fprintf(stderr, "fcm: %s isn't removed yet: %s\n", fj_get_str(vm, "name"), err.msg);
}

int attach_main(struct cli *cli, const field_json *vm, bool with_stdin, bool logs, struct fcm_error *err)
{
	const field_json *main = fj_get(vm, "main");
	struct exec_io io = {.attached = true, .tty = fj_get_bool(main, "tty")};

	io.with_stdin = with_stdin && fj_get_bool(main, "stdin");
	io.raw = io.tty && io.with_stdin && isatty(STDIN_FILENO);
	auto_free char *rest = xprintf("/attach?stdin=%d&logs=%d", io.with_stdin, logs);
	auto_free char *path = api_vm_path(fj_get_str(vm, "name"), rest);
	int r = exec_io_open(cli->api, path, NULL, &io, &cli->status, err);
	if (r == 0 && io.detached)
		out_hint("detached; %s runs on", fj_get_str(vm, "name"));
	else if (r == 0 && fj_get_bool(vm, "auto_remove"))
		wait_removed(cli, vm);
	return r;
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	const struct attach_options *o = options_;
	auto_free char *path = api_vm_path(cli->argv[0], "");
	field_json *vm = NULL;

	if (api_get(cli->api, path, &vm, err) < 0)
		return -1;
	int r = attach_main(cli, vm, !o->no_stdin, false, err);
	fj_free(vm);
	return r;
}

const struct command cmd_attach = {
	.name = "attach",
	.args = "VM",
	.summary = "join the main process of a VM: its output, stdin and signals",
	.example = "fcm attach web",
	.details = "For VMs that fcm run made with a command. Signals go to it, and the exit status\n"
		   "is its own. On a terminal Ctrl-P Ctrl-Q detaches; it runs on.\n"
		   "fcm logs shows what it has printed before.",
	.min_args = 1,
	.max_args = 1,
	.flags = COMMAND_OWN_STATUS,
	.options = options,
	.fields = attach_fields,
	.size = sizeof(struct attach_options),
	.run = run,
};
