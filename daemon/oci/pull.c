#include "daemon/oci/pull.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "common/core/kv.h"
#include "daemon/oci/expand.h"
#include "daemon/oci/manifest.h"
#include "daemon/oci/place.h"
#include "daemon/oci/registry.h"
#include "daemon/oci/source.h"

enum {
	AT_ONCE = 3, /* layers; as many as docker gets */
	CHECK_BYTES = 64 << 10,
};

/* What the threads that get layers share. */
struct pull {
	const char *platform;
	struct ref ref;
	char digest[65]; /* of what ref names */
	struct manifest m;
	atomic_llong left; /* bytes that its layers may still have; below 0: it is over for all threads */

	pthread_mutex_t lock; /* of what follows */
	size_t next;	      /* the layer that nobody has begun */
	struct fcm_error err; /* the first one */
};

struct worker {
	pthread_t thread;
	struct pull *pull;
	struct registry *registry;
};

static void registry_freep(struct registry **r)
{
	registry_free(*r); /* NULL-safe */
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

static int get_manifest(struct registry *r, struct pull *p, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf named = {0};
	_cleanup_(buf_done) struct buf chosen = {0};
	struct descriptor d, nested;

	if (get_named(r, &p->ref, &named, p->digest, err) < 0)
		return -1;
	int index = manifest_parse(named.p ? named.p : "", named.n, p->platform, &d, &p->m, err);
	if (index <= 0)
		return index < 0 ? -1 : place_save("manifest.json", &named, err);
	if (get_verified(r, "manifests", &d, MANIFEST_BYTES, &chosen, err) < 0)
		return -1;
	index = manifest_parse(chosen.p ? chosen.p : "", chosen.n, p->platform, &nested, &p->m, err);
	if (index > 0)
		return fcm_fail(err, FCM_INVALID, "an index in an index isn't supported");
	return index < 0 ? -1 : place_save("manifest.json", &chosen, err);
}

static int get_config(struct registry *r, struct pull *p, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf config = {0};

	if (get_verified(r, "blobs", &p->m.config, CONFIG_BYTES, &config, err) < 0 ||
		config_parse(config.p ? config.p : "", config.n, p->platform, &p->m, err) < 0)
		return -1;
	return place_save("config.json", &config, err);
}

/* ---- layers ---- */

/* As it is shown. */
static void tell(const char *what, const struct descriptor *d, uint64_t current, uint64_t total)
{
	auto_free char *id = xprintf("%.12s", d->digest);

	oci_progress(what, id, current, total);
}

/* Its file is there only when it is whole. */
static int get_layer(struct registry *r, struct pull *p, size_t i, struct fcm_error *err)
{
	const struct descriptor *d = &p->m.layers[i];
	auto_free char *file = xprintf("%s.tar", p->m.diff_ids[i]);
	auto_free char *temp = xprintf("%s.blob", p->m.diff_ids[i]);
	uint64_t n = 0;

	if (place_has_layer(file)) {
		tell("exists", d, d->size, d->size);
		return 0;
	}
	auto_close int blob = place_create(temp, err);
	if (blob < 0)
		return -1;
	unlinkat(OCI_DIR, temp, 0);
	if (registry_blob(r, d, blob, err) < 0)
		return -1;
	auto_close int tar = place_create(file, err);
	if (tar < 0)
		return -1;
	if (layer_expand(blob, d, tar, p->m.diff_ids[i], &p->left, &n, err) < 0) {
		unlinkat(OCI_DIR, file, 0);
		return -1;
	}
	tell("extracted", d, n, n);
	return 0;
}

/* Does a lower layer have the same bytes? */
static bool is_repeated(const struct manifest *m, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (strcmp(m->diff_ids[k], m->diff_ids[i]) == 0)
			return true;
	return false;
}

static size_t next_layer(struct pull *p)
{
	pthread_mutex_lock(&p->lock);
	while (p->next < p->m.n && is_repeated(&p->m, p->next))
		p->next++;
	size_t i = atomic_load(&p->left) < 0 ? p->m.n : p->next++;
	pthread_mutex_unlock(&p->lock);
	return i;
}

/* Only the first one counts: the others end because of it. */
static void end_all(struct pull *p, const struct fcm_error *err)
{
	pthread_mutex_lock(&p->lock);
	if (p->err.code == FCM_OK)
		p->err = *err;
	atomic_store(&p->left, -1);
	pthread_mutex_unlock(&p->lock);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct fcm_error err;

	for (size_t i; (i = next_layer(w->pull)) < w->pull->m.n;)
		if (get_layer(w->registry, w->pull, i, &err) < 0)
			end_all(w->pull, &err);
	return NULL;
}

static bool begin_worker(struct worker *w, struct pull *p, const struct registry *r)
{
	*w = (struct worker){.pull = p, .registry = registry_copy(r, &p->left)};
	if (w->registry && pthread_create(&w->thread, NULL, work, w) == 0)
		return true;
	registry_free(w->registry);
	return false;
}

static int get_layers(struct registry *r, struct pull *p, struct fcm_error *err)
{
	struct worker workers[AT_ONCE];
	size_t n = 0;

	for (size_t i = 0; i < p->m.n; i++)
		if (!is_repeated(&p->m, i))
			tell("waiting", &p->m.layers[i], 0, p->m.layers[i].size);
	while (n < MIN(p->m.n, (size_t)AT_ONCE) && begin_worker(&workers[n], p, r))
		n++;
	for (size_t i = 0; i < n; i++) {
		pthread_join(workers[i].thread, NULL);
		registry_free(workers[i].registry);
	}
	if (n == 0)
		return fcm_fail(err, FCM_UNAVAILABLE, "no thread for the layers");
	if (p->err.code == FCM_OK)
		return 0;
	*err = p->err;
	return -1;
}

/* ---- the jobs ---- */

/* Of an earlier try only whole layers count. */
static int pull_from(const struct oci_job *job, const char *mirror, struct pull *p, struct fcm_error *err)
{
	_cleanup_(registry_freep) struct registry *r = NULL;

	unlinkat(OCI_DIR, "manifest.json", 0);
	unlinkat(OCI_DIR, "config.json", 0);
	p->next = 0;
	p->err.code = FCM_OK;
	atomic_store(&p->left, (long long)OCI_IMAGE_BYTES);
	if (registry_open(job, &p->ref, mirror, &r, err) < 0 || get_manifest(r, p, err) < 0 ||
		get_config(r, p, err) < 0)
		return -1;
	return get_layers(r, p, err);
}

static int pull(const struct oci_job *job, struct pull *p, struct fcm_error *err)
{
	for (const char *mirror = NULL; (mirror = kv_next(job->plan, job->plan_n, "mirror", mirror));) {
		if (pull_from(job, mirror, p, err) == 0)
			return 0;
		oci_say("mirror %s: %s", mirror, err->msg);
	}
	return pull_from(job, NULL, p, err);
}

int oci_pull(const struct oci_job *job, struct buf *ret, struct fcm_error *err)
{
	static struct pull p = {.lock = PTHREAD_MUTEX_INITIALIZER};
	const char *ref = kv_get(job->plan, job->plan_n, "ref");

	p.platform = kv_get(job->plan, job->plan_n, "platform");
	if (p.platform == NULL)
		p.platform = "linux/amd64";
	if (ref_parse(ref ? ref : "", "image", &p.ref, err) < 0 || pull(job, &p, err) < 0)
		return -1;
	kv_add(ret, "id", p.m.config.digest);
	kv_add(ret, "digest", p.digest);
	for (size_t i = 0; i < p.m.n; i++)
		kv_add(ret, "layer", p.m.diff_ids[i]);
	return 0;
}

int oci_check(const struct oci_job *job, struct buf *ret, struct fcm_error *err)
{
	_cleanup_(registry_freep) struct registry *r = NULL;
	_cleanup_(buf_done) struct buf body = {0};
	const char *domain = kv_get(job->plan, job->plan_n, "registry");
	struct ref ref = {0};

	(void)ret;
	if (domain == NULL || !fcm_copy(ref.domain, sizeof ref.domain, domain))
		return fcm_fail(err, FCM_INTERNAL, "the plan has no registry");
	if (registry_open(job, &ref, NULL, &r, err) < 0)
		return -1;
	if (registry_get(r, "", CHECK_BYTES, &body, err) == 0)
		return 0;
	if (err->code == FCM_NO_IMAGE)
		fcm_fail(err, FCM_INVALID, "%s is no registry of images: it has no /v2/", domain);
	return -1;
}
