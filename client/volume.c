/*
 * fcm volume: disks that outlive the VMs that have them.
 */
#include <inttypes.h>

#include "client/out.h"
#include "client/verb.h"
#include "common/core/clock.h"
#include "common/model.h"

struct volume_options {
	uint32_t size_mib;
	bool force, all;
};

static const struct field volume_fields[] = {
	FK("size", struct volume_options, size_mib, FIELD_MIB, .min = VM_MIN_DISK_MIB,
		.max = VM_MAX_DISK_MIB),
	F(struct volume_options, force, FIELD_BOOL),
	F(struct volume_options, all, FIELD_BOOL),
	FIELD_END,
};

static const struct option_row options[] = {
	{"size", 's', "SIZE", NULL, "create: MiB, or with k, m, g, t; sparse (default 8g)"},
	{"force", 'f', NULL, NULL, "rm: no error when it isn't there"},
	{"all", 'a', NULL, NULL, "prune: those with a name, too"},
	{0},
};

static char *path_of(const char *name)
{
	auto_free char *escaped = httpc_escape(name);

	return xprintf("/v1/volumes/%s", escaped);
}

/* ---- the list ---- */

static void text_name(const field_json *volume, struct buf *b)
{
	out_text(b, fj_get_str(volume, "name"));
}

static void text_size(const field_json *volume, struct buf *b)
{
	out_mib(b, fj_get_int(volume, "size", 0));
}

static void text_on_disk(const field_json *volume, struct buf *b)
{
	out_bytes(b, fj_get_int(volume, "on_disk", 0));
}

static void text_used_by(const field_json *volume, struct buf *b)
{
	const field_json *users = fj_get(volume, "used_by");

	for (size_t i = 0; i < fj_len(users); i++)
		buf_printf(b, "%s%s", i ? "," : "", fj_text(fj_at(users, i)));
	if (fj_len(users) == 0)
		buf_str(b, "-");
}

static void text_created(const field_json *volume, struct buf *b)
{
	out_age(b, fj_get_str(volume, "created"));
}

static const struct column columns[] = {
	{"name", "NAME", 0, text_name},
	{"size", "SIZE", COLUMN_RIGHT, text_size},
	{"on_disk", "ON DISK", COLUMN_RIGHT | COLUMN_SPARE, text_on_disk},
	{"used_by", "USED BY", COLUMN_CUT, text_used_by},
	{"created", "CREATED", COLUMN_SPARE, text_created},
	{0},
};

static int list(struct cli *cli, void *options_, struct fcm_error *err)
{
	auto_json field_json *answer = NULL;

	(void)options_;
	if (api_get(cli->api, "/v1/volumes", &answer, err) < 0)
		return -1;
	const field_json *volumes = fj_get(answer, "volumes");
	int r = out_list(cli, columns, volumes, err);
	fflush(stdout);
	if (r == 0 && fj_len(volumes) == 0 && !cli->globals.json)
		out_hint("there is none yet: fcm volume create, or fcm create -v NAME:/PATH");
	return r;
}

/* ---- the others ---- */

static int create_one(struct cli *cli, const char *name, void *options_, struct fcm_error *err)
{
	const struct volume_options *o = options_;
	auto_json field_json *body = fj_object(), *answer = NULL;

	if (name)
		fj_set_str(body, "name", name);
	if (o->size_mib)
		fj_set_int(body, "size", o->size_mib);
	if (api_change(cli->api, "POST", "/v1/volumes", body, NULL, &answer, err) < 0)
		return -1;
	out_result(cli, fj_get_str(answer, "name"), answer, "%" PRId64 " MiB", fj_get_int(answer, "size", 0));
	return 0;
}

static int create(struct cli *cli, void *options_, struct fcm_error *err)
{
	return cli->argc ? each_argument(cli, create_one, options_) : create_one(cli, NULL, options_, err);
}

static int inspect_one(struct cli *cli, const char *name, void *options_, struct fcm_error *err)
{
	auto_free char *path = path_of(name);
	auto_json field_json *volume = NULL;

	(void)options_;
	if (api_get(cli->api, path, &volume, err) < 0)
		return -1;
	if (cli->globals.quiet)
		printf("%s\n", fj_get_str(volume, "name"));
	else
		out_json(volume);
	return 0;
}

static int inspect(struct cli *cli, void *options_, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, inspect_one, options_);
}

static int remove_one(struct cli *cli, const char *name, void *options_, struct fcm_error *err)
{
	const struct volume_options *o = options_;
	auto_free char *path = path_of(name);
	auto_json field_json *answer = NULL;
	_cleanup_(buf_done) struct buf size = {0};

	if (api_change(cli->api, "DELETE", path, NULL, NULL, &answer, err) < 0)
		return o->force && err->code == FCM_NOT_FOUND ? 0 : -1;
	out_bytes(&size, fj_get_int(answer, "bytes", 0));
	out_result(cli, fj_get_str(answer, "name"), answer, "removed, %s", size.p);
	return 0;
}

static int rm(struct cli *cli, void *options_, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, remove_one, options_);
}

/* Those that no VM has. Somebody may be faster: what has a user by then is refused and stays. */
static int prune(struct cli *cli, void *options_, struct fcm_error *err)
{
	struct volume_options *o = options_;
	auto_json field_json *answer = NULL;

	if (api_get(cli->api, "/v1/volumes", &answer, err) < 0)
		return -1;
	const field_json *volumes = fj_get(answer, "volumes");
	o->force = true;
	for (size_t i = 0; i < fj_len(volumes); i++) {
		const field_json *v = fj_at(volumes, i);
		if (fj_len(fj_get(v, "used_by")) || (*fj_get_str(v, "vm") == '\0' && !o->all))
			continue;
		if (remove_one(cli, fj_get_str(v, "name"), o, err) < 0 && err->code != FCM_WRONG_STATE)
			return -1;
	}
	return 0;
}

static const struct verb verbs[] = {
	{"create", NULL, "size", "takes names", 0, ANY_ARGS, create},
	{"ls", "list", NULL, "takes no name", 0, 0, list},
	{"inspect", NULL, NULL, "needs a name", 1, ANY_ARGS, inspect},
	{"rm", "remove", "force", "needs a name", 1, ANY_ARGS, rm},
	{"prune", NULL, "all", "takes no name", 0, 0, prune},
	{0},
};

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	return verb_run(cli, verbs, options_, err);
}

const struct command cmd_volume = {
	.name = "volume",
	.args = "create|ls|inspect|rm|prune [VOLUME...]",
	.summary = "disks that outlive the VMs that have them",
	.example = "fcm volume create --size 20g data",
	.details = "  fcm volume create --size 20g data\n"
		   "  fcm create -v data:/srv -v /cache    data, and one that goes with the VM\n"
		   "One VM may write a volume at a time, or several read it (data:/srv:ro). It is\n"
		   "an ext4 of its own in each guest. rm refuses one that a VM has; prune removes\n"
		   "what VMs left without a name, with --all every one that no VM has.\n"
		   "Columns for -o: name size on_disk used_by created; or wide.",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.flags = COMMAND_TABLE,
	.options = options,
	.fields = volume_fields,
	.size = sizeof(struct volume_options),
	.run = run,
};
