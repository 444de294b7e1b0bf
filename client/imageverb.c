#include "client/imageverb.h"

#include "client/out.h"

/* The path of a route about one image: "/v1/image<rest>?ref=..."; the caller's. */
static char *image_path_of(const char *image, const char *rest)
{
	auto_free char *escaped = httpc_escape(image);

	return xprintf("/v1/image%s?ref=%s", rest, escaped);
}

static void add_size(struct buf *b, const field_json *answer)
{
	int64_t bytes = fj_get_int(answer, "bytes", 0);

	if (bytes) {
		buf_str(b, ", ");
		out_bytes(b, bytes);
	}
}

static int remove_one(struct cli *cli, const char *image, void *options, struct fcm_error *err)
{
	auto_free char *path = image_path_of(image, "");
	_cleanup_(buf_done) struct buf b = {0};
	auto_json field_json *answer = NULL;

	(void)options;
	if (api_change(cli->api, "DELETE", path, NULL, NULL, &answer, err) < 0)
		return -1;
	const field_json *untagged = fj_get(answer, "untagged"), *removed = fj_get(answer, "removed");
	for (size_t i = 0; i < fj_len(untagged); i++)
		buf_printf(&b, "%s%s", i ? ", " : "untagged ", fj_text(fj_at(untagged, i)));
	for (size_t i = 0; i < fj_len(removed); i++)
		buf_printf(&b, "%sremoved %.12s", b.n ? "; " : "", fj_text(fj_at(removed, i)));
	add_size(&b, answer);
	out_result(cli, image, answer, "%s", b.p ? b.p : "");
	return 0;
}

int image_rm(struct cli *cli, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, remove_one, NULL);
}

int image_tag_as(struct cli *cli, const char *image, const char *name, struct fcm_error *err)
{
	auto_json field_json *body = fj_object(), *answer = NULL;

	fj_set_str(body, "image", image);
	fj_set_str(body, "tag", name);
	if (api_change(cli->api, "POST", "/v1/images/tag", body, NULL, &answer, err) < 0)
		return -1;
	out_result(cli, name, answer, "%.12s", fj_get_str(answer, "digest"));
	return 0;
}

int image_prune_all(struct cli *cli, bool all, struct fcm_error *err)
{
	auto_json field_json *body = fj_object(), *answer = NULL;
	_cleanup_(buf_done) struct buf size = {0};

	fj_set_bool(body, "all", all);
	if (api_change(cli->api, "POST", "/v1/images/prune", body, NULL, &answer, err) < 0)
		return -1;
	size_t n = fj_len(fj_get(answer, "removed"));
	auto_free char *what = xprintf("%zu image%s", n, n == 1 ? "" : "s");
	add_size(&size, answer);
	out_result(cli, what, answer, "removed%s", size.p ? size.p : "");
	return 0;
}

int image_inspect(struct cli *cli, const char *image, struct fcm_error *err)
{
	auto_free char *path = image_path_of(image, "");
	auto_json field_json *answer = NULL;

	if (api_get(cli->api, path, &answer, err) < 0)
		return -1;
	auto_free char *text = fj_print(answer, true);
	puts(text);
	return 0;
}

/* ---- history ---- */

static void text_layer(const field_json *step, struct buf *b)
{
	const char *layer = fj_get_str(step, "layer");

	buf_printf(b, "%.12s", *layer ? layer : "-");
}

static void text_created(const field_json *step, struct buf *b)
{
	out_age(b, fj_get_str(step, "created"));
}

/* A command may have several lines. */
static void one_line(const char *s, struct buf *b)
{
	size_t begin = b->n;

	out_text(b, s);
	for (size_t i = begin; i < b->n; i++)
		if (b->p[i] == '\n' || b->p[i] == '\t')
			b->p[i] = ' ';
}

static void text_by(const field_json *step, struct buf *b)
{
	one_line(fj_get_str(step, "created_by"), b);
}

static void text_size(const field_json *step, struct buf *b)
{
	out_bytes(b, fj_get_int(step, "size", 0));
}

static void text_comment(const field_json *step, struct buf *b)
{
	if (*fj_get_str(step, "comment"))
		one_line(fj_get_str(step, "comment"), b);
}

static const struct column history_columns[] = {
	{"layer", "LAYER", COLUMN_SPARE, text_layer},
	{"created", "CREATED", COLUMN_SPARE, text_created},
	{"created_by", "CREATED BY", COLUMN_CUT, text_by},
	{"size", "SIZE", COLUMN_RIGHT, text_size},
	{"comment", "COMMENT", COLUMN_EMPTY | COLUMN_CUT, text_comment},
	{0},
};

int image_show_history(struct cli *cli, const char *image, struct fcm_error *err)
{
	auto_free char *path = image_path_of(image, "/history");
	auto_json field_json *answer = NULL;

	if (api_get(cli->api, path, &answer, err) < 0)
		return -1;
	const field_json *steps = fj_get(answer, "history");
	int r = out_list(cli, history_columns, steps, err);
	fflush(stdout);
	if (r == 0 && fj_len(steps) == 0 && !cli->globals.json)
		out_hint("it has none: it came as a file system");
	return r;
}
