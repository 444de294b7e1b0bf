#include "daemon/oci/pull.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "daemon/oci/expand.h"
#include "daemon/oci/manifest.h"
#include "daemon/oci/registry.h"

static void registry_freep(struct registry **r)
{
	registry_free(*r); /* NULL-safe */
}

static int create(const char *name, struct fcm_error *err)
{
	int fd = openat(OCI_DIR, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);

	return fd < 0 ? fcm_fail_errno(err, "create %s", name) : fd;
}

static int save(const char *name, const struct buf *b, struct fcm_error *err)
{
	auto_close int fd = create(name, err);

	if (fd < 0)
		return -1;
	return fd_write_all(fd, b->p, b->n) < 0 ? fcm_fail_errno(err, "write %s", name) : 0;
}

/* What a digest names, and only that. */
static int get_verified(struct registry *r, const char *kind, const struct descriptor *d, size_t max,
	struct buf *ret, struct fcm_error *err)
{
	auto_free char *what = xprintf("%s/sha256:%s", kind, d->digest);
	char have[65];

	if (registry_get(r, what, max, ret, err) < 0)
		return -1;
	if (d->size && ret->n != d->size)
		return fcm_fail(err, FCM_INVALID, "%.24s has %zu bytes, not %llu", what, ret->n,
			(unsigned long long)d->size);
	sha256_hex(ret->p ? ret->p : "", ret->n, have);
	if (strcmp(have, d->digest) != 0)
		return fcm_fail(err, FCM_INVALID, "%.24s... has another digest: %.12s...", what, have);
	return 0;
}

/* What the reference names: its bytes, and their digest. */
static int get_named(
	struct registry *r, const struct ref *ref, struct buf *ret, char digest[65], struct fcm_error *err)
{
	struct descriptor d = {0};
	auto_free char *what = xprintf("manifests/%s", ref->tag);

	if (ref->digest[0]) {
		(void)fcm_copy(d.digest, sizeof d.digest, ref->digest);
		(void)fcm_copy(digest, sizeof d.digest, ref->digest);
		return get_verified(r, "manifests", &d, MANIFEST_BYTES, ret, err);
	}
	if (registry_get(r, what, MANIFEST_BYTES, ret, err) < 0)
		return -1;
	sha256_hex(ret->p ? ret->p : "", ret->n, digest);
	return 0;
}

static int get_manifest(struct registry *r, const struct ref *ref, const char *platform, struct manifest *ret,
	char digest[65], struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf named = {0};
	_cleanup_(buf_done) struct buf chosen = {0};
	struct descriptor d, nested;

	if (get_named(r, ref, &named, digest, err) < 0)
		return -1;
	int index = manifest_parse(named.p ? named.p : "", named.n, platform, &d, ret, err);
	if (index <= 0)
		return index < 0 ? -1 : save("manifest.json", &named, err);
	if (get_verified(r, "manifests", &d, MANIFEST_BYTES, &chosen, err) < 0)
		return -1;
	index = manifest_parse(chosen.p ? chosen.p : "", chosen.n, platform, &nested, ret, err);
	if (index > 0)
		return fcm_fail(err, FCM_INVALID, "an index in an index isn't supported");
	return index < 0 ? -1 : save("manifest.json", &chosen, err);
}

static int get_config(struct registry *r, const char *platform, struct manifest *m, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf config = {0};

	if (get_verified(r, "blobs", &m->config, CONFIG_BYTES, &config, err) < 0 ||
		config_parse(config.p ? config.p : "", config.n, platform, m, err) < 0)
		return -1;
	return save("config.json", &config, err);
}

/* ---- layers ---- */

static bool is_here(const char *file)
{
	struct stat st;

	return fstatat(OCI_LAYERS, file, &st, AT_SYMLINK_NOFOLLOW) == 0 ||
	       fstatat(OCI_DIR, file, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static int get_layer(struct registry *r, const struct descriptor *d, const char *diff_id, uint64_t *left,
	struct fcm_error *err)
{
	auto_free char *file = xprintf("%s.tar", diff_id);
	auto_free char *id = xprintf("%.12s", d->digest);
	uint64_t n = 0;

	if (is_here(file)) {
		oci_progress("exists", id, d->size, d->size);
		return 0;
	}
	auto_close int blob = create("blob", err);
	if (blob < 0 || registry_blob(r, d, blob, err) < 0)
		return -1;
	auto_close int tar = create(file, err);
	if (tar < 0 || layer_expand(blob, d, tar, diff_id, MIN(*left, OCI_LAYER_BYTES), &n, err) < 0)
		return -1;
	*left -= n;
	if (unlinkat(OCI_DIR, "blob", 0) < 0)
		return fcm_fail_errno(err, "remove a blob");
	oci_progress("extracted", id, n, n);
	return 0;
}

int oci_pull(const struct oci_job *job, struct buf *ret, struct fcm_error *err)
{
	_cleanup_(registry_freep) struct registry *r = NULL;
	const char *text = kv_get(job->plan, job->plan_n, "ref");
	const char *platform = kv_get(job->plan, job->plan_n, "platform");
	static struct manifest m;
	uint64_t left = OCI_IMAGE_BYTES;
	struct ref ref;
	char digest[65];

	if (platform == NULL)
		platform = "linux/amd64";
	if (ref_parse(text ? text : "", "image", &ref, err) < 0 || registry_open(job, &ref, &r, err) < 0 ||
		get_manifest(r, &ref, platform, &m, digest, err) < 0 || get_config(r, platform, &m, err) < 0)
		return -1;
	for (size_t i = 0; i < m.n; i++)
		if (get_layer(r, &m.layers[i], m.diff_ids[i], &left, err) < 0)
			return -1;
	kv_add(ret, "id", m.config.digest);
	kv_add(ret, "digest", digest);
	for (size_t i = 0; i < m.n; i++)
		kv_add(ret, "layer", m.diff_ids[i]);
	return 0;
}
