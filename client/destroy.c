#include <inttypes.h>

#include "client/command.h"
#include "client/out.h"
#include "client/vmtext.h"

struct destroy_options {
	bool force, dry_run;
};

static const struct field destroy_fields[] = {
	F(struct destroy_options, force, FIELD_BOOL),
	FK("dry-run", struct destroy_options, dry_run, FIELD_BOOL),
	FIELD_END,
};

static const struct option_row options[] = {
	{"force", 'f', NULL, NULL, "don't ask the guest; no error when it isn't there"},
	{"dry-run", 0, NULL, NULL, "print what would be done, and do nothing"},
	{0},
};

/* "removed vm, tap_8i5agfx2, 4 nft elements, 1 site, 312 MB; left: nothing" */
static void receipt(const field_json *answer, struct buf *b)
{
	const field_json *removed = fj_get(answer, "removed"), *left = fj_get(answer, "left");
	int64_t elements = fj_get_int(removed, "nft_elements", 0), sites = fj_get_int(removed, "sites", 0);

	buf_str(b, "removed vm");
	if (*fj_get_str(removed, "tap"))
		buf_printf(b, ", %s", fj_get_str(removed, "tap"));
	if (elements)
		buf_printf(b, ", %" PRId64 " nft element%s", elements, elements == 1 ? "" : "s");
	if (sites)
		buf_printf(b, ", %" PRId64 " site%s", sites, sites == 1 ? "" : "s");
	buf_str(b, ", ");
	out_bytes(b, fj_get_int(removed, "bytes", 0));
	buf_str(b, "; left: ");
	for (size_t i = 0; i < fj_len(left); i++)
		buf_printf(b, "%s%s", i ? ", " : "", fj_text(fj_at(left, i)));
	if (fj_len(left) == 0)
		buf_str(b, "nothing");
}

static void print_destroyed(const struct cli *cli, const field_json *answer, bool dry_run)
{
	const field_json *plan = fj_get(answer, "plan");
	_cleanup_(buf_done) struct buf b = {0};

	if (dry_run && !cli->globals.json) {
		for (size_t i = 0; i < fj_len(plan); i++)
			printf("%s\n", fj_text(fj_at(plan, i)));
		return;
	}
	receipt(answer, &b);
	out_result(cli, fj_get_str(answer, "name"), answer, "%s", b.p);
}

static int destroy_one(struct cli *cli, const char *name, void *options_, struct fcm_error *err)
{
	const struct destroy_options *o = options_;
	const char *query = o->dry_run ? o->force ? "?force=1&dry_run=1" : "?dry_run=1"
			    : o->force ? "?force=1"
				       : "";
	auto_free char *path = api_vm_path(name, query), *doing = xprintf("destroy %s", name);
	field_json *answer = NULL;

	if (api_change(cli->api, "DELETE", path, NULL, o->dry_run ? NULL : doing, &answer, err) < 0) {
		if (o->force && err->code == FCM_NOT_FOUND)
			return 0;
		return vm_failed(err, "destroy", name);
	}
	print_destroyed(cli, answer, o->dry_run);
	fj_free(answer);
	return 0;
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, destroy_one, options_);
}

const struct command cmd_destroy = {
	.name = "destroy",
	.aliases = "rm",
	.args = "VM...",
	.summary = "stop VMs and remove all that is theirs",
	.example = "fcm destroy web",
	.details = "It doesn't ask. Names and ids must be whole.",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.options = options,
	.fields = destroy_fields,
	.size = sizeof(struct destroy_options),
	.run = run,
};
