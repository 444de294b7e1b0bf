/*
 * A layer as registries send it becomes a plain tar.
 */
#pragma once

#include <stdatomic.h>

#include "daemon/oci/manifest.h"

/* Read the blob in in_fd from its begin (compressed or a plain tar) and write its tar to out_fd: at most OCI_LAYER_BYTES, which
 * are taken off *left, what all layers of the image may still have; several threads may share it. The blob must be d, what
 * comes out have the sha256 diff_id. FCM_INVALID, FCM_TOO_LARGE. *ret_n: how many bytes. */
int layer_expand(int in_fd, const struct descriptor *d, int out_fd, const char *diff_id, atomic_llong *left,
	uint64_t *ret_n, struct fcm_error *err) must_check;
