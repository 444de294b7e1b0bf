/*
 * The names of images: <state>/tags.json, {"schema":1,"tags":{"localhost/base:latest":"<id>",...}}. In memory it is a list
 * of "NAME=ID", replaced as a whole when it has reached the disk. Safe from any thread.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/ref.h"
#include "common/core/util.h"

enum { TAGS_MAX = 4000 };

/* Read them from the open state directory; none is fine. FCM_CONFIG when the file is broken. */
int tags_load(int state_fd, struct fcm_error *err) must_check;

/* What a whole name (ref_full) means. False when nothing. */
bool tags_get(const char *name, struct image_id *ret);

/* All of them, as "NAME=ID", in alphabetical order; the caller's. `id`: only those of that image, or NULL. */
void tags_list(const struct image_id *id, struct strv *ret);

/* Make or move one. FCM_INSUFFICIENT where there are too many. */
int tags_set(const char *name, const struct image_id *id, struct fcm_error *err) must_check;

/* Remove one that still means this image; it is fine when it doesn't. */
int tags_remove(const char *name, const struct image_id *id, struct fcm_error *err) must_check;

/* The parts of "NAME=ID". */
struct tag {
	struct ref_text name;
	struct image_id id;
};
struct tag tag_of(const char *entry);
