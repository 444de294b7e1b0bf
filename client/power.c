/*
 * fcm start, stop, restart, kill: idempotent, several VMs at once, each with its own result.
 */
#include <signal.h>
#include <unistd.h>

#include "client/command.h"
#include "client/out.h"
#include "client/ready.h"
#include "client/vmtext.h"
#include "common/core/clock.h"
#include "common/model.h"

static const struct option_row time_options[] = {
	{"time", 't', "SECONDS", NULL, "for the guest, before it is forced (default 10)"},
	{0},
};

/* POST to a VM's power route; `body` is taken over. */
static int power(struct cli *cli, const char *name, const char *verb, field_json *body, field_json **ret,
	struct fcm_error *err)
{
	auto_free char *rest = xprintf("/%s", verb), *path = api_vm_path(name, rest);
	auto_free char *doing = xprintf("%s %s", verb, name);

	int r = api_change(cli->api, "POST", path, body, doing, ret, err);
	fj_free(body);
	if (r < 0)
		vm_failed(err, verb, name);
	return r;
}

static field_json *time_body(const struct cli *cli, const struct stop_request *o)
{
	field_json *body = fj_object();

	if (strv_has(&cli->given, "time"))
		fj_set_int(body, "time", o->time);
	return body;
}

/* The name that the user gave may be an id or a part of one; what is printed is the VM's name. */
static void print_unchanged(const struct cli *cli, const field_json *vm)
{
	const char *name = fj_get_str(vm, "name");

	const char *state = fj_get_str(vm, "state");

	out_result(cli, name, vm, "already %s", state);
	if (!isatty(STDERR_FILENO))
		fprintf(stderr, "fcm: '%s' is already %s\n", name, state);
}

static const struct option_row start_options[] = {
	READY_OPTIONS(""),
	{0},
};

static int start_one(struct cli *cli, const char *name, void *options, struct fcm_error *err)
{
	field_json *vm = NULL, *body = fj_object();

	if (ready_add(options, body, err) < 0) {
		fj_free(body);
		return -1;
	}
	if (power(cli, name, "start", body, &vm, err) < 0)
		return -1;
	if (vm_unchanged(vm))
		print_unchanged(cli, vm);
	else
		out_result(cli, fj_get_str(vm, "name"), vm, "%s in %s · %s · disk kept",
			fj_get_str(vm, "state"), clock_span(fj_get_int(vm, "took_ms", 0)).s,
			fj_get_str(vm, "ip"));
	fj_free(vm);
	return 0;
}

static int stop_one(struct cli *cli, const char *name, void *options, struct fcm_error *err)
{
	field_json *vm = NULL;

	if (power(cli, name, "stop", time_body(cli, options), &vm, err) < 0)
		return -1;
	if (vm_unchanged(vm))
		print_unchanged(cli, vm);
	else
		out_result(cli, fj_get_str(vm, "name"), vm, "stopped in %s%s",
			clock_span(fj_get_int(vm, "took_ms", 0)).s,
			fj_get_bool(vm, "forced") ? " (the guest didn't answer and was forced)" : "");
	fj_free(vm);
	return 0;
}

static int restart_one(struct cli *cli, const char *name, void *options, struct fcm_error *err)
{
	field_json *vm = NULL;

	if (power(cli, name, "restart", time_body(cli, options), &vm, err) < 0)
		return -1;
	out_result(cli, fj_get_str(vm, "name"), vm, "running again in %s · %s · disk kept",
		clock_span(fj_get_int(vm, "took_ms", 0)).s, fj_get_str(vm, "ip"));
	fj_free(vm);
	return 0;
}

static int kill_one(struct cli *cli, const char *name, void *options, struct fcm_error *err)
{
	const struct kill_request *o = options;
	field_json *vm = NULL, *body = o->signal ? field_encode(kill_request_fields, o, true) : NULL;

	if (power(cli, name, "kill", body, &vm, err) < 0)
		return -1;
	if (o->signal && o->signal != SIGKILL)
		out_result(cli, fj_get_str(vm, "name"), vm, "signal %u sent", o->signal);
	else if (vm_unchanged(vm))
		print_unchanged(cli, vm);
	else
		out_result(cli, fj_get_str(vm, "name"), vm, "killed in %s",
			clock_span(fj_get_int(vm, "took_ms", 0)).s);
	fj_free(vm);
	return 0;
}

static const struct option_row kill_options[] = {
	{"signal", 's', "SIGNAL", NULL, "sent to its main process (else the VM ends)"},
	{0},
};

static int run_start(struct cli *cli, void *options, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, start_one, options);
}

static int run_stop(struct cli *cli, void *options, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, stop_one, options);
}

static int run_restart(struct cli *cli, void *options, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, restart_one, options);
}

static int run_kill(struct cli *cli, void *options, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, kill_one, options);
}

const struct command cmd_start = {
	.name = "start",
	.args = "VM...",
	.summary = "start VMs that are stopped",
	.details = READY_DETAILS,
	.min_args = 1,
	.max_args = ANY_ARGS,
	.options = start_options,
	.fields = ready_options_fields,
	.size = sizeof(struct ready_options),
	.run = run_start,
};

const struct command cmd_stop = {
	.name = "stop",
	.args = "VM...",
	.summary = "stop VMs: ask the guest, then force it",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.options = time_options,
	.fields = stop_request_fields,
	.size = sizeof(struct stop_request),
	.run = run_stop,
};

const struct command cmd_restart = {
	.name = "restart",
	.args = "VM...",
	.summary = "stop VMs and start them again",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.options = time_options,
	.fields = stop_request_fields,
	.size = sizeof(struct stop_request),
	.run = run_restart,
};

const struct command cmd_kill = {
	.name = "kill",
	.args = "VM...",
	.summary = "end VMs at once, as by pulling the plug, or send a signal",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.options = kill_options,
	.fields = kill_request_fields,
	.size = sizeof(struct kill_request),
	.run = run_kill,
};
