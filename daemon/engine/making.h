/*
 * An image in the making: the jobs of fcm-oci (daemon/oci) work on what the store of images keeps for them (daemon/image/make.h).
 * The daemon itself reads no byte of a layer. The steps `making`, `merge` and `keep` are here; what stands between the first two brings
 * the layers of op->making, and its id.
 */
#pragma once

#include "daemon/engine/op.h"
#include "daemon/image/make.h"
#include "daemon/oci/job.h"

/* Whom the jobs become: nobody who has a VM. */
uid_t making_uid(void);

/* Run a job for an operation without a VM; `spec` says what is the job's own. As oci_run_job(), but that it ends when the operation
 * is given up, and when it takes the room that is left for running VMs (FCM_NO_SPACE). What it says goes on as progress. */
int making_run(struct op *op, struct oci_spec spec, struct buf *ret, struct fcm_error *err) must_check;

/* Report how far a layer is, as an oci_spec's `progress`. */
void making_tell_layer(void *arg, const char *what, const char *id, uint64_t current, uint64_t total);

/* Take over what a job says that it made: the layers (into m->layers and the store), and the image's id. */
int making_take(const struct buf *answer, struct image_making *m, struct fcm_error *err) must_check;
