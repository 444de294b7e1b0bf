/* What the files of the store share. */
#pragma once

#include "daemon/image/image.h"

struct image_store {
	char *state_dir;
	int state_fd, images_fd, kernels_fd, layers_fd;
};

/* Set by image_init(). */
extern struct image_store image_store;

int image_dir(bool is_kernel); /* the descriptor of images/ or kernels/ */

/* A name for a temporary directory: no asset begins with a dot. */
struct image_temp {
	char s[32];
};
struct image_temp image_temp_name(void);

/* Make that directory, root's alone, and in it `job`, which is `uid`'s: no other job of that uid gets at it. Their descriptors are the
 * caller's, also when it fails: -1, or open. */
int image_job_dirs(bool is_kernel, const struct image_temp *temp, const char *job, uid_t uid, int *ret_fd,
	int *ret_job_fd, struct fcm_error *err) must_check;

/* Let the names that the first fcm used, base-rootfs.img and vmlinux.bin in the state directory, lead to what is there. A
 * file that somebody put there stays. */
int image_link_default(struct fcm_error *err) must_check;

/* Facts of a kernel, as image_find() gives those of an image. */
int image_find_kernel(
	const struct asset_name *name, struct image_info *ret, struct fcm_error *err) must_check;

/* What an open directory of the store holds, but for what begins with a dot; and only the ids of images. In order. */
int image_entries(int dirfd, struct strv *ret, struct fcm_error *err) must_check;
int image_ids(struct strv *ret, struct fcm_error *err) must_check;

/* Is there room for one more? FCM_INSUFFICIENT. */
int image_has_place(struct fcm_error *err) must_check;

/* Is its file system there? */
bool image_there(const struct image_id *id);

/* image.json: the facts that can't be seen from the file. */
struct image_facts {
	char tag[32];	 /* its maker's version */
	char sha256[65]; /* of image.ext4, where an older fcm wrote it */
	int64_t created, size;
	struct strv layers; /* diff_ids of an OCI image; to be freed */
};
char *image_facts_print(const struct image_facts *facts); /* the caller's */

/* Those of a directory below images/. A broken image.json costs the facts, not the image. */
void image_read_facts(const char *dir, struct image_facts *ret);

/* The layers alone, for who decides by them: where they can't be known it fails. One without an image.json has none. */
int image_read_layers(const char *dir, struct strv *ret, struct fcm_error *err) must_check;

/* Bring the images of an older fcm into today's layout. */
int image_migrate(struct fcm_error *err) must_check;
