/* What image.c and upload.c share: the open store. */
#pragma once

#include <pthread.h>

#include "daemon/image/image.h"

struct image_store {
	char *state_dir;
	int state_fd, images_fd, kernels_fd;
};

/* Set by image_init(). */
extern struct image_store image_store;

int image_dir(bool is_kernel); /* the descriptor of images/ or kernels/ */

/* A name for a temporary directory: no asset begins with a dot. */
struct image_temp {
	char s[32];
};
struct image_temp image_temp_name(void);

/* The link in the state directory for a default kernel or image, and where it leads; NULL for all others. */
const char *image_default_link(const struct asset_name *name, bool is_kernel, const char **ret_target);

/* Facts of a kernel, as image_find() gives those of an image. */
int image_find_kernel(
	const struct asset_name *name, struct image_info *ret, struct fcm_error *err) must_check;

/* image.json: the facts that can't be seen from the file. */
struct image_facts {
	char name[64], tag[32], sha256[65];
	int64_t created, size;
};
char *image_facts_print(const struct image_facts *facts); /* the caller's */
