/*
 * fcm start, stop, restart, kill, pause, resume, suspend: idempotent, several VMs at once, each with its own result.
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

	if (ready_add(options, true, body, err) < 0) {
		fj_free(body);
		return -1;
	}
	if (power(cli, name, "start", body, &vm, err) < 0)
		return -1;
	if (vm_unchanged(vm))
		print_unchanged(cli, vm);
	else
		out_result(cli, fj_get_str(vm, "name"), vm, "%s in %s · %s · %s", fj_get_str(vm, "state"),
			clock_span(fj_get_int(vm, "took_ms", 0)).s, fj_get_str(vm, "ip"),
			fj_get_bool(vm, "resumed") ? "where it was" : "disk kept");
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

/* A verb that takes nothing; `done` and `more` say what it did. */
static int plain(struct cli *cli, const char *name, const char *verb, const char *done, const char *more,
	struct fcm_error *err)
{
	auto_json field_json *vm = NULL;

	if (power(cli, name, verb, NULL, &vm, err) < 0)
		return -1;
	if (vm_unchanged(vm))
		print_unchanged(cli, vm);
	else
		out_result(cli, fj_get_str(vm, "name"), vm, "%s in %s%s", done,
			clock_span(fj_get_int(vm, "took_ms", 0)).s, more);
	return 0;
}

static const struct option_row kill_options[] = {
	{"signal", 's', "SIGNAL", NULL, "sent to its main process (else the VM ends)"},
	{0},
};

static int kill_one(struct cli *cli, const char *name, void *options, struct fcm_error *err)
{
	const struct kill_request *o = options;
	auto_json field_json *vm = NULL;

	if (o->signal == 0 || o->signal == SIGKILL)
		return plain(cli, name, "kill", "killed", "", err);
	if (power(cli, name, "kill", field_encode(kill_request_fields, o, true), &vm, err) < 0)
		return -1;
	out_result(cli, fj_get_str(vm, "name"), vm, "signal %u sent", o->signal);
	return 0;
}

static int pause_one(struct cli *cli, const char *name, void *options, struct fcm_error *err)
{
	(void)options;
	return plain(cli, name, "pause", "paused", "", err);
}

static int resume_one(struct cli *cli, const char *name, void *options, struct fcm_error *err)
{
	(void)options;
	return plain(cli, name, "resume", "running again", "", err);
}

static int suspend_one(struct cli *cli, const char *name, void *options, struct fcm_error *err)
{
	(void)options;
	return plain(cli, name, "suspend", "suspended", " · memory on the disk", err);
}

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

static int run_pause(struct cli *cli, void *options, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, pause_one, options);
}

static int run_resume(struct cli *cli, void *options, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, resume_one, options);
}

static int run_suspend(struct cli *cli, void *options, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, suspend_one, options);
}

const struct command cmd_start = {
	.name = "start",
	.args = "VM...",
	.summary = "start VMs that are stopped or suspended",
	.example = "fcm start web --wait-ready tcp=5432",
	.details = "One that is suspended goes on where it was; one that is stopped boots.\n" READY_DETAILS,
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
	.example = "fcm stop --time 30 web",
	.details = "One that is suspended loses its memory, as by a power cut, and keeps its disk.",
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
	.example = "fcm restart web",
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
	.example = "fcm kill web",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.options = kill_options,
	.fields = kill_request_fields,
	.size = sizeof(struct kill_request),
	.run = run_kill,
};

const struct command cmd_pause = {
	.name = "pause",
	.args = "VM...",
	.summary = "let VMs stand still, in memory",
	.example = "fcm pause web",
	.details = "No program of it runs, and it keeps its memory, its address and its ports; fcm\n"
		   "resume lets it go on, with the right time. It doesn't outlive the host: fcm\n"
		   "suspend does.",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.run = run_pause,
};

const struct command cmd_resume = {
	.name = "resume",
	.aliases = "unpause",
	.args = "VM...",
	.summary = "let VMs that are paused go on",
	.example = "fcm resume web",
	.details = "One that is suspended goes on with fcm start.",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.run = run_resume,
};

const struct command cmd_suspend = {
	.name = "suspend",
	.args = "VM...",
	.summary = "write the memory of VMs to the disk, and end their VMMs",
	.example = "fcm suspend web",
	.details = "fcm start brings one back where it was, after a reboot of the host too: same\n"
		   "programs, address, published ports and public name. fcm stop drops the memory.",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.run = run_suspend,
};
