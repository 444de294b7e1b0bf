/*
 * What a registry says of an image: index, manifest and config of OCI (image-spec 1.1) and of docker (schema 2). Pure; each
 * text is at most as long as its limit here.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"
#include "daemon/oci/oci.h"

enum { MANIFEST_BYTES = 4 << 20, CONFIG_BYTES = 8 << 20 };

struct descriptor {
	char digest[65]; /* 64 hex digits of a sha256 */
	uint64_t size;
};

struct manifest {
	struct descriptor config, layers[OCI_LAYERS_MAX];
	char diff_ids[OCI_LAYERS_MAX][65]; /* of config_parse() */
	size_t n;
};

/* Read an index or a manifest: 1 with *ret_image the manifest of `platform` ("linux/amd64") in an index; 0 with *ret. FCM_INVALID,
 * FCM_TOO_LARGE, FCM_NO_IMAGE without that platform. */
int manifest_parse(const char *text, size_t n, const char *platform, struct descriptor *ret_image,
	struct manifest *ret, struct fcm_error *err) must_check;

/* Read an image's config: it must be of `platform` and have as many diff_ids as m has layers; they are put into m. */
int config_parse(const char *text, size_t n, const char *platform, struct manifest *m,
	struct fcm_error *err) must_check;
