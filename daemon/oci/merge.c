#include "daemon/oci/merge.h"

#include <openssl/evp.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/kv.h"
#include "daemon/oci/ext4.h"
#include "daemon/oci/layer.h"
#include "daemon/oci/rootfs.h"

enum { ID = 12 }; /* digits of a layer's digest that are shown */

static void rootfs_freep(struct rootfs **t)
{
	rootfs_free(*t); /* NULL-safe */
}

static void ext4_freep(struct ext4 **e)
{
	ext4_free(*e); /* NULL-safe */
}

/* ---- reading ---- */

struct progress {
	char id[ID + 1];
	uint64_t total;
};

static void tell(void *arg, uint64_t done)
{
	const struct progress *p = arg;

	oci_progress("reading", p->id, MIN(done, p->total), p->total);
}

static int scan_layer(
	const struct oci_job *job, size_t i, const char *diff_id, struct rootfs *t, struct fcm_error *err)
{
	struct progress p = {0};
	struct stat st;

	if (fstat(job->layer_fds[i], &st) < 0)
		return fcm_fail_errno(err, "read layer %.12s", diff_id);
	(void)fcm_copy(p.id, sizeof p.id, diff_id);
	p.total = (uint64_t)st.st_size;
	if (i > 0)
		rootfs_next_layer(t);
	return layer_scan(job->layer_fds[i], diff_id, t, tell, &p, err);
}

static int scan(const struct oci_job *job, struct rootfs *t, struct fcm_error *err)
{
	size_t i = 0;

	for (const char *s = NULL; (s = kv_next(job->plan, job->plan_n, "layer", s)); i++)
		if (scan_layer(job, i, s, t, err) < 0)
			return -1;
	return 0;
}

/* ---- writing ---- */

/* The files whose bytes come from one layer, in the order in which they stand there. */
struct files {
	struct rootfs_inode **v;
	size_t n;
};

static int by_index(const void *a, const void *b)
{
	const struct rootfs_inode *const *x = a, *const *y = b;

	return ((*x)->index > (*y)->index) - ((*x)->index < (*y)->index);
}

/* One inode may have several names, which then stand beside each other. */
static struct files files_of(struct rootfs *t, unsigned layer)
{
	struct files f = {0};
	size_t room = 0, kept = 0;

	for (struct rootfs_node *n = rootfs_root(t); n; n = rootfs_walk(n)) {
		struct rootfs_inode *i = n->inode;
		if (!S_ISREG(i->mode) || i->layer != layer || i->used == 0)
			continue;
		if (f.n == room) {
			room = MAX(room * 2, (size_t)256);
			f.v = xrealloc(f.v, room * sizeof *f.v);
		}
		f.v[f.n++] = i;
	}
	if (f.n)
		qsort(f.v, f.n, sizeof *f.v, by_index);
	for (size_t i = 0; i < f.n; i++)
		if (i == 0 || f.v[i] != f.v[kept - 1])
			f.v[kept++] = f.v[i];
	f.n = kept;
	return f;
}

static int copy_files(const struct oci_job *job, struct rootfs *t, struct ext4 *e, struct fcm_error *err)
{
	struct layer_sink sink = ext4_sink(e);

	for (size_t i = 0; i < job->layers; i++) {
		struct files f = files_of(t, (unsigned)i);
		int r = f.n ? layer_copy(job->layer_fds[i], f.v, f.n, &sink, err) : 0;
		free(f.v);
		if (r < 0)
			return -1;
		oci_progress("writing", "file system", i + 1, job->layers);
	}
	return 0;
}

/* What makes this file system different from others: the layers that are in it. */
static int seed_of(const struct oci_job *job, unsigned char ret[EXT4_SEED], struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf ids = {0};

	for (const char *s = NULL; (s = kv_next(job->plan, job->plan_n, "layer", s));)
		buf_printf(&ids, "%s\n", s);
	if (EVP_Digest(ids.p ? ids.p : "", ids.n, ret, NULL, EVP_sha256(), NULL) != 1)
		return fcm_fail(err, FCM_UNAVAILABLE, "out of memory");
	return 0;
}

int merge_layers(const struct oci_job *job, int out_fd, struct buf *ret, struct fcm_error *err)
{
	_cleanup_(rootfs_freep) struct rootfs *t = rootfs_new();
	_cleanup_(ext4_freep) struct ext4 *e = NULL;
	unsigned char seed[EXT4_SEED];
	uint64_t size;

	if (scan(job, t, err) < 0 || seed_of(job, seed, err) < 0 || ext4_new(out_fd, t, seed, &e, err) < 0 ||
		copy_files(job, t, e, err) < 0 || ext4_finish(STEAL(e), &size, err) < 0)
		return -1;
	kv_addf(ret, "size", "%llu", (unsigned long long)size);
	kv_addf(ret, "entries", "%llu", (unsigned long long)rootfs_entries(t));
	return 0;
}

int oci_merge(const struct oci_job *job, struct buf *ret, struct fcm_error *err)
{
	return merge_layers(job, OCI_OUT, ret, err);
}
