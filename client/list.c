/*
 * fcm ls, fcm ps: machines persist, so ls shows all of them and ps those that run.
 */
#include <string.h>

#include "client/command.h"
#include "client/vmtext.h"
#include "client/watch.h"
#include "common/core/clock.h"

struct list_options {
	bool all;
	struct strv filters;
	struct watch_options watch;
};

static const struct field list_fields[] = {
	F(struct list_options, all, FIELD_BOOL),
	F(struct list_options, filters, FIELD_STRV, .max = 15),
	F(struct list_options, watch, FIELD_OBJECT, .sub = watch_fields),
	FIELD_END,
};

static const struct list_options defaults = {.watch.interval = 2};

static const struct option_row options[] = {
	{"all", 'a', NULL, NULL, "all of them, running or not"},
	{"filter", 'f', "KEY=VALUE", "filters", "label= (repeatable), state=, name=: all must hold"},
	WATCH_OPTIONS("watch.", 2),
	{0},
};

#define FILTERS                                                                                              \
	"A filter is label=KEY, label=KEY=VALUE, name=PATTERN (as a shell's: web-*), or\n"                   \
	"state=STATE[,STATE...] (one of them)."

static void text_name(const field_json *vm, struct buf *b)
{
	out_text(b, fj_get_str(vm, "name"));
}

static void text_state(const field_json *vm, struct buf *b)
{
	out_text(b, fj_get_str(vm, "state"));
}

/* Empty for those that nobody checks, so that the column is only there with some that are. */
static void text_health(const field_json *vm, struct buf *b)
{
	const char *status = fj_get_str(fj_get(vm, "health"), "status");

	if (*status)
		out_text(b, status);
}

static void text_image(const field_json *vm, struct buf *b)
{
	out_text(b, fj_get_str(vm, "image"));
}

static void text_ip(const field_json *vm, struct buf *b)
{
	out_text(b, fj_get_str(vm, "ip"));
}

static void text_cpus(const field_json *vm, struct buf *b)
{
	buf_printf(b, "%d", (int)fj_get_int(vm, "cpus", 0));
}

static void text_mem(const field_json *vm, struct buf *b)
{
	out_mib(b, fj_get_int(vm, "memory", 0));
}

static void text_disk(const field_json *vm, struct buf *b)
{
	out_mib(b, fj_get_int(vm, "disk", 0));
}

static void text_up(const field_json *vm, struct buf *b)
{
	out_age(b, fj_get_str(vm, "started"));
}

static void text_url(const field_json *vm, struct buf *b)
{
	out_text(b, vm_url(vm));
}

/* As docker shows them; empty for those that publish nothing. */
static void text_ports(const field_json *vm, struct buf *b)
{
	const field_json *ports = fj_get(vm, "publish");

	for (size_t i = 0; i < fj_len(ports); i++) {
		const char *text = fj_text(fj_at(ports, i)), *colon = strrchr(text, ':');
		if (colon == NULL)
			continue;
		auto_free char *shown =
			xprintf("%s%.*s->%s", i ? ", " : "", (int)(colon - text), text, colon + 1);
		out_text(b, shown);
	}
}

static void text_id(const field_json *vm, struct buf *b)
{
	out_text(b, fj_get_str(vm, "id"));
}

static void text_pid(const field_json *vm, struct buf *b)
{
	int64_t pid = fj_get_int(vm, "vmm_pid", 0);

	if (pid > 0)
		buf_printf(b, "%d", (int)pid);
}

static void text_vmm(const field_json *vm, struct buf *b)
{
	out_text(b, fj_get_str(vm, "vmm"));
}

static void text_created(const field_json *vm, struct buf *b)
{
	out_age(b, fj_get_str(vm, "created"));
}

static const struct column columns[] = {
	{"name", "NAME", 0, text_name},
	{"state", "STATE", COLUMN_STATE, text_state},
	{"health", "HEALTH", COLUMN_EMPTY, text_health},
	{"image", "IMAGE", COLUMN_SPARE, text_image},
	{"ip", "IP", 0, text_ip},
	{"cpus", "CPUS", COLUMN_RIGHT | COLUMN_SPARE, text_cpus},
	{"mem", "MEM", COLUMN_RIGHT | COLUMN_SPARE, text_mem},
	{"up", "UP", 0, text_up},
	{"id", "ID", COLUMN_WIDE, text_id},
	{"pid", "PID", COLUMN_WIDE | COLUMN_RIGHT, text_pid},
	{"vmm", "VMM", COLUMN_WIDE, text_vmm},
	{"disk", "DISK", COLUMN_WIDE | COLUMN_RIGHT, text_disk},
	{"created", "CREATED", COLUMN_WIDE, text_created},
	{"ports", "PORTS", COLUMN_EMPTY | COLUMN_CUT, text_ports},
	{"url", "URL", COLUMN_CUT | COLUMN_WHOLE, text_url},
	{0},
};

/* Below the table, on a terminal: what is wrong with those that failed, or run without all that they need. */
static void hint_reasons(const field_json *vms)
{
	for (size_t i = 0; i < fj_len(vms); i++) {
		const field_json *vm = fj_at(vms, i);
		const char *name = fj_get_str(vm, "name");
		_cleanup_(buf_done) struct buf why = {0};
		out_text(&why, vm_reason(vm));
		if (strcmp(fj_get_str(vm, "state"), "failed") == 0)
			out_hint("%s: %s (fcm logs %s)", name, why.p, name);
		else if (*vm_reason(vm) && strcmp(fj_get_str(vm, "state"), "running") == 0)
			out_hint("%s: %s", name, why.p);
	}
}

/* The list that is asked for, as a path. The daemon says what a filter may be. */
static int build_path(const struct list_options *o, bool running, struct buf *path, struct fcm_error *err)
{
	bool state = false;
	char sign = '?';

	buf_str(path, "/v1/vms");
	for (size_t i = 0; i < o->filters.n; i++, sign = '&') {
		const char *filter = o->filters.v[i];
		int n = (int)strcspn(filter, "=");
		if (filter[n] == '\0')
			return fcm_fail_field(
				err, FCM_USAGE, "--filter", "--filter: '%s' is not KEY=VALUE", filter);
		auto_free char *plain = xprintf("%.*s", n, filter), *key = httpc_escape(plain),
			       *value = httpc_escape(filter + n + 1);
		buf_printf(path, "%c%s=%s", sign, key, value);
		state = state || strcmp(plain, "state") == 0;
	}
	if (running && !state)
		buf_printf(path, "%cstate=running,paused", sign);
	return 0;
}

static field_json *get_rows(struct cli *cli, void *path, struct fcm_error *err)
{
	auto_json field_json *answer = NULL;

	if (api_get(cli->api, path, &answer, err) < 0)
		return NULL;
	field_json *vms = fj_get(answer, "vms");
	return vms ? fj_ref(vms) : fj_array();
}

static void hint_nobody(const struct list_options *o, bool running)
{
	if (o->filters.n)
		out_hint("no VM fits that");
	else
		out_hint(running ? "no VM runs; fcm ls shows all" : "there is no VM yet: fcm create");
}

static int list(struct cli *cli, const struct list_options *o, bool running, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf path = {0};

	if (build_path(o, running, &path, err) < 0)
		return -1;
	if (o->watch.watch)
		return watch_table(cli, &o->watch, columns, get_rows, path.p, err);
	auto_json field_json *vms = get_rows(cli, path.p, err);
	if (vms == NULL || out_list(cli, columns, vms, err) < 0)
		return -1;
	fflush(stdout);
	if (!cli->globals.json && !cli->globals.quiet) {
		hint_reasons(vms);
		if (fj_len(vms) == 0)
			hint_nobody(o, running);
	}
	return 0;
}

static int run_ls(struct cli *cli, void *options_, struct fcm_error *err)
{
	return list(cli, options_, false, err);
}

static int run_ps(struct cli *cli, void *options_, struct fcm_error *err)
{
	const struct list_options *o = options_;

	return list(cli, o, !o->all, err);
}

const struct command cmd_ls = {
	.name = "ls",
	.aliases = "list",
	.summary = "list all VMs",
	.example = "fcm ls --filter label=team=red",
	.details = "Columns for -o: name state health image ip cpus mem up id pid vmm disk created\n"
		   "ports url; or wide for all of them.\n" FILTERS,
	.options = options,
	.fields = list_fields,
	.size = sizeof(struct list_options),
	.defaults = &defaults,
	.flags = COMMAND_TABLE,
	.run = run_ls,
};

const struct command cmd_ps = {
	.name = "ps",
	.summary = "list the VMs that run or are paused",
	.example = "fcm ps --watch",
	.details = FILTERS " With state= not only these.",
	.options = options,
	.fields = list_fields,
	.size = sizeof(struct list_options),
	.defaults = &defaults,
	.flags = COMMAND_TABLE,
	.run = run_ps,
};
