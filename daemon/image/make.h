/*
 * An image that is made here from what a registry gave, or an archive: a directory beside the images, which becomes one of them whole or goes.
 *
 *	<state>/images/.<random>/{image.ext4,image.json,config.json}	root's, and closed to all others until it is an image
 *	<state>/images/.<random>/job/					the job's (daemon/oci), given up before the image is
 *	<state>/layers/<diff_id>.tar					layers, kept while an image has them
 */
#pragma once

#include "daemon/image/image.h"
#include "daemon/image/store.h"

struct image_making {
	bool begun;		/* else the rest says nothing */
	struct image_temp temp; /* the directory's name; "" once it is an image */
	int dir_fd, job_fd, out_fd;
	struct strv layers; /* diff_ids */
	struct image_id id; /* what it shall be */
};

/* Begin one; `uid` gets the job's directory. */
int image_make_begin(uid_t uid, struct image_making *ret, struct fcm_error *err) must_check;

/* The directory of layers: borrowed. */
int image_layers_fd(void);

/* Bytes of a layer. FCM_HOST when it isn't there. */
int image_layer_size(const char *diff_id, uint64_t *ret, struct fcm_error *err) must_check;

/* Take the job's <diff_id>.tar of each of m->layers into the directory of layers, but for those that are there. */
int image_make_layers(struct image_making *m, struct fcm_error *err) must_check;

/* Make it visible under m->id, with these whole names (ref_full). Its config.json must have that sha256, and be one that can be run
 * here; one without layers has none, for its file system came as it is. FCM_INVALID. */
int image_make_commit(struct image_making *m, const struct strv *names, struct image_info *ret,
	struct fcm_error *err) must_check;

/* Remove what isn't an image; for the end in any case. Nothing is done for one that wasn't begun, or has ended. */
void image_make_done(struct image_making *m);

/* Remove the layers that no image has. */
int image_layers_sweep(struct fcm_error *err) must_check;
