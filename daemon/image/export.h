/*
 * An image as a stream that other tools read: a tar that is an OCI image layout (image-layout.md of image-spec 1.1) and a docker
 * archive in one, as docker writes it since 25. Its layers are the plain tars that are kept here, so nothing is unpacked, packed or
 * looked at. Or the file system as it is.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/ref.h"
#include "common/core/util.h"

struct image_export;

/* Begin one; with the whole names that the archive shall have for it. What is open then stays whole, though the image may be removed.
 * `raw`: the file system. FCM_NO_IMAGE; FCM_WRONG_STATE for an image that has no layers. */
int image_export_open(const struct image_id *id, const struct strv *names, bool raw,
	struct image_export **ret, struct fcm_error *err) must_check;

/* Its next bytes, at most n. 0 at the end; -1 with errno. */
ssize_t image_export_read(struct image_export *x, char *p, size_t n);

void image_export_close(struct image_export *x); /* NULL-safe */
