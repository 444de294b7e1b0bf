#include "daemon/image/history.h"

#include <string.h>

#include "common/field.h"
#include "daemon/image/config.h"
#include "daemon/image/make.h"
#include "daemon/image/store.h"

static void set_text(char *dst, size_t size, const char *text)
{
	(void)fcm_copy(dst, size, text);
	fcm_make_printable(dst);
}

/* Steps and layers are both told from the lowest on; `empty_layer` is a step that made none (image-spec, config.md). */
int history_parse(const char *text, size_t n, const struct strv *layers, struct image_step **ret,
	size_t *ret_n, struct fcm_error *err)
{
	auto_json field_json *config = fj_parse(text, n, err);
	const field_json *list = fj_get(config, "history");
	size_t steps = MIN(fj_len(list), (size_t)HISTORY_STEPS), layer = 0, at = steps + layers->n;

	if (config == NULL)
		return fcm_wrap(err, "the image's config");
	struct image_step *all = xalloc((steps + layers->n + 1) * sizeof *all);
	for (size_t i = 0; i < steps; i++) {
		const field_json *one = fj_at(list, i);
		struct image_step *s = &all[--at];
		set_text(s->created, sizeof s->created, fj_get_str(one, "created"));
		set_text(s->by, sizeof s->by, fj_get_str(one, "created_by"));
		set_text(s->comment, sizeof s->comment, fj_get_str(one, "comment"));
		if (!fj_get_bool(one, "empty_layer") && layer < layers->n)
			(void)fcm_copy(s->layer, sizeof s->layer, layers->v[layer++]);
	}
	while (layer < layers->n) {
		struct image_step *s = &all[--at];
		(void)fcm_copy(s->layer, sizeof s->layer, layers->v[layer++]);
	}
	*ret_n = steps + layers->n - at;
	memmove(all, all + at, *ret_n * sizeof *all);
	*ret = all;
	return 0;
}

int image_history(const struct image_id *id, struct image_step **ret, size_t *ret_n, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct image_facts facts;

	*ret = NULL;
	*ret_n = 0;
	if (image_config_text(id, &text, err) < 0)
		return err->code == FCM_NOT_FOUND ? 0 : -1;
	image_read_facts(id->s, &facts);
	int r = history_parse(text.p, text.n, &facts.layers, ret, ret_n, err);
	strv_done(&facts.layers);
	for (size_t i = 0; i < *ret_n && r == 0; i++)
		if ((*ret)[i].layer[0])
			r = image_layer_size((*ret)[i].layer, &(*ret)[i].size, err);
	return r;
}
