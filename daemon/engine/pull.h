/*
 * An image from a registry: fcm-oci gets it (job `pull`), fcm-oci makes a file system of its layers (job `merge`), the store of
 * images keeps it. The daemon itself reads no byte of a layer.
 */
#pragma once

#include "common/model.h"
#include "daemon/image/image.h"

/* Asked several times a second. */
struct pull_watch {
	bool (*cancelled)(void *arg);
	void *arg;
};

/* Get it, whatever is here; its user and password are kept nowhere; *ret is what its name means then. Two of one reference at a time: the second waits for the first and
 * then asks the registry, which has no layer left to send. On the caller's thread, minutes. FCM_INVALID for field "image"; the
 * errors of the jobs; FCM_CANCELLED. */
int engine_pull(const struct image_pull *rq, const struct pull_watch *watch, struct image_info *ret,
	struct fcm_error *err) must_check;
