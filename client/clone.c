#include "client/clone.h"

#include <string.h>

#include "client/create.h"
#include "client/vmtext.h"

struct clone_options {
	struct clone_request rq;
	char snapshot[64]; /* the source, when it is named by an option */
	struct ready_options ready;
};

static const struct field clone_fields[] = {
	F(struct clone_options, rq, FIELD_OBJECT, .sub = clone_request_fields),
	F(struct clone_options, snapshot, FIELD_CHARS),
	F(struct clone_options, ready, FIELD_OBJECT, .sub = ready_options_fields),
	FIELD_END,
};

static const struct option_row options[] = {
	{"name", 0, "NAME", "rq.name", "its name, of several NAME-1, NAME-2 (else chosen)"},
	{"count", 'n', "COUNT", "rq.count", "so many at once (default 1)"},
	{"snapshot", 0, "SNAPSHOT", "snapshot", "the snapshot, in place of the argument"},
	{"publish", 'p', "PORT", "rq.publish", "a port as 8080:80 or just 80 (fcm help publish)"},
	{"expose", 0, "PORT", "rq.expose", "serve this port of it at a public HTTPS name"},
	{"disk-only", 0, NULL, "rq.disk_only", "boot it with the disk, without the memory"},
	READY_OPTIONS("ready."),
	{0},
};

int clone_at(struct cli *cli, const char *path, const char *what, const field_json *body, field_json **ret,
	struct fcm_error *err)
{
	auto_free char *doing = xprintf("clone %s", what);
	auto_json field_json *answer = NULL;

	if (api_change(cli->api, "POST", path, body, doing, &answer, err) < 0)
		return vm_failed(err, "clone", what);
	*ret = fj_ref(fj_get(answer, "vms"));
	return 0;
}

/* ---- what is meant ---- */

/* Is there something at that path? -1 with an error that isn't FCM_NOT_FOUND. */
static int look(struct cli *cli, const char *path, field_json **ret, struct fcm_error *err)
{
	if (api_get(cli->api, path, ret, err) == 0)
		return 1;
	return err->code == FCM_NOT_FOUND ? 0 : -1;
}

/* The first letters of an id are no name. */
static bool is_exactly(const field_json *vm, const char *name)
{
	return strcmp(fj_get_str(vm, "name"), name) == 0 || strcmp(fj_get_str(vm, "id"), name) == 0;
}

/* The clone route of what has that name, a VM or a snapshot: the caller's, or NULL. Where both have it nobody can know what
 * was meant. */
static char *find_source(struct cli *cli, const char *name, struct fcm_error *err)
{
	auto_free char *vm_path = api_vm_path(name, ""), *snapshot_path = api_snapshot_path(name, "");
	auto_json field_json *vm = NULL, *snapshot = NULL;
	int is_snapshot = look(cli, snapshot_path, &snapshot, err);
	int is_vm = is_snapshot < 0 ? -1 : look(cli, vm_path, &vm, err);

	if (is_vm < 0)
		return NULL;
	if (is_vm && is_snapshot && is_exactly(vm, name)) {
		fcm_fail(err, FCM_USAGE, "there are a VM and a snapshot '%s'", name);
		fcm_hint(err, "the snapshot: fcm clone --snapshot %s   the VM: fcm clone %s", name,
			fj_get_str(vm, "id"));
		return NULL;
	}
	if (is_snapshot)
		return api_snapshot_path(name, "/clone");
	if (is_vm)
		return api_vm_path(name, "/clone");
	fcm_fail(err, FCM_NOT_FOUND, "there is no VM or snapshot '%s'", name);
	fcm_hint(err, "fcm ls and fcm snapshot ls show what there is");
	return NULL;
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	struct clone_options *o = options_;
	const char *source = cli->argc ? cli->argv[0] : o->snapshot;
	auto_json field_json *body = field_encode(clone_request_fields, &o->rq, true), *vms = NULL;

	if ((cli->argc == 1) == (o->snapshot[0] != '\0'))
		return fcm_fail(
			err, FCM_USAGE, "clone takes one VM or snapshot, as its argument or with --snapshot");
	if (ready_add(&o->ready, true, body, err) < 0)
		return -1;
	auto_free char *path =
		cli->argc ? find_source(cli, source, err) : api_snapshot_path(source, "/clone");
	if (path == NULL || clone_at(cli, path, source, body, &vms, err) < 0)
		return -1;
	for (size_t i = 0; i < fj_len(vms); i++)
		create_print_vm(cli, fj_at(vms, i));
	return 0;
}

const struct command cmd_clone = {
	.name = "clone",
	.args = "VM|SNAPSHOT",
	.summary = "make VMs that go on from where another one is, or was",
	.example = "fcm clone --count 3 --name worker warm",
	.details = "  fcm clone web                        another VM like web, as it is now\n"
		   "  fcm clone -n 5 --name worker warm    five of the snapshot warm\n"
		   "  fcm clone --name web2 --snapshot warm -p 9090:80\n"
		   "Each has the memory, the disk and the own volumes of its source, and a name,\n"
		   "address, MAC, host key, machine id and random numbers of its own. CPUs, memory,\n"
		   "image, environment, labels and keys are those of the source; its published\n"
		   "ports and its public name aren't taken over.\n" READY_DETAILS,
	.max_args = 1,
	.options = options,
	.fields = clone_fields,
	.size = sizeof(struct clone_options),
	.run = run,
};
