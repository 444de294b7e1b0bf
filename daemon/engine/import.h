/*
 * An image that a request brings: fcm-oci reads it (job `import`), fcm-oci makes a file system of its layers (job `merge`), the
 * store of images keeps it. An operation without a VM, which ends when nobody waits for it.
 */
#pragma once

#include "daemon/engine/op.h"

/* Begin one; its bytes go into *ret_fd, a stream socket of the caller's, until that is closed or shut down. It takes no more when
 * the operation knows that they make no image. `name` is what the image shall be called, as its user writes it, instead of what the
 * archive says, or NULL; `config` says how a root file system runs, a JSON object of what "config" of an OCI config has, or NULL. op->image
 * is the image, op->names the whole names that it was given. FCM_INVALID naming either; FCM_UNAVAILABLE when four are in
 * progress. */
int engine_import(
	const char *name, const char *config, struct op **ret, int *ret_fd, struct fcm_error *err) must_check;

/* What imports of images, kernels and snapshots share. Run the table of this one, as an op's `run`, and close op->import.in_fd.
 * FCM_UNAVAILABLE when four of them are in progress. */
int import_run(struct op *op, struct fcm_error *err) must_check;

/* Have fcm-oci (job `unpack`) put what comes into a directory, which is its uid's, and end who sends it. Of `files` each may be there
 * then, and nothing else, with `max` bytes altogether; `of` is what they make: "snapshot". */
int import_unpack(struct op *op, int dir_fd, const char *of, const struct strv *files, int64_t max,
	struct fcm_error *err) must_check;

/* Where its bytes come from: op->import.in_fd, and *ret_fd for who sends them. `of` is what it is of, "an image". */
int import_open(struct op *op, const char *of, int *ret_fd, struct fcm_error *err) must_check;
