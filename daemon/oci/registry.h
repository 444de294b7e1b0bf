/*
 * A registry over HTTP (distribution-spec 1.1). The only user of libcurl in fcm-oci.
 *
 * Only https, and only to addresses that wire.h allows, but for those that the plan calls insecure. That is seen to at each
 * hop, behind the resolver; credentials go to the registry and to the token server that it names, and with no redirect.
 * Proxies of the environment aren't used.
 */
#pragma once

#include <stdatomic.h>

#include "common/core/ref.h"
#include "daemon/oci/manifest.h"
#include "daemon/oci/oci.h"

struct registry;

/* The one of `ref`, or a `mirror` of it ("https://mirror:5000"), which gets no credentials and is given up sooner; the plan's
 * keys are at the head of pull.h. All three must live as long. A ref without a path is the registry as such. */
int registry_open(const struct oci_job *job, const struct ref *ref, const char *mirror, struct registry **ret,
	struct fcm_error *err) must_check;

/* Another connection to the same, with what it has been authorized to; for another thread. When *left (which must live as long)
 * falls below 0 it ends what it does, with FCM_CANCELLED. NULL without memory. */
struct registry *registry_copy(const struct registry *r, const atomic_llong *left);
void registry_free(struct registry *r); /* NULL-safe */

/* Get "manifests/TAG" or "blobs/sha256:HEX" of the repository, or "", what a registry has at its top: at most `max` bytes, into *ret. FCM_NO_IMAGE, FCM_FORBIDDEN,
 * FCM_TOO_LARGE, FCM_UNAVAILABLE. Tried again with pauses when the registry is ill. */
int registry_get(
	struct registry *r, const char *what, size_t max, struct buf *ret, struct fcm_error *err) must_check;

/* Get a blob into fd, an empty file: d->size bytes, continued where it was cut. Their digest isn't looked at. */
int registry_blob(struct registry *r, const struct descriptor *d, int fd, struct fcm_error *err) must_check;
