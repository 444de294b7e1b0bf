/*
 * fcm snapshot, fcm restore: VMs as they were, kept under names, and VMs that go back to them.
 */
#include <inttypes.h>
#include <string.h>

#include "client/export.h"
#include "client/import.h"
#include "client/out.h"
#include "client/verb.h"
#include "client/vmtext.h"
#include "common/core/clock.h"
#include "common/model.h"

struct snapshot_options {
	struct snapshot_request rq;
	bool live, tree, force;
};

static const struct field snapshot_fields[] = {
	F(struct snapshot_options, rq, FIELD_OBJECT, .sub = snapshot_request_fields),
	F(struct snapshot_options, live, FIELD_BOOL),
	F(struct snapshot_options, tree, FIELD_BOOL),
	F(struct snapshot_options, force, FIELD_BOOL),
	FIELD_END,
};

static const struct option_row options[] = {
	{"name", 0, "NAME", "rq.name", "create, import: its name (else VM-N, or its own)"},
	{"note", 0, "TEXT", "rq.note", "create: what it is for"},
	{"live", 0, NULL, NULL, "create: the VM runs on (the default)"},
	{"stop", 0, NULL, "rq.stop", "create: the VM ends as it is saved"},
	{"disk-only", 0, NULL, "rq.disk_only", "create: without memory; what begins with it boots"},
	{"tree", 0, NULL, NULL, "ls: each below the one that its VM began with"},
	{"force", 'f', NULL, NULL, "rm: no error when it isn't there"},
	{0},
};

/* ---- the list ---- */

static void text_name(const field_json *s, struct buf *b)
{
	out_text(b, fj_get_str(s, "name"));
}

static void text_id(const field_json *s, struct buf *b)
{
	out_text(b, fj_get_str(s, "id"));
}

static void text_vm(const field_json *s, struct buf *b)
{
	out_text(b, fj_get_str(fj_get(s, "vm"), "name"));
}

static void text_size(const field_json *s, struct buf *b)
{
	out_bytes(b, fj_get_int(s, "on_disk", 0));
}

static void text_memory(const field_json *s, struct buf *b)
{
	if (fj_get_bool(s, "memory"))
		out_mib(b, fj_get_int(fj_get(s, "vm"), "memory", 0));
	else
		buf_str(b, "-");
}

static void text_parent(const field_json *s, struct buf *b)
{
	if (*fj_get_str(s, "parent"))
		out_text(b, fj_get_str(s, "parent"));
}

static void text_created(const field_json *s, struct buf *b)
{
	out_age(b, fj_get_str(s, "created"));
}

static void text_note(const field_json *s, struct buf *b)
{
	if (*fj_get_str(s, "note"))
		out_text(b, fj_get_str(s, "note"));
}

static void text_vmm(const field_json *s, struct buf *b)
{
	if (fj_get_bool(s, "memory"))
		buf_printf(b, "%s %s, %s", fj_get_str(s, "vmm"), fj_get_str(s, "vmm_version"),
			fj_get_str(s, "accel"));
}

static const struct column columns[] = {
	{"name", "NAME", 0, text_name},
	{"id", "ID", COLUMN_SPARE, text_id},
	{"vm", "VM", 0, text_vm},
	{"size", "SIZE", COLUMN_RIGHT, text_size},
	{"memory", "MEMORY", COLUMN_RIGHT | COLUMN_SPARE, text_memory},
	{"parent", "PARENT", COLUMN_EMPTY | COLUMN_SPARE, text_parent},
	{"created", "CREATED", COLUMN_SPARE, text_created},
	{"vmm", "VMM", COLUMN_WIDE, text_vmm},
	{"note", "NOTE", COLUMN_EMPTY | COLUMN_CUT, text_note},
	{0},
};

static bool is_of(const field_json *s, const char *vm)
{
	const field_json *of = fj_get(s, "vm");

	return strcmp(fj_get_str(of, "name"), vm) == 0 || strcmp(fj_get_str(of, "id"), vm) == 0;
}

static field_json *only_of(const field_json *snapshots, const char *vm)
{
	field_json *some = fj_array();

	for (size_t i = 0; i < fj_len(snapshots); i++)
		if (vm == NULL || is_of(fj_at(snapshots, i), vm))
			fj_append(some, fj_ref(fj_at(snapshots, i)));
	return some;
}

/* ---- the tree ---- */

enum { NO_PARENT = -1 };

/* Where in the list its parent is. */
static int parent_of(const field_json *snapshots, const field_json *s)
{
	const char *id = fj_get_str(s, "parent");

	for (int i = 0; *id && i < (int)fj_len(snapshots); i++)
		if (strcmp(fj_get_str(fj_at(snapshots, (size_t)i), "id"), id) == 0)
			return i;
	return NO_PARENT;
}

/* Append the children of `parent` to `out`, each with its own behind it; `indent` stands in front of their names. */
static void add_children(
	const field_json *all, const int *parents, int parent, const char *indent, field_json *out)
{
	int left = 0, n = (int)fj_len(all);

	for (int i = 0; i < n; i++)
		left += parents[i] == parent;
	for (int i = 0; i < n; i++) {
		if (parents[i] != parent)
			continue;
		field_json *s = fj_at(all, (size_t)i);
		bool root = parent == NO_PARENT, last = --left == 0;
		auto_free char *deeper = xprintf("%s%s", indent, root ? "" : last ? "   " : "│  ");
		auto_free char *name = xprintf("%s%s%s", indent,
			root   ? ""
			: last ? "└─ "
			       : "├─ ",
			fj_get_str(s, "name"));
		fj_set_str(s, "name", name);
		fj_append(out, fj_ref(s));
		add_children(all, parents, i, deeper, out);
	}
}

/* Those without a parent in the list, and below each what began with it. */
static field_json *as_tree(const field_json *all)
{
	size_t n = fj_len(all);
	auto_free int *parents = xalloc((n + 1) * sizeof *parents);
	field_json *out = fj_array();

	for (size_t i = 0; i < n; i++)
		parents[i] = parent_of(all, fj_at(all, i));
	for (size_t i = 0; i < n; i++) /* the lines say it */
		fj_set_str(fj_at(all, i), "parent", "");
	add_children(all, parents, NO_PARENT, "", out);
	return out;
}

/* People know the parents by their names; one that is gone has only its id. */
static void name_parents(field_json *rows, const field_json *all)
{
	for (size_t i = 0; i < fj_len(rows); i++) {
		int parent = parent_of(all, fj_at(rows, i));
		if (parent != NO_PARENT)
			fj_set_str(fj_at(rows, i), "parent", fj_get_str(fj_at(all, (size_t)parent), "name"));
	}
}

static int list(struct cli *cli, void *options_, struct fcm_error *err)
{
	const struct snapshot_options *o = options_;
	auto_json field_json *answer = NULL;
	bool plain = cli->globals.json || cli->globals.quiet;

	if (api_get(cli->api, "/v1/snapshots", &answer, err) < 0)
		return -1;
	const field_json *all = fj_get(answer, "snapshots");
	auto_json field_json *some = only_of(all, cli->argc ? cli->argv[0] : NULL);
	auto_json field_json *rows = o->tree && !plain ? as_tree(some) : fj_ref(some);
	if (!o->tree && !plain)
		name_parents(rows, all);
	int r = out_list(cli, columns, rows, err);
	fflush(stdout);
	if (r == 0 && fj_len(rows) == 0 && !cli->globals.json)
		out_hint("there is none yet: fcm snapshot create VM");
	return r;
}

/* ---- the others ---- */

static void print_taken(const struct cli *cli, const field_json *s, bool stopped)
{
	_cleanup_(buf_done) struct buf b = {0};
	const char *vm = fj_get_str(fj_get(s, "vm"), "name");
	int64_t paused = fj_get_int(s, "pause_ms", 0);

	vm_snapshot_words(s, &b);
	if (paused)
		buf_printf(&b, " · %s was paused for %s", vm, clock_span(paused).s);
	if (stopped)
		buf_printf(&b, " · %s is stopped", vm);
	out_result(cli, fj_get_str(s, "name"), s, "taken in %s · %s",
		clock_span(fj_get_int(s, "took_ms", 0)).s, b.p);
}

static int create(struct cli *cli, void *options_, struct fcm_error *err)
{
	struct snapshot_options *o = options_;
	auto_free char *path = api_vm_path(cli->argv[0], "/snapshots"),
		       *doing = xprintf("snapshot of %s", cli->argv[0]);
	auto_json field_json *answer = NULL;

	if (o->live && o->rq.stop)
		return fcm_fail(err, FCM_USAGE, "snapshot create: either --live or --stop");
	if (cli->argc == 2 && o->rq.name[0])
		return fcm_fail(err, FCM_USAGE, "snapshot create: either --name or a second argument");
	if (cli->argc == 2 && field_set_text(snapshot_request_fields, &o->rq, "name", cli->argv[1], err) < 0)
		return -1;
	auto_json field_json *body = field_encode(snapshot_request_fields, &o->rq, true);
	if (api_change(cli->api, "POST", path, body, doing, &answer, err) < 0)
		return vm_failed(err, "take a snapshot of", cli->argv[0]);
	print_taken(cli, answer, o->rq.stop);
	return 0;
}

static int inspect_one(struct cli *cli, const char *name, void *options_, struct fcm_error *err)
{
	auto_free char *path = api_snapshot_path(name, "");
	auto_json field_json *snapshot = NULL;

	(void)options_;
	if (api_get(cli->api, path, &snapshot, err) < 0)
		return -1;
	if (cli->globals.quiet)
		printf("%s\n", fj_get_str(snapshot, "name"));
	else
		out_json(snapshot);
	return 0;
}

static int inspect(struct cli *cli, void *options_, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, inspect_one, options_);
}

static int remove_one(struct cli *cli, const char *name, void *options_, struct fcm_error *err)
{
	const struct snapshot_options *o = options_;
	auto_free char *path = api_snapshot_path(name, "");
	auto_json field_json *answer = NULL;
	_cleanup_(buf_done) struct buf size = {0};

	if (api_change(cli->api, "DELETE", path, NULL, NULL, &answer, err) < 0)
		return o->force && err->code == FCM_NOT_FOUND ? 0 : -1;
	out_bytes(&size, fj_get_int(answer, "bytes", 0));
	out_result(cli, name, answer, "removed, %s", size.p);
	return 0;
}

static int rm(struct cli *cli, void *options_, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, remove_one, options_);
}

/* argv: the VM and the snapshot. */
static int restore(struct cli *cli, bool disk_only, struct fcm_error *err)
{
	const char *name = cli->argv[0], *snapshot = cli->argv[1];
	auto_free char *path = api_vm_path(name, "/restore"), *doing = xprintf("restore %s", name);
	auto_json field_json *body = fj_object(), *vm = NULL;

	fj_set_str(body, "snapshot", snapshot);
	if (disk_only)
		fj_set_bool(body, "disk_only", true);
	if (api_change(cli->api, "POST", path, body, doing, &vm, err) < 0)
		return vm_failed(err, "restore", name);
	out_result(cli, fj_get_str(vm, "name"), vm, "%s in %s · %s · %s %s", fj_get_str(vm, "state"),
		clock_span(fj_get_int(vm, "took_ms", 0)).s, fj_get_str(vm, "ip"),
		fj_get_bool(vm, "resumed") ? "back at" : "booted with the disk of", snapshot);
	return 0;
}

static int verb_restore(struct cli *cli, void *options_, struct fcm_error *err)
{
	const struct snapshot_options *o = options_;

	return restore(cli, o->rq.disk_only, err);
}

static int export(struct cli *cli, void *options_, struct fcm_error *err)
{
	auto_free char *path = api_snapshot_path(cli->argv[0], "/export");
	const struct exported e = {
		.command = "snapshot export", .name = cli->argv[0], .path = path, .secret = true};

	(void)options_;
	return export_path(cli, &e, cli->globals.output, err);
}

static int import(struct cli *cli, void *options_, struct fcm_error *err)
{
	const struct snapshot_options *o = options_;
	const char *place = cli->argc ? cli->argv[0] : "-";
	auto_free char *name = httpc_escape(o->rq.name);
	auto_free char *path = xprintf("/v1/snapshots/import%s%s", *name ? "?name=" : "", name);
	_cleanup_(buf_done) struct buf b = {0};
	auto_json field_json *before = NULL, *answer = NULL;

	if (strcmp(place, "-") == 0 && isatty(STDIN_FILENO))
		return fcm_fail(err, FCM_USAGE, "snapshot import: stdin is a terminal: name a file");
	/* ask the daemon first: gigabytes for one that isn't there would be a pity */
	if (api_get(cli->api, "/v1", &before, err) < 0)
		return -1;
	if (import_file(cli, path, place, &answer, err) < 0)
		return fcm_wrap(err, "import '%.100s'", place);
	vm_snapshot_words(answer, &b);
	out_result(cli, fj_get_str(answer, "name"), answer, "%s", b.p);
	return 0;
}

static const struct verb verbs[] = {
	{"create", NULL, "rq.name rq.note rq.stop rq.disk_only live", "needs a VM", 1, 2, create},
	{"ls", "list", "tree", "takes one VM, or none", 0, 1, list},
	{"inspect", "show", NULL, "needs a snapshot", 1, ANY_ARGS, inspect},
	{"export", NULL, NULL, "needs a snapshot", 1, 1, export},
	{"import", NULL, "rq.name", "takes one file, or - for stdin", 0, 1, import},
	{"rm", "remove delete", "force", "needs a snapshot", 1, ANY_ARGS, rm},
	{"restore", NULL, "rq.disk_only", "needs a VM and a snapshot", 2, 2, verb_restore},
	{0},
};

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	char ls[] = "ls", *words[] = {ls, NULL};

	if (cli->argc == 0) {
		cli->argc = 1;
		cli->argv = words;
	}
	return verb_run(cli, verbs, options_, err);
}

const struct command cmd_snapshot = {
	.name = "snapshot",
	.aliases = "snapshots",
	.args = "create|ls|inspect|export|import|rm|restore [VM] [SNAPSHOT...]",
	.summary = "keep VMs as they are, under names",
	.example = "fcm snapshot create --name v1 web",
	.details = "  fcm snapshot create web              its memory, its disk, its own volumes\n"
		   "  fcm snapshot create --name v1 --note 'before the upgrade' web\n"
		   "  fcm snapshot ls [--tree] [VM]\n"
		   "  fcm snapshot export -o v1.fcm v1     as a file, only yours to read\n"
		   "  fcm snapshot import [--name v1] v1.fcm\n"
		   "  fcm restore web v1                   web is again what it was\n"
		   "  fcm clone v1                         another VM that goes on from there\n"
		   "The VM stands still while its memory is copied, and runs on. One that is\n"
		   "stopped has a disk only. Volumes with names aren't in it. A snapshot stays when\n"
		   "its VM goes, and holds all that was in its memory: passwords, too. VMs made of\n"
		   "it don't need it any more; rm refuses one that is just being read.\n"
		   "What is imported is of no VM there: it is cloned, not gone back to.\n"
		   "Columns for -o: name id vm size memory parent created vmm note; or wide.",
	.max_args = ANY_ARGS,
	.flags = COMMAND_TABLE,
	.options = options,
	.fields = snapshot_fields,
	.size = sizeof(struct snapshot_options),
	.run = run,
};

/* ---- fcm restore ---- */

static int run_restore(struct cli *cli, void *options_, struct fcm_error *err)
{
	const struct restore_request *o = options_;

	return restore(cli, o->disk_only, err);
}

static const struct option_row restore_options[] = {
	{"disk-only", 0, NULL, "disk_only", "boot it with the disk, without the memory"},
	{0},
};

const struct command cmd_restore = {
	.name = "restore",
	.args = "VM SNAPSHOT",
	.summary = "bring a VM back to one of its snapshots",
	.example = "fcm restore web v1",
	.details = "Its disk and memory of now are lost: fcm snapshot create VM keeps them. It runs\n"
		   "then, whatever it was. Another VM of the same snapshot: fcm clone.",
	.min_args = 2,
	.max_args = 2,
	.options = restore_options,
	.fields = restore_request_fields,
	.size = sizeof(struct restore_request),
	.run = run_restore,
};
