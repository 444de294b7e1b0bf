#include "daemon/oci/import.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "common/core/kv.h"
#include "common/core/ref.h"
#include "common/core/sparse.h"
#include "common/field.h"
#include "daemon/oci/expand.h"
#include "daemon/oci/manifest.h"
#include "daemon/oci/members.h"
#include "daemon/oci/place.h"
#include "daemon/oci/probe.h"
#include "daemon/oci/source.h"

#define STREAM "stream"
#define BLOB "blob"

/* ---- the stream becomes a file ---- */

struct spool {
	int fd;
	uint64_t n, max;
	EVP_MD_CTX *hash;
};

static int add(struct spool *s, const char *p, size_t n, struct fcm_error *err)
{
	if (n > s->max - s->n)
		return fcm_fail(err, FCM_TOO_LARGE, "what comes is larger than %llu GiB",
			(unsigned long long)(s->max >> 30));
	EVP_DigestUpdate(s->hash, p, n);
	if (sparse_write(s->fd, p, n, (off_t)s->n) < 0)
		return fcm_fail_errno(err, "write what comes");
	s->n += n;
	return 0;
}

static void tell(void *arg, uint64_t done)
{
	(void)arg;
	oci_progress("reading", "archive", done, 0);
}

static int open_spool(enum probe_kind kind, struct spool *s, struct fcm_error *err)
{
	s->max = kind == PROBE_EXT4 ? OCI_LAYER_BYTES : OCI_IMAGE_BYTES;
	if (kind != PROBE_OTHER) {
		s->fd = kind == PROBE_EXT4 ? OCI_OUT : place_create(STREAM, err);
		return s->fd < 0 ? -1 : 0;
	}
	fcm_fail(err, FCM_INVALID, "what comes is no image");
	return fcm_hint(err, "an OCI or docker archive, a root file system as tar, plain or compressed, or "
			     "an ext4; of others: qemu-img convert -O raw");
}

/* All of it, into s->fd; `first` has how it begins. */
static int spool(struct archive *a, struct spool *s, char first[PROBE_BYTES], enum probe_kind *ret_kind,
	struct fcm_error *err)
{
	static char block[SOURCE_BLOCK];
	la_ssize_t n = archive_read_data(a, block, sizeof block);

	if (n < 0)
		return source_fail(a, err);
	*ret_kind = probe_kind(block, (size_t)n);
	memcpy(first, block, PROBE_BYTES);
	if (open_spool(*ret_kind, s, err) < 0)
		return -1;
	for (; n > 0; n = archive_read_data(a, block, sizeof block))
		if (add(s, block, (size_t)n, err) < 0)
			return -1;
	if (n < 0)
		return source_fail(a, err);
	return ftruncate(s->fd, (off_t)s->n) < 0 ? fcm_fail_errno(err, "write what comes") : 0;
}

/* ---- an image of several layers ---- */

/* What is known of it: whose digests and sizes are "" and 0 are the config's alone. */
static struct manifest manifest;

/* A blob is what its digest says, in whatever archive it comes. */
static int read_blob(int fd, const struct descriptor *d, size_t max, struct buf *ret, struct fcm_error *err)
{
	auto_free char *name = xprintf("blobs/sha256/%s", d->digest);
	char have[65];

	if (member_text(fd, name, max, ret, err) < 0)
		return -1;
	sha256_hex(ret->p ? ret->p : "", ret->n, have);
	if (ret->n != d->size || strcmp(have, d->digest) != 0)
		return fcm_fail(
			err, FCM_INVALID, "'%.24s...' has another size or digest: %.12s...", name, have);
	return 0;
}

/* A blob as a layer; a plain one is that already. */
static int keep_blob(int blob, const struct descriptor *have, const char *diff_id, atomic_llong *left,
	struct fcm_error *err)
{
	auto_free char *file = xprintf("%s.tar", diff_id);
	uint64_t n;

	if (strcmp(have->digest, diff_id) == 0) {
		atomic_fetch_sub(left, (long long)have->size);
		return renameat(OCI_DIR, BLOB, OCI_DIR, file) < 0
			       ? fcm_fail_errno(err, "take layer %.12s", diff_id)
			       : 0;
	}
	auto_close int tar = place_create(file, err);
	if (tar < 0 || layer_expand(blob, have, tar, diff_id, left, &n, err) < 0)
		return -1;
	return place_remove(BLOB, err);
}

/* The layer of that member, which is d unless that says nothing. */
static int take_layer(int fd, const char *member, const struct descriptor *d, const char *diff_id,
	atomic_llong *left, struct fcm_error *err)
{
	auto_free char *file = xprintf("%s.tar", diff_id), *id = xprintf("%.12s", diff_id);
	struct descriptor have = {0};

	if (place_has_layer(file)) {
		oci_progress("exists", id, 1, 1);
		return 0;
	}
	auto_close int blob = place_create(BLOB, err);
	uint64_t max = MIN((uint64_t)MAX(atomic_load(left), 0), OCI_LAYER_BYTES);
	if (blob < 0 || member_copy(fd, member, max, blob, &have.size, have.digest, err) < 0)
		return -1;
	if (d->digest[0] && (d->size != have.size || strcmp(d->digest, have.digest) != 0))
		return fcm_fail(err, FCM_INVALID, "'%.24s...' has another size or digest: %.12s...", member,
			have.digest);
	if (keep_blob(blob, &have, diff_id, left, err) < 0)
		return -1;
	oci_progress("extracted", id, have.size, have.size);
	return 0;
}

static int take_config(const struct buf *config, const char *platform, struct fcm_error *err)
{
	if (config_parse(config->p ? config->p : "", config->n, platform, &manifest, err) < 0)
		return -1;
	return place_save("config.json", config, err);
}

/* ---- an OCI layout ---- */

static int read_manifest(int fd, struct descriptor *d, const char *platform, struct fcm_error *err)
{
	int index = 1;

	for (int nested = 0; index > 0 && nested < 2; nested++) {
		_cleanup_(buf_done) struct buf text = {0};
		if (read_blob(fd, d, MANIFEST_BYTES, &text, err) < 0)
			return -1;
		index = manifest_parse(text.p ? text.p : "", text.n, platform, d, &manifest, err);
	}
	return index > 0 ? fcm_fail(err, FCM_INVALID, "an index in an index isn't supported") : index;
}

static int take_layout(int fd, const char *platform, struct strv *names, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf index = {0}, config = {0};
	atomic_llong left = (long long)OCI_IMAGE_BYTES;
	struct descriptor d;

	if (member_text(fd, "index.json", MANIFEST_BYTES, &index, err) < 0 ||
		layout_parse(index.p ? index.p : "", index.n, platform, &d, names, err) < 0 ||
		read_manifest(fd, &d, platform, err) < 0 ||
		read_blob(fd, &manifest.config, CONFIG_BYTES, &config, err) < 0 ||
		take_config(&config, platform, err) < 0)
		return -1;
	for (size_t i = 0; i < manifest.n; i++) {
		const struct descriptor *layer = &manifest.layers[i];
		auto_free char *name = xprintf("blobs/sha256/%s", layer->digest);
		if (take_layer(fd, name, layer, manifest.diff_ids[i], &left, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- a docker archive ---- */

static int take_docker_image(
	int fd, const struct docker_archive *d, const char *platform, struct fcm_error *err)
{
	static const struct descriptor unknown;
	_cleanup_(buf_done) struct buf config = {0};
	atomic_llong left = (long long)OCI_IMAGE_BYTES;

	manifest.n = d->layers.n;
	if (member_text(fd, d->config, CONFIG_BYTES, &config, err) < 0 ||
		take_config(&config, platform, err) < 0)
		return -1;
	sha256_hex(config.p ? config.p : "", config.n, manifest.config.digest);
	for (size_t i = 0; i < manifest.n; i++)
		if (take_layer(fd, d->layers.v[i], &unknown, manifest.diff_ids[i], &left, err) < 0)
			return -1;
	return 0;
}

static int take_docker(int fd, const char *platform, struct strv *names, struct fcm_error *err)
{
	_cleanup_(docker_archive_done) struct docker_archive d = {0};
	_cleanup_(buf_done) struct buf text = {0};

	if (member_text(fd, "manifest.json", MANIFEST_BYTES, &text, err) < 0 ||
		docker_archive_parse(text.p ? text.p : "", text.n, &d, err) < 0)
		return -1;
	strv_copy(names, &d.names);
	return take_docker_image(fd, &d, platform, err);
}

/* ---- a root file system ---- */

static field_json *one_string(const char *s)
{
	field_json *list = fj_array();

	fj_append(list, fj_str(s));
	return list;
}

/* image-spec 1.1, config.md */
static field_json *make_config(
	const char *platform, const char *created, const char *diff_id, field_json *runs)
{
	field_json *v = fj_object(), *rootfs = fj_object(), *step = fj_object(), *history = fj_array();
	auto_free char *id = xprintf("sha256:%s", diff_id),
		       *os = xprintf("%.*s", (int)strcspn(platform, "/"), platform);
	const char *slash = strchr(platform, '/');

	fj_set_str(v, "created", created);
	fj_set_str(v, "architecture", slash ? slash + 1 : "");
	fj_set_str(v, "os", os);
	fj_set(v, "config", runs);
	fj_set_str(rootfs, "type", "layers");
	fj_set(rootfs, "diff_ids", one_string(id));
	fj_set(v, "rootfs", rootfs);
	fj_set_str(step, "created", created);
	fj_set_str(step, "created_by", "fcm image import");
	fj_append(history, step);
	fj_set(v, "history", history);
	return v;
}

/* The stream is the layer. */
static int take_tree(
	const struct oci_job *job, const char *platform, const char *diff_id, struct fcm_error *err)
{
	const char *runs = kv_get(job->plan, job->plan_n, "config");
	const char *created = kv_get(job->plan, job->plan_n, "created");
	auto_free char *file = xprintf("%s.tar", diff_id);
	field_json *v = fj_parse(runs ? runs : "{}", runs ? strlen(runs) : 2, err);

	if (v == NULL)
		return fcm_wrap(err, "config");
	auto_json field_json *config = make_config(platform, created ? created : "", diff_id, v);
	auto_free char *text = fj_print(config, false);
	const struct buf b = {.p = text, .n = strlen(text)};
	if (renameat(OCI_DIR, STREAM, OCI_DIR, file) < 0)
		return fcm_fail_errno(err, "take the layer");
	manifest.n = 1;
	(void)fcm_copy(manifest.diff_ids[0], sizeof manifest.diff_ids[0], diff_id);
	sha256_hex(b.p, b.n, manifest.config.digest);
	return place_save("config.json", &b, err);
}

/* ---- the whole ---- */

static const char *const kind_names[] = {
	[MEMBERS_TREE] = "tree", [MEMBERS_OCI] = "oci", [MEMBERS_DOCKER] = "docker"};

static int take_tar(const struct oci_job *job, const struct spool *s, const char *sum, struct strv *names,
	enum members_kind *ret, struct fcm_error *err)
{
	const char *platform = kv_get(job->plan, job->plan_n, "platform");

	if (platform == NULL)
		platform = "linux/amd64";
	if (members_kind(s->fd, ret, err) < 0)
		return -1;
	if (*ret == MEMBERS_TREE && s->n > OCI_LAYER_BYTES)
		return fcm_fail(err, FCM_TOO_LARGE, "a layer is larger than %llu GiB",
			(unsigned long long)(OCI_LAYER_BYTES >> 30));
	if (*ret == MEMBERS_TREE)
		return take_tree(job, platform, sum, err);
	if (kv_get(job->plan, job->plan_n, "config"))
		return fcm_fail_field(err, FCM_INVALID, "config",
			"config: this image says itself how it runs; that is for a root file system");
	if ((*ret == MEMBERS_OCI ? take_layout : take_docker)(s->fd, platform, names, err) < 0)
		return -1;
	return place_remove(STREAM, err);
}

static int take(const struct oci_job *job, struct spool *s, struct buf *ret, struct fcm_error *err)
{
	static struct source source = {.fd = OCI_IN, .progress = tell};
	_cleanup_(source_closep) struct archive *a = source_stream(&source, err);
	_cleanup_(strv_done) struct strv names = {0};
	enum members_kind members = MEMBERS_TREE;
	enum probe_kind kind = PROBE_OTHER;
	char first[PROBE_BYTES], sum[65];

	if (a == NULL || spool(a, s, first, &kind, err) < 0)
		return -1;
	sum_end(s->hash, sum);
	if (kind == PROBE_EXT4) {
		kv_add(ret, "kind", "ext4");
		kv_add(ret, "id", sum);
		return probe_ext4(first, sizeof first, s->n, err);
	}
	if (take_tar(job, s, sum, &names, &members, err) < 0)
		return -1;
	kv_add(ret, "kind", kind_names[members]);
	kv_add(ret, "id", manifest.config.digest);
	for (size_t i = 0; i < manifest.n; i++)
		kv_add(ret, "layer", manifest.diff_ids[i]);
	for (size_t i = 0; i < names.n; i++)
		kv_add(ret, "name", names.v[i]);
	return 0;
}

int oci_import(const struct oci_job *job, struct buf *ret, struct fcm_error *err)
{
	_cleanup_(source_hash_freep) EVP_MD_CTX *hash = source_hash(err);
	struct spool s = {.fd = -1, .hash = hash};

	return hash ? take(job, &s, ret, err) : -1;
}
