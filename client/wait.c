#include "client/command.h"
#include "client/out.h"
#include "common/model.h"

enum { LONG = 3600 }; /* seconds, of one request for what may take for ever */

struct wait_options {
	enum vm_state state;
	uint32_t timeout;
};

static const struct wait_options defaults = {.state = VM_RUNNING, .timeout = 30};

static const struct field wait_fields[] = {
	F(struct wait_options, state, FIELD_ENUM, .names = vm_state_names),
	F(struct wait_options, timeout, FIELD_U32, .max = 86400),
	FIELD_END,
};

static const struct option_row options[] = {
	{"state", 0, "STATE", NULL, "running (the default), stopped, paused, suspended, ..."},
	{"timeout", 0, "SECONDS", NULL, "give up after so long (default 30): exit status 8"},
	{0},
};

/* Until its main process has ended: prints how, as docker does. */
static int wait_end(struct cli *cli, const char *name, uint32_t timeout, struct fcm_error *err)
{
	bool given = strv_has(&cli->given, "timeout");
	auto_free char *query = xprintf("/wait?state=ended&timeout=%u", given ? timeout : LONG);
	auto_free char *path = api_vm_path(name, query);
	field_json *vm = NULL;

	while (api_wait(cli->api, path, given ? timeout : LONG, &vm, err) < 0)
		if (err->code != FCM_TIMEOUT || given)
			return -1;
	if (cli->globals.json)
		out_json(vm);
	else
		printf("%lld\n", (long long)fj_get_int(fj_get(vm, "exited"), "code", 0));
	fj_free(vm);
	return 0;
}

static int wait_state(struct cli *cli, const char *name, const struct wait_options *o, struct fcm_error *err)
{
	auto_free char *query = xprintf("/wait?state=%s&timeout=%u", vm_state_names[o->state], o->timeout);
	auto_free char *path = api_vm_path(name, query);
	field_json *vm = NULL;

	if (api_wait(cli->api, path, o->timeout, &vm, err) < 0) {
		if (err->code == FCM_TIMEOUT && err->hint[0] == '\0')
			fcm_hint(err, "fcm logs %.63s shows the guest's console", name);
		return -1;
	}
	out_result(cli, fj_get_str(vm, "name"), vm, "%s", fj_get_str(vm, "state"));
	fj_free(vm);
	return 0;
}

static int wait_one(struct cli *cli, const char *name, void *options_, struct fcm_error *err)
{
	const struct wait_options *o = options_;
	auto_free char *path = api_vm_path(name, "");
	field_json *vm = NULL;

	if (strv_has(&cli->given, "state"))
		return wait_state(cli, name, o, err);
	if (api_get(cli->api, path, &vm, err) < 0)
		return -1;
	bool has_main = fj_is_object(fj_get(vm, "main"));
	fj_free(vm);
	return has_main ? wait_end(cli, name, o->timeout, err) : wait_state(cli, name, o, err);
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, wait_one, options_);
}

const struct command cmd_wait = {
	.name = "wait",
	.args = "VM...",
	.summary = "wait until VMs are in a state, or their main processes have ended",
	.example = "fcm wait web --state stopped --timeout 60",
	.details = "Of a VM with a main process, and without --state, it prints the exit status;\n"
		   "for that it waits as long as it takes, unless --timeout is given.",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.options = options,
	.fields = wait_fields,
	.size = sizeof(struct wait_options),
	.defaults = &defaults,
	.run = run,
};
