#include "client/command.h"
#include "client/out.h"

static int inspect_one(struct cli *cli, const char *name, void *options, struct fcm_error *err)
{
	auto_free char *path = api_vm_path(name, "");
	field_json *vm = NULL;

	(void)options;
	if (api_get(cli->api, path, &vm, err) < 0)
		return -1;
	if (cli->globals.quiet)
		printf("%s\n", fj_get_str(vm, "id"));
	else
		out_json(vm);
	fj_free(vm);
	return 0;
}

static int run(struct cli *cli, void *options, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, inspect_one, options);
}

const struct command cmd_inspect = {
	.name = "inspect",
	.args = "VM...",
	.summary = "print all about a VM, as JSON",
	.example = "fcm inspect web",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.run = run,
};
