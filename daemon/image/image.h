/*
 * Images and kernels: what a VM is made of, read-only and shared.
 *
 *	<state>/images/<id>/image.ext4 + image.json	an image by its id; the facts that the file doesn't tell
 *	<state>/tags.json				which names mean which image (tags.h)
 *	<state>/kernels/<name>/{vmlinux,initrd,release}
 *
 * They are put together in a temporary directory beside their place (an image: make.h; a kernel: from a tar with exactly
 * those files) and renamed into it: half of one is never visible. An image never changes under its id, so whoever has the id
 * has the same file for ever. Nothing in an image is executed or mounted by the host.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/names.h"
#include "common/core/ref.h"
#include "common/core/util.h"

enum { IMAGES_MAX = 1000 };

struct image_info {
	struct image_id id;  /* of an image; a kernel has none */
	char name[REF_TEXT]; /* as people write it, without the tag; "" of an image without a name */
	char tag[129];	     /* of a kernel: its release */
	char version[32];    /* what its maker calls it, or "" */
	uint64_t size;	     /* apparent bytes */
	uint64_t on_disk;    /* occupied bytes */
	int64_t created;     /* seconds since the epoch */
	bool is_kernel;
};

/* Open the store below `state_dir`. Leftover temporary directories are removed; images of an older fcm, which had a name
 * and no id, get one. */
int image_init(const char *state_dir, struct fcm_error *err) must_check;

/* Open one that is there only to look, for image_resolve() alone: nothing is made or changed. FCM_NOT_FOUND. */
int image_init_looking(const char *state_dir, struct fcm_error *err) must_check;

/* Which image a user means: a reference, where a bare name is first one that was made here and then docker.io's; or an id,
 * or at least 4 digits that only one id begins with, with or without "sha256:". FCM_INVALID naming `image`; FCM_NO_IMAGE
 * with the command that makes one. */
int image_resolve(const char *text, struct image_id *ret, struct fcm_error *err) must_check;

/* The whole name that `text` is of an image. False when it isn't one of its names. */
bool image_name_of(const char *text, const struct image_id *id, struct ref_text *ret);

/* Facts of an image, with the first of its names. FCM_NO_IMAGE. */
int image_find(const struct image_id *id, struct image_info *ret, struct fcm_error *err) must_check;

/* Paths (the caller's strings) of an image's ext4, and of a kernel's vmlinux and initrd. FCM_NO_IMAGE, FCM_NO_KERNEL. */
int image_path(const struct image_id *id, char **ret, struct fcm_error *err) must_check;
int kernel_paths(const struct asset_name *name, char **ret_vmlinux, char **ret_initrd,
	struct fcm_error *err) must_check;

/* All images, a row for each of their names, and all kernels; *ret is the caller's array of *ret_n. */
int image_list(struct image_info **ret, size_t *ret_n, struct fcm_error *err) must_check;

/* The whole name that an image gets when its user calls it so: one without a domain is one of localhost. FCM_INVALID naming `field`. */
int image_whole_name(
	const char *name, const char *field, struct ref_text *ret, struct fcm_error *err) must_check;

/* Give an image one more name, which another one may lose. *ret becomes the whole name. FCM_INVALID naming `tag`. */
int image_tag(
	const struct image_id *id, const char *name, struct ref_text *ret, struct fcm_error *err) must_check;

/* Is an image in use? Asked again when it can't be found any more, and then it comes back. */
typedef bool image_used(void *arg, const struct image_id *id);

/* What removing did. */
struct image_removed {
	struct strv untagged; /* whole names */
	struct strv ids;      /* of images that are gone */
	uint64_t bytes;	      /* that the disk has back */
};
void image_removed_done(struct image_removed *r);

/* Remove what `text` means: only that name where the image has others, else all its names and the image. FCM_WRONG_STATE
 * where it is in use. */
int image_remove(const char *text, image_used *used, void *arg, struct image_removed *ret,
	struct fcm_error *err) must_check;

/* Remove the images that have no name and aren't in use; with `all` those with names, too. */
int image_prune(
	bool all, image_used *used, void *arg, struct image_removed *ret, struct fcm_error *err) must_check;

/* How many there are and are used, the bytes that they occupy, and those of them that nobody uses. */
struct image_space {
	size_t count, active;
	uint64_t bytes, unused;
};
void image_space_add(struct image_space *s, bool active, uint64_t bytes);

/* Of the images' file systems, and of the layers that are kept for them. */
int image_space(image_used *used, void *arg, struct image_space *ret_images, struct image_space *ret_layers,
	struct fcm_error *err) must_check;
