/*
 * fcm stats: what VMs use. The daemon tells what was used so far; how busy a VM is now comes from two samples.
 */
#include <inttypes.h>
#include <string.h>

#include "client/command.h"
#include "client/vmtext.h"
#include "client/watch.h"
#include "common/core/clock.h"

static const struct option_row options[] = {
	WATCH_OPTIONS("", 1),
	{0},
};

static const struct watch_options defaults = {.interval = 1};

/* ---- columns ---- */

static void text_name(const field_json *vm, struct buf *b)
{
	out_text(b, fj_get_str(vm, "name"));
}

static void text_id(const field_json *vm, struct buf *b)
{
	out_text(b, fj_get_str(vm, "id"));
}

static void text_state(const field_json *vm, struct buf *b)
{
	out_text(b, fj_get_str(vm, "state"));
}

static void text_cpu(const field_json *vm, struct buf *b)
{
	const char *percent = fj_get_str(vm, "cpu_percent");

	if (*percent)
		buf_printf(b, "%s%%", percent);
}

static void add_bytes(const field_json *o, const char *key, struct buf *b)
{
	int64_t bytes = fj_get_int(o, key, -1);

	if (bytes >= 0)
		out_bytes(b, bytes);
}

static void text_rss(const field_json *vm, struct buf *b)
{
	add_bytes(vm, "rss", b);
}

static void text_pss(const field_json *vm, struct buf *b)
{
	add_bytes(vm, "pss", b);
}

/* "61 MB/512 MB" */
static void add_part(int64_t used, int64_t whole, struct buf *b)
{
	if (used < 0 || whole < 0)
		return;
	out_bytes(b, used);
	buf_str(b, "/");
	out_bytes(b, whole);
}

static void text_guest_memory(const field_json *vm, struct buf *b)
{
	const field_json *guest = fj_get(vm, "guest");
	int64_t whole = fj_get_int(guest, "memory", -1), left = fj_get_int(guest, "available", -1);

	add_part(left < 0 ? -1 : whole - left, whole, b);
}

static void text_guest_disk(const field_json *vm, struct buf *b)
{
	const field_json *guest = fj_get(vm, "guest");

	add_part(fj_get_int(guest, "disk_used", -1), fj_get_int(guest, "disk", -1), b);
}

static void text_load(const field_json *vm, struct buf *b)
{
	out_text(b, fj_get_str(fj_get(vm, "guest"), "load"));
}

static void text_read(const field_json *vm, struct buf *b)
{
	add_bytes(vm, "disk_read", b);
}

static void text_written(const field_json *vm, struct buf *b)
{
	add_bytes(vm, "disk_written", b);
}

static void text_received(const field_json *vm, struct buf *b)
{
	add_bytes(vm, "net_received", b);
}

static void text_sent(const field_json *vm, struct buf *b)
{
	add_bytes(vm, "net_sent", b);
}

static void text_up(const field_json *vm, struct buf *b)
{
	int64_t ms = fj_get_int(vm, "up_ms", -1);

	if (ms >= 0)
		buf_str(b, clock_span(ms / 1000 * 1000).s);
}

static void text_number(const field_json *vm, const char *key, struct buf *b)
{
	int64_t n = fj_get_int(vm, key, -1);

	if (n >= 0)
		buf_printf(b, "%" PRId64, n);
}

static void text_pid(const field_json *vm, struct buf *b)
{
	text_number(vm, "pid", b);
}

static void text_threads(const field_json *vm, struct buf *b)
{
	text_number(vm, "threads", b);
}

static const struct column columns[] = {
	{"name", "NAME", 0, text_name},
	{"id", "ID", COLUMN_WIDE, text_id},
	{"state", "STATE", COLUMN_WIDE | COLUMN_STATE, text_state},
	{"cpu", "CPU", COLUMN_RIGHT, text_cpu},
	{"rss", "RSS", COLUMN_RIGHT, text_rss},
	{"pss", "PSS", COLUMN_RIGHT | COLUMN_SPARE, text_pss},
	{"guest", "GUEST MEM", COLUMN_RIGHT | COLUMN_SPARE, text_guest_memory},
	{"root", "GUEST DISK", COLUMN_WIDE | COLUMN_RIGHT, text_guest_disk},
	{"load", "LOAD", COLUMN_WIDE | COLUMN_RIGHT, text_load},
	{"read", "READ", COLUMN_RIGHT | COLUMN_SPARE, text_read},
	{"written", "WRITTEN", COLUMN_RIGHT | COLUMN_SPARE, text_written},
	{"rx", "RX", COLUMN_RIGHT | COLUMN_SPARE, text_received},
	{"tx", "TX", COLUMN_RIGHT | COLUMN_SPARE, text_sent},
	{"up", "UP", COLUMN_SPARE, text_up},
	{"pid", "PID", COLUMN_WIDE | COLUMN_RIGHT, text_pid},
	{"threads", "THREADS", COLUMN_WIDE | COLUMN_RIGHT, text_threads},
	{0},
};

/* ---- samples ---- */

static int sample_named(struct cli *cli, field_json *rows, struct fcm_error *err)
{
	for (int i = 0; i < cli->argc; i++) {
		auto_free char *path = api_vm_path(cli->argv[i], "/stats");
		field_json *vm = NULL;
		if (api_get(cli->api, path, &vm, err) < 0)
			return -1;
		fj_append(rows, vm);
	}
	return 0;
}

static int sample_running(struct cli *cli, field_json *rows, struct fcm_error *err)
{
	auto_json field_json *answer = NULL;

	if (api_get(cli->api, "/v1/stats", &answer, err) < 0)
		return -1;
	const field_json *vms = fj_get(answer, "vms");
	for (size_t i = 0; i < fj_len(vms); i++)
		if (vm_up(fj_at(vms, i)))
			fj_append(rows, fj_ref(fj_at(vms, i)));
	return 0;
}

static field_json *sample(struct cli *cli, struct fcm_error *err)
{
	field_json *rows = fj_array();

	if ((cli->argc ? sample_named(cli, rows, err) : sample_running(cli, rows, err)) == 0)
		return rows;
	fj_free(rows);
	return NULL;
}

static const field_json *same_run(const field_json *rows, const field_json *vm)
{
	for (size_t i = 0; i < fj_len(rows); i++)
		if (strcmp(fj_get_str(fj_at(rows, i), "id"), fj_get_str(vm, "id")) == 0 &&
			fj_get_int(fj_at(rows, i), "pid", -1) == fj_get_int(vm, "pid", -2))
			return fj_at(rows, i);
	return NULL;
}

/* Add `cpu_percent`: of one CPU, between the two samples; null for a VM that didn't run all the time. */
static void add_percent(field_json *vm, const field_json *before)
{
	const field_json *old = same_run(before, vm);
	int64_t time = fj_get_int(vm, "at_us", -1) - fj_get_int(old, "at_us", 0);
	int64_t used = fj_get_int(vm, "cpu_us", -1) - fj_get_int(old, "cpu_us", 0);
	char text[32];

	fcm_format(text, sizeof text, "%.1f", time > 0 ? (double)used * 100 / (double)time : 0.0);
	fj_set_str(vm, "cpu_percent", old && time > 0 && used >= 0 ? text : NULL);
}

/* ---- the command ---- */

struct samples {
	const struct watch_options *options;
	field_json *before; /* NULL: this is the first */
};

/* The next sample. The first says nothing of CPU, so it is shown only where another soon takes its place. */
static field_json *next_sample(struct cli *cli, void *arg, struct fcm_error *err)
{
	struct samples *s = arg;
	field_json *rows = sample(cli, err);

	if (rows && s->before == NULL && !watch_on_screen(cli, s->options)) {
		s->before = rows;
		watch_wait(cli, s->options);
		rows = sample(cli, err);
	}
	for (size_t i = 0; s->before && i < fj_len(rows); i++)
		add_percent(fj_at(rows, i), s->before);
	fj_free(s->before);
	s->before = rows ? fj_ref(rows) : NULL;
	return rows;
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	struct samples s = {.options = options_};
	int r = watch_table(cli, options_, columns, next_sample, &s, err);

	fj_free(s.before);
	return r;
}

const struct command cmd_stats = {
	.name = "stats",
	.args = "[VM...]",
	.summary = "what VMs use: CPU, memory, disk, network",
	.example = "fcm stats --watch",
	.details = "CPU is of one CPU, between two samples. Columns for -o: name id state cpu rss\n"
		   "pss guest root load read written rx tx up pid threads; or wide for all of them.",
	.max_args = ANY_ARGS,
	.flags = COMMAND_TABLE,
	.options = options,
	.fields = watch_fields,
	.size = sizeof(struct watch_options),
	.defaults = &defaults,
	.run = run,
};
