/*
 * fcm rename, fcm update: what of a VM can be changed.
 */
#include <string.h>

#include "client/command.h"
#include "client/out.h"
#include "client/vmtext.h"
#include "common/model.h"

static const struct option_row options[] = {
	{"cpus", 0, "N", NULL, "virtual CPUs, 1 to 32, from its next start on"},
	{"cpu", 0, NULL, NULL, NULL},
	{"mem", 'm', "SIZE", "memory", "memory: MiB, or with k, m, g, t; likewise"},
	{"memory", 0, NULL, NULL, NULL},
	{"restart", 0, "POLICY", NULL, "no, on-failure, always or unless-stopped"},
	{"label", 0, "K=V", "labels", "a label that it gets, or another value; repeatable"},
	{"label-rm", 0, "K", "remove_labels", "a label that it loses; repeatable"},
	{0},
};

static int patch(struct cli *cli, const char *verb, const char *name, const struct update_request *o,
	field_json **ret, struct fcm_error *err)
{
	auto_free char *path = api_vm_path(name, "");
	auto_json field_json *body = field_encode(update_request_fields, o, true);

	return api_change(cli->api, "PATCH", path, body, NULL, ret, err) < 0 ? vm_failed(err, verb, name) : 0;
}

static int run_rename(struct cli *cli, void *options_, struct fcm_error *err)
{
	struct update_request *o = options_;
	auto_json field_json *vm = NULL;

	if (field_set_text(update_request_fields, o, "name", cli->argv[1], err) < 0)
		return -1;
	if (patch(cli, "rename", cli->argv[0], o, &vm, err) < 0)
		return err->code == FCM_NAME_TAKEN
			       ? fcm_hint(err, "choose another name, or fcm destroy %s", o->name)
			       : -1;
	const char *url = vm_url(vm), *did = vm_unchanged(vm) ? "it has that name" : "renamed";
	bool follows = strcmp(fj_get_str(vm, "state"), "running") == 0 &&
		       *fj_get_str(vm, "hostname") == '\0' && !vm_unchanged(vm);
	out_result(cli, fj_get_str(vm, "name"), vm, "%s%s%s%s", did, *url ? " · " : "", url,
		follows ? " · its host name follows at the next start" : "");
	return 0;
}

static void print_updated(const struct cli *cli, const struct update_request *o, const field_json *vm)
{
	const char *name = fj_get_str(vm, "name");
	const field_json *next = fj_get(vm, "next");
	_cleanup_(buf_done) struct buf memory = {0};

	out_mib(&memory, fj_get_int(next, "memory", 0));
	if (fj_is_object(next) && (o->vcpus || o->mem_mib))
		out_result(cli, name, vm, "%d vCPU and %s from its next start on: fcm restart %s",
			(int)fj_get_int(next, "cpus", 0), memory.p, name);
	else
		out_result(cli, name, vm, vm_unchanged(vm) ? "it was so already" : "changed");
}

static int update_one(struct cli *cli, const char *name, void *options_, struct fcm_error *err)
{
	auto_json field_json *vm = NULL;

	if (patch(cli, "update", name, options_, &vm, err) < 0)
		return -1;
	print_updated(cli, options_, vm);
	return 0;
}

static int run_update(struct cli *cli, void *options_, struct fcm_error *err)
{
	if (cli->given.n == 0)
		return fcm_fail(err, FCM_USAGE, "update: say what to change");
	return each_argument(cli, update_one, options_);
}

const struct command cmd_rename = {
	.name = "rename",
	.args = "VM NAME",
	.summary = "give a VM another name",
	.example = "fcm rename web www",
	.details = "A public name that fcm made of the old one follows, a --domain of yours stays.\n"
		   "Its guest has the new host name from the next start on.",
	.min_args = 2,
	.max_args = 2,
	.fields = update_request_fields,
	.size = sizeof(struct update_request),
	.run = run_rename,
};

const struct command cmd_update = {
	.name = "update",
	.args = "VM...",
	.summary = "change what VMs have: CPUs, memory, restart policy, labels",
	.example = "fcm update web --memory 2g --label team=red",
	.details = "CPUs and memory change with the next start, the others at once. --restart no\n"
		   "also calls off a restart that is due.",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.options = options,
	.fields = update_request_fields,
	.size = sizeof(struct update_request),
	.run = run_update,
};
