#include "daemon/oci/manifest.h"

#include <string.h>

#include "common/core/ref.h"
#include "common/field.h"

/* Layers that we unpack. The compression is seen from the bytes. */
static const char *const layer_types[] = {
	"application/vnd.oci.image.layer.v1.tar",
	"application/vnd.oci.image.layer.v1.tar+gzip",
	"application/vnd.oci.image.layer.v1.tar+zstd",
	"application/vnd.docker.image.rootfs.diff.tar",
	"application/vnd.docker.image.rootfs.diff.tar.gzip",
	"application/vnd.docker.image.rootfs.diff.tar.zstd",
};

static int read_descriptor(
	const field_json *v, const char *what, uint64_t max, struct descriptor *ret, struct fcm_error *err)
{
	const char *digest = fj_get_str(v, "digest");
	int64_t size = fj_get_int(v, "size", -1);

	if (digest == NULL || !ref_digest_valid(digest, true))
		return fcm_fail(
			err, FCM_INVALID, "the %s has no good digest (only sha256 is supported)", what);
	if (size < 0)
		return fcm_fail(err, FCM_INVALID, "the %s has no good size", what);
	if ((uint64_t)size > max)
		return fcm_fail(err, FCM_TOO_LARGE, "the %s has %lld bytes, more than %llu", what,
			(long long)size, (unsigned long long)max);
	(void)fcm_copy(ret->digest, sizeof ret->digest, digest + strlen("sha256:"));
	ret->size = (uint64_t)size;
	return 0;
}

static bool is_platform(const field_json *v, const char *platform)
{
	const char *os = fj_get_str(v, "os"), *arch = fj_get_str(v, "architecture");
	auto_free char *have = xprintf("%s/%s", os ? os : "", arch ? arch : "");

	return strcmp(have, platform) == 0;
}

static int choose(const field_json *list, const char *platform, struct descriptor *ret, struct fcm_error *err)
{
	for (size_t i = 0; i < fj_len(list); i++) {
		const field_json *v = fj_at(list, i);
		if (is_platform(fj_get(v, "platform"), platform))
			return read_descriptor(v, "manifest", MANIFEST_BYTES, ret, err) < 0 ? -1 : 1;
	}
	fcm_fail(err, FCM_NO_IMAGE, "the image isn't there for %s", platform);
	return fcm_hint(err, "choose another image or tag");
}

static int check_layer_type(const field_json *v, struct fcm_error *err)
{
	const char *type = fj_get_str(v, "mediaType");

	for (size_t i = 0; type && i < ARRAY_SIZE(layer_types); i++)
		if (strcmp(type, layer_types[i]) == 0)
			return 0;
	return fcm_fail(err, FCM_INVALID, "a layer of the type '%.100s' isn't supported", type ? type : "");
}

static int read_layers(const field_json *list, struct manifest *ret, struct fcm_error *err)
{
	ret->n = fj_len(list);
	if (ret->n == 0)
		return fcm_fail(err, FCM_INVALID, "the manifest has no layers");
	if (ret->n > OCI_LAYERS_MAX)
		return fcm_fail(
			err, FCM_TOO_LARGE, "the image has %zu layers, more than %d", ret->n, OCI_LAYERS_MAX);
	for (size_t i = 0; i < ret->n; i++) {
		const field_json *v = fj_at(list, i);
		if (check_layer_type(v, err) < 0 ||
			read_descriptor(v, "layer", OCI_LAYER_BYTES, &ret->layers[i], err) < 0)
			return -1;
	}
	return 0;
}

int manifest_parse(const char *text, size_t n, const char *platform, struct descriptor *ret_image,
	struct manifest *ret, struct fcm_error *err)
{
	auto_json field_json *v = fj_parse(text, n, err);

	if (v == NULL)
		return fcm_wrap(err, "manifest");
	if (fj_get_int(v, "schemaVersion", 0) != 2) {
		fcm_fail(err, FCM_INVALID, "the manifest isn't of schema 2");
		return fcm_hint(err, "docker's schema 1 is obsolete: push the image again with a newer tool");
	}
	if (fj_get(v, "manifests"))
		return choose(fj_get(v, "manifests"), platform, ret_image, err);
	if (read_descriptor(fj_get(v, "config"), "config", CONFIG_BYTES, &ret->config, err) < 0)
		return -1;
	return read_layers(fj_get(v, "layers"), ret, err);
}

int config_parse(const char *text, size_t n, const char *platform, struct manifest *m, struct fcm_error *err)
{
	auto_json field_json *v = fj_parse(text, n, err);

	if (v == NULL)
		return fcm_wrap(err, "config");
	if (!is_platform(v, platform))
		return fcm_fail(err, FCM_INVALID, "the image isn't one for %s", platform);
	const field_json *ids = fj_get(fj_get(v, "rootfs"), "diff_ids");
	if (fj_len(ids) != m->n)
		return fcm_fail(
			err, FCM_INVALID, "the manifest has %zu layers, the config %zu", m->n, fj_len(ids));
	for (size_t i = 0; i < m->n; i++) {
		const char *id = fj_text(fj_at(ids, i));
		if (!ref_digest_valid(id, true))
			return fcm_fail(err, FCM_INVALID, "a diff_id of the config isn't a sha256");
		(void)fcm_copy(m->diff_ids[i], sizeof m->diff_ids[i], id + strlen("sha256:"));
	}
	return 0;
}

/* ---- archives ---- */

static void add_name(struct strv *names, const char *text)
{
	struct fcm_error ignored;
	struct ref ref;

	if (names->n == MANIFEST_NAMES || ref_parse(text, "name", &ref, &ignored) < 0 || ref.digest[0])
		return;
	if (!strv_has(names, ref_full(&ref).s))
		strv_add(names, ref_full(&ref).s);
}

/* What containerd writes is the whole reference. The other one may be no more than a tag ("latest"), as umoci has it. */
static void add_annotations(const field_json *v, struct strv *names)
{
	const field_json *notes = fj_get(v, "annotations");
	const char *whole = fj_get_str(notes, "io.containerd.image.name");
	const char *name = fj_get_str(notes, "org.opencontainers.image.ref.name");

	if (*whole)
		add_name(names, whole);
	else if (strpbrk(name, "/:"))
		add_name(names, name);
}

static int fail_several(struct fcm_error *err)
{
	fcm_fail(err, FCM_INVALID, "the archive holds several images");
	return fcm_hint(err, "save one at a time: docker save NAME | fcm image import -");
}

int layout_parse(const char *text, size_t n, const char *platform, struct descriptor *ret,
	struct strv *ret_names, struct fcm_error *err)
{
	auto_json field_json *v = fj_parse(text, n, err);
	const field_json *list = fj_get(v, "manifests");
	size_t found = 0;

	if (v == NULL)
		return fcm_wrap(err, "index.json");
	for (size_t i = 0; i < fj_len(list); i++) {
		const field_json *one = fj_at(list, i);
		struct descriptor d;
		if (fj_get(one, "platform") && !is_platform(fj_get(one, "platform"), platform))
			continue;
		if (read_descriptor(one, "manifest", MANIFEST_BYTES, &d, err) < 0)
			return -1;
		if (found++ && strcmp(d.digest, ret->digest) != 0)
			return fail_several(err);
		*ret = d;
		add_annotations(one, ret_names);
	}
	if (found == 0)
		return fcm_fail(err, FCM_NO_IMAGE, "the archive has no image for %s", platform);
	return 0;
}

void docker_archive_done(struct docker_archive *d)
{
	free(STEAL(d->config));
	strv_done(&d->layers);
	strv_done(&d->names);
}

int docker_archive_parse(const char *text, size_t n, struct docker_archive *ret, struct fcm_error *err)
{
	auto_json field_json *v = fj_parse(text, n, err);
	const field_json *one = fj_at(v, 0), *layers = fj_get(one, "Layers"),
			 *names = fj_get(one, "RepoTags");

	*ret = (struct docker_archive){0};
	if (v == NULL)
		return fcm_wrap(err, "manifest.json");
	if (fj_len(v) > 1)
		return fail_several(err);
	if (fj_len(layers) > OCI_LAYERS_MAX)
		return fcm_fail(err, FCM_TOO_LARGE, "the image has %zu layers, more than %d", fj_len(layers),
			OCI_LAYERS_MAX);
	for (size_t i = 0; i < fj_len(layers); i++)
		strv_add(&ret->layers, fj_text(fj_at(layers, i)));
	for (size_t i = 0; i < fj_len(names); i++)
		add_name(&ret->names, fj_text(fj_at(names, i)));
	ret->config = xstrdup(fj_get_str(one, "Config"));
	if (*ret->config == '\0' || ret->layers.n == 0)
		return fcm_fail(err, FCM_INVALID, "manifest.json names no config, or no layers");
	return 0;
}
