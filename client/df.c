/*
 * fcm system df: what takes room on the daemon's disk, and what of it could be had back.
 */
#include <inttypes.h>
#include <string.h>

#include "client/command.h"
#include "client/out.h"

static void text_type(const field_json *row, struct buf *b)
{
	out_text(b, fj_get_str(row, "type"));
}

static void text_count(const field_json *row, struct buf *b)
{
	buf_printf(b, "%" PRId64, fj_get_int(row, "count", 0));
}

static void text_active(const field_json *row, struct buf *b)
{
	buf_printf(b, "%" PRId64, fj_get_int(row, "active", 0));
}

static void text_size(const field_json *row, struct buf *b)
{
	out_bytes(b, fj_get_int(row, "size", 0));
}

static void text_reclaimable(const field_json *row, struct buf *b)
{
	int64_t size = fj_get_int(row, "size", 0), unused = fj_get_int(row, "reclaimable", 0);

	out_bytes(b, unused);
	if (size > 0)
		buf_printf(b, " (%" PRId64 "%%)", (int64_t)((double)unused * 100 / (double)size));
}

static const struct column columns[] = {
	{"type", "TYPE", 0, text_type},
	{"count", "COUNT", COLUMN_RIGHT, text_count},
	{"active", "ACTIVE", COLUMN_RIGHT, text_active},
	{"size", "SIZE", COLUMN_RIGHT, text_size},
	{"reclaimable", "RECLAIMABLE", COLUMN_RIGHT, text_reclaimable},
	{0},
};

static int df(struct cli *cli, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf free_bytes = {0};
	auto_json field_json *answer = NULL;

	if (api_get(cli->api, "/v1/system/df", &answer, err) < 0)
		return -1;
	if (cli->globals.json) {
		out_json(answer);
		return 0;
	}
	int r = out_list(cli, columns, fj_get(answer, "df"), err);
	fflush(stdout);
	out_bytes(&free_bytes, fj_get_int(answer, "free", 0));
	if (r == 0 && !cli->globals.quiet)
		out_hint("%s are free; had back by fcm image prune -a, fcm volume prune -a, fcm snapshot rm, "
			 "fcm destroy",
			free_bytes.p);
	return r;
}

static int run(struct cli *cli, void *options, struct fcm_error *err)
{
	(void)options;
	if (strcmp(cli->argv[0], "df") == 0)
		return df(cli, err);
	fcm_fail(err, FCM_USAGE, "there is no 'fcm system %s'", cli->argv[0]);
	return fcm_hint(err, "fcm system df");
}

const struct command cmd_system = {
	.name = "system",
	.args = "df",
	.summary = "what takes room on the daemon's disk",
	.example = "fcm system df",
	.details = "df  images (their file systems), the layers that are kept for them, the disks of\n"
		   "    VMs, volumes, snapshots: how many, how many of them are used (VMs that have\n"
		   "    a VMM or their memory on the disk, images that a VM has), bytes on the\n"
		   "    disk, and how many of these are of what isn't used.\n"
		   "Columns for -o: type count active size reclaimable.",
	.min_args = 1,
	.max_args = 1,
	.flags = COMMAND_TABLE,
	.run = run,
};
