/*
 * An image from a registry: fcm-oci gets it (job `pull`), fcm-oci makes a file system of its layers (job `merge`), the store of
 * images keeps it. Both operations are without a VM and end when nobody waits for
 * them (FCM_CANCELLED); user and password are kept nowhere.
 */
#pragma once

#include "daemon/engine/op.h"

/* Get it, whatever is here; op->image is what its name means then. One comes at a time: a second pull waits, and then asks the
 * registry, which has no layer left to send where it is the same image. Its progress is docs/API.md's. *rq is taken over.
 * FCM_INVALID for field "image"; the errors of the jobs. */
int engine_pull(struct image_pull *rq, struct op **ret, struct fcm_error *err) must_check;

/* Does the registry rq->image take these credentials? *rq is taken over. FCM_FORBIDDEN: no. */
struct op *engine_check_registry(struct image_pull *rq);
