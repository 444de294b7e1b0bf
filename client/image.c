/*
 * fcm images, fcm image: what VMs are made of. `image build` runs the shipped script, which needs no root and writes a
 * tar, and sends that to the daemon: the daemon opens no path that a request names.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/child.h"
#include "client/command.h"
#include "client/export.h"
#include "client/imageverb.h"
#include "client/import.h"
#include "client/out.h"
#include "client/paths.h"

/* ---- the list ---- */

static void text_name(const field_json *image, struct buf *b)
{
	out_text(b, fj_get_str(image, "name"));
}

static void text_kind(const field_json *image, struct buf *b)
{
	out_text(b, fj_get_str(image, "kind"));
}

static void text_version(const field_json *image, struct buf *b)
{
	out_text(b, fj_get_str(image, "version"));
}

static void text_tag(const field_json *image, struct buf *b)
{
	out_text(b, fj_get_str(image, "tag"));
}

/* The first 12 digits of a digest, as docker shows them. */
static void text_id(const field_json *image, struct buf *b)
{
	const char *digest = fj_get_str(image, "digest"), *colon = strchr(digest, ':');
	auto_free char *id = xprintf("%.12s", colon ? colon + 1 : digest);

	out_text(b, id);
}

static void text_size(const field_json *image, struct buf *b)
{
	out_bytes(b, fj_get_int(image, "size", 0));
}

static void text_on_disk(const field_json *image, struct buf *b)
{
	out_bytes(b, fj_get_int(image, "on_disk", 0));
}

static void text_used_by(const field_json *image, struct buf *b)
{
	buf_printf(b, "%" PRId64, fj_get_int(image, "used_by", 0));
}

static void text_created(const field_json *image, struct buf *b)
{
	out_age(b, fj_get_str(image, "created"));
}

static const struct column columns[] = {
	{"name", "NAME", 0, text_name},
	{"kind", "KIND", 0, text_kind},
	{"tag", "TAG", COLUMN_CUT, text_tag},
	{"version", "VERSION", COLUMN_WIDE, text_version},
	{"id", "ID", COLUMN_SPARE, text_id},
	{"size", "SIZE", COLUMN_RIGHT, text_size},
	{"on_disk", "ON DISK", COLUMN_RIGHT | COLUMN_SPARE, text_on_disk},
	{"used_by", "USED BY", COLUMN_RIGHT | COLUMN_SPARE, text_used_by},
	{"created", "CREATED", COLUMN_SPARE, text_created},
	{0},
};

/* What the other commands take: a name, or the id of what has none. A kernel is no image. */
static void print_names(const field_json *images)
{
	for (size_t i = 0; i < fj_len(images); i++) {
		const field_json *image = fj_at(images, i);
		const char *tag = fj_get_str(image, "tag");
		_cleanup_(buf_done) struct buf b = {0};
		if (strcmp(fj_get_str(image, "kind"), "image") != 0)
			continue;
		bool named = strcmp(fj_get_str(image, "name"), "<none>") != 0;
		(named ? text_name : text_id)(image, &b);
		if (named && *tag && strcmp(tag, "latest") != 0) {
			buf_str(&b, ":");
			out_text(&b, tag);
		}
		printf("%s\n", b.p);
	}
}

static int list(struct cli *cli, struct fcm_error *err)
{
	field_json *answer = NULL;

	if (api_get(cli->api, "/v1/images", &answer, err) < 0)
		return -1;
	const field_json *images = fj_get(answer, "images");
	bool names = cli->globals.quiet && !cli->globals.json;
	int r = names ? 0 : out_list(cli, columns, images, err);
	if (names)
		print_names(images);
	fflush(stdout);
	if (r == 0 && fj_len(images) == 0 && !cli->globals.json)
		out_hint("there is none yet: fcm image build kernel, fcm image build base");
	fj_free(answer);
	return r;
}

static int run_images(struct cli *cli, void *options, struct fcm_error *err)
{
	(void)options;
	return list(cli, err);
}

/* ---- the build ---- */

/* What can be built, the route that takes it, and whether fcm-agent goes into it (into a kernel's initrd). */
static const struct recipe {
	const char *name, *method, *route;
	bool agent;
} recipes[] = {
	{"base", "POST", "/v1/images/import?name=base", false},
	{"debian", "POST", "/v1/images/import?name=debian", false},
	{"tiny", "POST", "/v1/images/import?name=tiny", false},
	{"kernel", "PUT", "/v1/kernels/default", true},
};

static const struct recipe *recipe_of(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(recipes); i++)
		if (strcmp(recipes[i].name, name) == 0)
			return &recipes[i];
	return NULL;
}

bool image_is_ours(const char *name)
{
	const struct recipe *r = recipe_of(name);

	return r && !r->agent;
}

static const struct recipe *find_recipe(const char *name, struct fcm_error *err)
{
	const struct recipe *recipe = recipe_of(name);

	if (recipe)
		return recipe;
	fcm_fail(err, FCM_USAGE, "there is no image '%s' to build", name);
	fcm_hint(err, "fcm image build base, debian, tiny or kernel");
	return NULL;
}

static char *find_script(const char *name, struct fcm_error *err)
{
	auto_free char *shared = xprintf("../share/fcm/images/%s/build", name);
	auto_free char *source = xprintf(FCM_SOURCE_IMAGES "/%s/build", name);
	const char *places[] = {shared, source, NULL};
	char *script = path_find(places);

	if (script == NULL) {
		fcm_fail(err, FCM_HOST, "the script that builds '%s' isn't there", name);
		fcm_hint(err, "is fcm installed whole? it belongs at <prefix>/share/fcm/images/%s/build",
			name);
	}
	return script;
}

static int set_agent(struct fcm_error *err)
{
	static const char *const places[] = {"../libexec/fcm/fcm-agent", "../lib/fcm/fcm-agent", "fcm-agent",
		"../images/agent/fcm-agent", NULL};
	auto_free char *agent = path_find(places);

	if (agent == NULL) {
		fcm_fail(err, FCM_HOST, "fcm-agent, which goes into a kernel's initrd, isn't there");
		return fcm_hint(err, "is fcm installed whole? it belongs at <prefix>/libexec/fcm/fcm-agent");
	}
	setenv("FCM_AGENT", agent, 1);
	return 0;
}

/* With its directory, and what the script writes before it is complete. */
static void remove_tar(const char *tar)
{
	auto_free char *partial = xprintf("%s.partial", tar);
	auto_free char *dir = xprintf("%.*s", (int)(strrchr(tar, '/') - tar), tar);

	unlink(partial);
	unlink(tar);
	rmdir(dir);
}

/* The file loses its name first: whatever ends us while it is sent leaves nothing. */
static int send_tar(struct cli *cli, const struct recipe *recipe, const char *tar, field_json **ret,
	struct fcm_error *err)
{
	auto_close int fd = open(tar, O_RDONLY | O_CLOEXEC);
	auto_free char *doing = xprintf("send %s", recipe->name);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return fcm_fail_errno(err, "open what was built");
	remove_tar(tar);
	if (st.st_size == 0)
		return fcm_fail(err, FCM_HOST, "the build of '%s' made nothing", recipe->name);
	return api_upload(cli->api, recipe->method, recipe->route, fd, (uint64_t)st.st_size, doing, ret, err);
}

static int build_in(struct cli *cli, const struct recipe *recipe, const char *dir, field_json **ret,
	struct fcm_error *err)
{
	auto_free char *script = find_script(recipe->name, err);
	auto_free char *tar = xprintf("%s/%s.tar", dir, recipe->name);

	const char *const argv[] = {script, tar, NULL};

	int r = script == NULL || (recipe->agent && set_agent(err) < 0) ? -1 : child_run(argv, err);
	if (r == 0)
		r = send_tar(cli, recipe, tar, ret, err);
	remove_tar(tar);
	return r;
}

static int build(struct cli *cli, const char *name, struct fcm_error *err)
{
	const struct recipe *recipe = find_recipe(name, err);
	field_json *before = NULL, *image = NULL;

	/* ask the daemon first: minutes of building for one that isn't there would be a pity */
	if (recipe == NULL || api_get(cli->api, "/v1", &before, err) < 0)
		return -1;
	fj_free(before);
	auto_free char *dir = child_directory("fcm-build", err);
	if (dir == NULL || build_in(cli, recipe, dir, &image, err) < 0)
		return -1;
	_cleanup_(buf_done) struct buf size = {0};
	out_bytes(&size, fj_get_int(image, "on_disk", 0));
	out_result(cli, fj_get_str(image, "name"), image, "%s %s, %s on disk", fj_get_str(image, "kind"),
		fj_get_str(image, "tag"), size.p);
	fj_free(image);
	return 0;
}

/* ---- the verbs ---- */

struct image_options {
	bool all, raw;
	struct import_options import;
};

static const struct field image_fields[] = {
	F(struct image_options, all, FIELD_BOOL),
	F(struct image_options, raw, FIELD_BOOL),
	F(struct image_options, import, FIELD_OBJECT, .sub = import_fields),
	FIELD_END,
};

static const struct option_row image_options[] = {
	{"all", 'a', NULL, NULL, "prune: also those that have a name"},
	{"raw", 0, NULL, NULL, "export: the file system, an ext4"},
	{"name", 0, "REF", "import.name", "import: its name, whatever it says itself"},
	{"cmd", 0, "WORD", "import.cmd", "import of a root file system: its command; repeatable"},
	{"entrypoint", 0, "WORD", "import.entrypoint", "likewise: a word before the command's; repeatable"},
	{"env", 'e', "K=V", "import.env", "likewise: its environment; repeatable"},
	{"workdir", 'w', "DIR", "import.workdir", "likewise: where it runs"},
	{"user", 'u', "USER", "import.user", "likewise: who runs it"},
	{0},
};

static int verb_ls(struct cli *cli, const struct image_options *o, struct fcm_error *err)
{
	(void)o;
	return list(cli, err);
}

static int verb_build(struct cli *cli, const struct image_options *o, struct fcm_error *err)
{
	(void)o;
	return build(cli, cli->argv[0], err);
}

static int verb_import(struct cli *cli, const struct image_options *o, struct fcm_error *err)
{
	return image_import(cli, &o->import, cli->argv[0], err);
}

static int verb_rm(struct cli *cli, const struct image_options *o, struct fcm_error *err)
{
	(void)o;
	return image_rm(cli, err);
}

static int verb_tag(struct cli *cli, const struct image_options *o, struct fcm_error *err)
{
	(void)o;
	return image_tag_as(cli, cli->argv[0], cli->argv[1], err);
}

static int verb_prune(struct cli *cli, const struct image_options *o, struct fcm_error *err)
{
	return image_prune_all(cli, o->all, err);
}

static int verb_inspect(struct cli *cli, const struct image_options *o, struct fcm_error *err)
{
	(void)o;
	return image_inspect(cli, cli->argv[0], err);
}

static int verb_history(struct cli *cli, const struct image_options *o, struct fcm_error *err)
{
	(void)o;
	return image_show_history(cli, cli->argv[0], err);
}

/* -o is a file here. */
static int verb_export(struct cli *cli, const struct image_options *o, struct fcm_error *err)
{
	return image_export(cli, cli->argv[0], o->raw, cli->globals.output, err);
}

static const struct verb {
	const char *name, *needs; /* what it says when it gets another number of arguments */
	const char *options;	  /* how the keys of those that it takes begin; "": none */
	int min, max;
	int (*run)(struct cli *cli, const struct image_options *o, struct fcm_error *err);
} verbs[] = {
	{"ls", "takes no argument", "", 0, 0, verb_ls},
	{"build", "needs a name", "", 1, 1, verb_build},
	{"import", "needs a file, a directory or -", "import.", 1, 1, verb_import},
	{"rm", "needs the images", "", 1, ANY_ARGS, verb_rm},
	{"tag", "needs an image and its new name", "", 2, 2, verb_tag},
	{"prune", "takes no argument", "all", 0, 0, verb_prune},
	{"inspect", "needs one image", "", 1, 1, verb_inspect},
	{"history", "needs one image", "", 1, 1, verb_history},
	{"export", "needs one image", "raw", 1, 1, verb_export},
};

static int check_verb(const struct cli *cli, const struct verb *v, struct fcm_error *err)
{
	if (cli->argc < v->min || cli->argc > v->max)
		return fcm_fail(err, FCM_USAGE, "image %s %s", v->name, v->needs);
	for (size_t i = 0; i < cli->given.n; i++)
		if (*v->options == '\0' || strncmp(cli->given.v[i], v->options, strlen(v->options)) != 0)
			return fcm_fail(err, FCM_USAGE, "image %s doesn't take --%s", v->name,
				strrchr(cli->given.v[i], '.') ? strrchr(cli->given.v[i], '.') + 1
							      : cli->given.v[i]);
	return 0;
}

static int run_image(struct cli *cli, void *options, struct fcm_error *err)
{
	const char *name = cli->argv[0];

	cli->argv++;
	cli->argc--;
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		const struct verb *v = &verbs[i];
		if (strcmp(v->name, name) != 0)
			continue;
		return check_verb(cli, v, err) < 0 ? fcm_hint(err, "fcm image --help")
						   : v->run(cli, options, err);
	}
	fcm_fail(err, FCM_USAGE, "there is no 'fcm image %s'", name);
	return fcm_hint(err, "fcm image ls, build, import, export, rm, tag, prune, inspect or history");
}

static int run_rmi(struct cli *cli, void *options, struct fcm_error *err)
{
	(void)options;
	return image_rm(cli, err);
}

const struct command cmd_images = {
	.name = "images",
	.summary = "list images and kernels",
	.example = "fcm images",
	.details = "Columns for -o: name kind tag version id size on_disk used_by created; or wide.",
	.flags = COMMAND_TABLE,
	.run = run_images,
};

const struct command cmd_rmi = {
	.name = "rmi",
	.args = "IMAGE...",
	.summary = "remove images that no VM uses",
	.example = "fcm rmi nginx:1.25",
	.details = "IMAGE is a name, an id, or the first digits of one. Where it has several names,\n"
		   "only this one is removed.",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.run = run_rmi,
};

const struct command cmd_image = {
	.name = "image",
	.args = "ls|build|import|export|rm|tag|prune|inspect|history [IMAGE...]",
	.summary = "list, build, import, export, name and remove images",
	.example = "fcm image build base",
	.details = "ls             list images and kernels, as fcm images does\n"
		   "build NAME     make base, debian, tiny or kernel from Debian packages: runs the\n"
		   "               shipped script here and sends the result to the daemon\n"
		   "import PLACE   take an image from a file or directory, or from stdin (-): an OCI\n"
		   "               layout or archive, docker's (docker save), a root file system as\n"
		   "               tar, an ext4; gzip, zstd, xz and bzip2 are seen. Or, by skopeo,\n"
		   "               from docker-daemon:NAME or containers-storage:NAME\n"
		   "rm IMAGE...    remove images that no VM uses, as fcm rmi does\n"
		   "tag IMAGE NAME give an image one more name\n"
		   "prune          remove the images that have no name and that no VM uses\n"
		   "inspect IMAGE  print all about an image, as JSON\n"
		   "history IMAGE  print the steps that made an image, and its layers\n"
		   "export IMAGE   write an image to stdout or to -o FILE: a tar that docker load,\n"
		   "               podman, skopeo and fcm image import read; or, with --raw, its\n"
		   "               file system\n"
		   "Columns of ls for -o: see fcm images; of history: layer created created_by\n"
		   "size comment.",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.flags = COMMAND_TABLE,
	.options = image_options,
	.fields = image_fields,
	.size = sizeof(struct image_options),
	.run = run_image,
};
