/*
 * fcm pull: an image from a registry.
 */
#include "client/pull.h"

#include <stdio.h>
#include <string.h>

#include "client/credentials.h"
#include "client/out.h"
#include "client/report.h"
#include "client/term.h"
#include "common/model.h"

/* ---- how far it is: a line for the whole, and one for each layer ---- */

enum { LAYERS_MAX = 128 };

struct layer {
	char id[16], status[16];
	uint64_t current, total;
};

struct view {
	const char *image;
	bool quiet;
	const char *step; /* what is done, or NULL */
	struct layer layers[LAYERS_MAX];
	size_t n;
};

static struct layer *find_layer(struct view *v, const char *id)
{
	for (size_t i = 0; i < v->n; i++)
		if (strcmp(v->layers[i].id, id) == 0)
			return &v->layers[i];
	if (v->n == LAYERS_MAX)
		return NULL;
	(void)fcm_copy(v->layers[v->n].id, sizeof v->layers[0].id, id);
	return &v->layers[v->n++];
}

static void add_layer(struct buf *b, const struct layer *l)
{
	buf_printf(b, "\n  %-12s  ", l->id);
	if (strcmp(l->status, "downloading") != 0)
		out_text(b, l->status);
	else if (l->current < l->total)
		out_bar(b, l->current, l->total);
	else
		buf_str(b, "unpacking");
}

static bool is_done(const struct layer *l)
{
	return strcmp(l->status, "extracted") == 0 || strcmp(l->status, "exists") == 0;
}

/* Where there isn't room for all, those that are done are left out. */
static void draw(const struct view *v)
{
	_cleanup_(buf_done) struct buf b = {0};
	uint32_t rows = 24, cols;

	if (v->quiet)
		return;
	term_size(STDERR_FILENO, &rows, &cols);
	for (size_t i = 0; i < v->n && v->step == NULL; i++)
		if (v->n + 1 < rows || !is_done(&v->layers[i]))
			add_layer(&b, &v->layers[i]);
	term_progress("pull %s%s%s%s", v->image, v->step ? ": " : "", v->step ? v->step : "", b.n ? b.p : "");
}

/* Where no line can be drawn again a layer is told once, when it is here. */
static void print_layer(const struct view *v, const struct layer *l)
{
	_cleanup_(buf_done) struct buf size = {0};

	if (v->quiet || term_has_progress() || !is_done(l))
		return;
	out_bytes(&size, (int64_t)l->total);
	fprintf(stderr, "%s: %s, %s\n", l->id, l->status, size.p);
}

static void on_layer(struct view *v, const field_json *line)
{
	struct layer *l = find_layer(v, fj_get_str(line, "id"));

	if (l == NULL)
		return;
	(void)fcm_copy(l->status, sizeof l->status, fj_get_str(line, "status"));
	l->current = (uint64_t)MAX(fj_get_int(line, "current", 0), (int64_t)0);
	l->total = (uint64_t)MAX(fj_get_int(line, "total", 0), (int64_t)0);
	v->step = NULL;
	print_layer(v, l);
}

static const struct step_text steps[] = {
	{"wait", "another pull is under way"},
	{"pull", NULL},
	{"merge", "make its file system"},
	{0},
};

static void on_event(void *arg, const field_json *line)
{
	const char *event = fj_get_str(line, "event");
	struct view *v = arg;

	if (strcmp(event, "layer") == 0)
		on_layer(v, line);
	if (strcmp(event, "step") == 0)
		report_step(steps, fj_get_str(line, "step"), &v->step);
	if (strcmp(event, "note") == 0 && !v->quiet)
		report_note("pull", v->image, fj_get_str(line, "message"));
	draw(v);
}

/* ---- the request ---- */

/* Those that the user has for its registry. Without them many images come all the same, so what can't be used is only said. */
static void add_credentials(field_json *body, const char *image)
{
	struct credentials c = {0};
	struct fcm_error err;
	struct ref ref;

	if (ref_parse(image, "image", &ref, &err) < 0)
		return; /* the daemon says why */
	int r = credentials_find(&ref, &c, &err);
	if (r > 0)
		r = credentials_put(&c, body, &err);
	credentials_done(&c);
	if (r < 0) {
		fcm_wrap(&err, "pull %s without credentials", image);
		report(&err);
	}
}

int pull_image(
	struct cli *cli, const char *image, const char *platform, field_json **ret, struct fcm_error *err)
{
	auto_json field_json *body = fj_object();
	auto_free struct view *v = xalloc(sizeof *v);

	fj_set_str(body, "image", image);
	if (platform)
		fj_set_str(body, "platform", platform);
	add_credentials(body, image);
	v->image = image;
	v->quiet = cli->globals.quiet;
	draw(v);
	return api_watch(cli->api, "/v1/images/pull", body, on_event, v, ret, err);
}

/* ---- the command ---- */

struct pull_options {
	char *platform;
};

static const struct field pull_fields[] = {
	F(struct pull_options, platform, FIELD_STR, .max = 63),
	FIELD_END,
};

static const struct option_row options[] = {
	{"platform", 0, "OS/ARCH", NULL, "of the image; VMs are " IMAGE_PLATFORM},
	{0},
};

static int pull_one(struct cli *cli, const char *image, void *options_, struct fcm_error *err)
{
	const struct pull_options *o = options_;
	auto_json field_json *answer = NULL;
	_cleanup_(buf_done) struct buf size = {0};

	if (pull_image(cli, image, o->platform, &answer, err) < 0)
		return -1;
	out_bytes(&size, fj_get_int(answer, "on_disk", 0));
	out_result(cli, fj_get_str(answer, "digest"), answer, "%s", size.p);
	return 0;
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, pull_one, options_);
}

const struct command cmd_pull = {
	.name = "pull",
	.args = "IMAGE...",
	.summary = "get an image from a registry",
	.example = "fcm pull nginx:1.25",
	.details = "IMAGE is a name as docker reads it: nginx, nginx:1.25, ghcr.io/owner/name:tag,\n"
		   "name@sha256:... It prints the image's id. A layer that is here isn't fetched.\n"
		   "Credentials are those of fcm login, docker login and podman login. Registries\n"
		   "without TLS, and mirrors: insecure_registries and registry_mirrors in the\n"
		   "daemon's config.",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.options = options,
	.fields = pull_fields,
	.size = sizeof(struct pull_options),
	.run = run,
};
