/*
 * What a registry or an archive says of an image: index, manifest and config of OCI (image-spec 1.1) and of docker (schema 2;
 * manifest.json of docker save). Pure; each text is at most as long as its limit here.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"
#include "daemon/oci/oci.h"

enum { MANIFEST_BYTES = 4 << 20, CONFIG_BYTES = 8 << 20, MANIFEST_NAMES = 32 };

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

/* Read the index.json of an OCI layout, which must have one image that may be of `platform`: *ret is its manifest, or an index
 * again. *ret_names gets the whole references that it is known by, at most MANIFEST_NAMES; what names only a tag is left out.
 * FCM_INVALID, FCM_NO_IMAGE. */
int layout_parse(const char *text, size_t n, const char *platform, struct descriptor *ret,
	struct strv *ret_names, struct fcm_error *err) must_check;

/* What the manifest.json of a docker archive says of its image: names of members (members.h), lowest layer first, and references. */
struct docker_archive {
	char *config;
	struct strv layers, names; /* 1 to OCI_LAYERS_MAX; at most MANIFEST_NAMES */
};

/* Read one. It must have one image. FCM_INVALID, FCM_TOO_LARGE. To be freed in any case. */
int docker_archive_parse(
	const char *text, size_t n, struct docker_archive *ret, struct fcm_error *err) must_check;
void docker_archive_done(struct docker_archive *d);
