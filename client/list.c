/*
 * fcm ls, fcm ps: machines persist, so ls shows all of them and ps those that run.
 */
#include <string.h>

#include "client/command.h"
#include "client/out.h"
#include "client/vmtext.h"
#include "common/core/clock.h"

struct list_options {
	bool all;
};

static const struct field list_fields[] = {
	F(struct list_options, all, FIELD_BOOL),
	FIELD_END,
};

static const struct option_row options[] = {
	{"all", 'a', NULL, NULL, "all of them, running or not"},
	{0},
};

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
	{"url", "URL", COLUMN_CUT, text_url},
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

static field_json *only_running(const field_json *vms)
{
	field_json *some = fj_array();

	for (size_t i = 0; i < fj_len(vms); i++)
		if (vm_up(fj_at(vms, i)))
			fj_append(some, fj_ref(fj_at(vms, i)));
	return some;
}

static int list(struct cli *cli, bool all, struct fcm_error *err)
{
	field_json *answer = NULL;

	if (api_get(cli->api, "/v1/vms", &answer, err) < 0)
		return -1;
	field_json *vms = all ? fj_ref(fj_get(answer, "vms")) : only_running(fj_get(answer, "vms"));
	int r = out_list(cli, columns, vms, err);
	fflush(stdout);
	if (r == 0 && !cli->globals.json && !cli->globals.quiet) {
		hint_reasons(vms);
		if (fj_len(vms) == 0)
			out_hint(all ? "there is no VM yet: fcm create" : "no VM runs; fcm ls shows all");
	}
	fj_free(vms);
	fj_free(answer);
	return r;
}

static int run_ls(struct cli *cli, void *options_, struct fcm_error *err)
{
	(void)options_;
	return list(cli, true, err);
}

static int run_ps(struct cli *cli, void *options_, struct fcm_error *err)
{
	const struct list_options *o = options_;

	return list(cli, o->all, err);
}

const struct command cmd_ls = {
	.name = "ls",
	.aliases = "list",
	.summary = "list all VMs",
	.details = "Columns for -o: name state health image ip cpus mem up id pid vmm disk created\n"
		   "ports url; or wide for all of them.",
	.options = options,
	.fields = list_fields,
	.size = sizeof(struct list_options),
	.flags = COMMAND_TABLE,
	.run = run_ls,
};

const struct command cmd_ps = {
	.name = "ps",
	.summary = "list the VMs that run or are paused",
	.options = options,
	.fields = list_fields,
	.size = sizeof(struct list_options),
	.flags = COMMAND_TABLE,
	.run = run_ps,
};
