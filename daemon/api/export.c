/*
 * What an image is made of: its history, and all of it as a stream.
 */
#include "daemon/image/export.h"
#include "common/core/log.h"
#include "daemon/api/api.h"
#include "daemon/image/history.h"
#include "daemon/image/tags.h"

static field_json *step_json(const struct image_step *s)
{
	field_json *o = fj_object();

	fj_set_str(o, "created", s->created[0] ? s->created : NULL);
	fj_set_str(o, "created_by", s->by);
	fj_set_str(o, "comment", s->comment);
	fj_set_str(o, "layer", s->layer[0] ? s->layer : NULL);
	fj_set_int(o, "size", (int64_t)s->size);
	return o;
}

int api_image_history(struct request *rq, struct fcm_error *err)
{
	auto_free struct image_step *steps = NULL;
	struct image_id id;
	size_t n;

	if (api_image_of(rq, &id, err) < 0 || image_history(&id, &steps, &n, err) < 0)
		return -1;
	field_json *o = fj_object(), *list = fj_array();
	for (size_t i = 0; i < n; i++)
		fj_append(list, step_json(&steps[i]));
	fj_set(o, "history", list);
	return http_reply(rq, 200, o);
}

/* ---- export ---- */

static ssize_t more(void *arg, char *p, size_t max)
{
	struct fcm_error err;
	ssize_t n = image_export_read(arg, p, max);

	if (n < 0) {
		fcm_fail_errno(&err, "read an image that is exported");
		log_error(LOG_LEVEL_ERROR, NULL, &err);
	}
	return n;
}

static void done(void *arg)
{
	image_export_close(arg);
}

/* The name that was asked for; all of them where it was asked for by its id. */
static void names_of(const char *ref, const struct image_id *id, struct strv *ret)
{
	struct ref_text name;
	struct strv all = {0};

	if (image_name_of(ref, id, &name)) {
		strv_add(ret, name.s);
		return;
	}
	tags_list(id, &all);
	for (size_t i = 0; i < all.n; i++)
		strv_add(ret, tag_of(all.v[i]).name.s);
	strv_done(&all);
}

int api_image_export(struct request *rq, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv names = {0};
	bool raw = api_flag(rq, "raw");
	struct image_export *x;
	struct image_id id;

	if (api_image_of(rq, &id, err) < 0)
		return -1;
	names_of(http_query(rq, "ref"), &id, &names);
	if (image_export_open(&id, &names, raw, &x, err) < 0)
		return -1;
	return http_reply_stream(rq, raw ? "application/octet-stream" : "application/x-tar", more, done, x);
}
