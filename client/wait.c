#include "client/command.h"
#include "client/out.h"
#include "common/model.h"

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
	{"state", 0, "STATE", NULL, "running (the default), stopped or failed"},
	{"timeout", 0, "SECONDS", NULL, "give up after so long (default 30): exit status 8"},
	{0},
};

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	const struct wait_options *o = options_;
	auto_free char *query = xprintf("/wait?state=%s&timeout=%u", vm_state_names[o->state], o->timeout);
	auto_free char *path = api_vm_path(cli->argv[0], query);
	field_json *vm = NULL;

	if (api_wait(cli->api, path, o->timeout, &vm, err) < 0) {
		if (err->code == FCM_TIMEOUT && err->hint[0] == '\0')
			fcm_hint(err, "fcm logs %.63s shows the guest's console", cli->argv[0]);
		return -1;
	}
	out_result(cli, fj_get_str(vm, "name"), vm, "%s", fj_get_str(vm, "state"));
	fj_free(vm);
	return 0;
}

const struct command cmd_wait = {
	.name = "wait",
	.args = "VM",
	.summary = "wait until a VM is in a state",
	.min_args = 1,
	.max_args = 1,
	.options = options,
	.fields = wait_fields,
	.size = sizeof(struct wait_options),
	.defaults = &defaults,
	.run = run,
};
