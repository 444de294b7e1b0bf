/*
 * How an image came to be, as its config tells, and what its layers take. Strangers write it: texts are cut.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/ref.h"
#include "common/core/util.h"

enum { HISTORY_STEPS = 1000, HISTORY_TEXT = 2000 };

struct image_step {
	char created[40]; /* as it stands there, or "" */
	char by[HISTORY_TEXT], comment[256];
	char layer[65]; /* diff_id, or "": it made none */
	uint64_t size;	/* of that, in bytes */
};

/* The steps of an image, the last first: *ret is the caller's array of *ret_n. Layers that its history doesn't tell of come at
 * last. An image without a config has none. */
int image_history(
	const struct image_id *id, struct image_step **ret, size_t *ret_n, struct fcm_error *err) must_check;

/* The same of a config's text and the layers of its image. Pure but for the layers' sizes, which aren't filled in. */
int history_parse(const char *text, size_t n, const struct strv *layers, struct image_step **ret,
	size_t *ret_n, struct fcm_error *err) must_check;
