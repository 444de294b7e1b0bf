/*
 * How it works. All that isn't a layer is small and known before: the archive is a list of parts, each some bytes and then maybe a
 * file.
 */
#include "daemon/image/export.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "common/core/tar.h"
#include "common/crypt.h"
#include "common/field.h"
#include "daemon/image/config.h"
#include "daemon/image/make.h"
#include "daemon/image/store.h"

#define OCI_TYPE "application/vnd.oci.image."
#define BLOBS "blobs/sha256"

struct part {
	struct buf head;
	int fd; /* -1: none */
	uint64_t size;
};

struct image_export {
	struct part *parts;
	size_t n, at;
	uint64_t done; /* of parts[at], head and file */
};

/* ---- parts ---- */

static struct part *add_part(struct image_export *x)
{
	x->parts = xrealloc(x->parts, (x->n + 1) * sizeof *x->parts);
	x->parts[x->n] = (struct part){.fd = -1};
	return &x->parts[x->n++];
}

/* The part whose head can still grow. */
static struct part *head_part(struct image_export *x)
{
	return x->n && x->parts[x->n - 1].fd < 0 ? &x->parts[x->n - 1] : add_part(x);
}

static void add_header(struct image_export *x, enum tar_type type, const char *name, uint64_t size)
{
	auto_free struct tar_entry *e = xalloc(sizeof *e);

	e->type = type;
	e->mode = type == TAR_DIR ? 0755 : 0644;
	e->size = size;
	(void)fcm_copy(e->path, sizeof e->path, name);
	tar_add(&head_part(x)->head, e);
}

static void add_text(struct image_export *x, const char *name, const void *p, size_t n)
{
	add_header(x, TAR_FILE, name, n);
	buf_add(&head_part(x)->head, p, n);
	tar_pad(&head_part(x)->head, n);
}

static void add_json(struct image_export *x, const char *name, const field_json *v)
{
	auto_free char *text = fj_print(v, false);

	add_text(x, name, text, strlen(text));
}

/* A file of the store; with the size that it has now, for none of them changes. */
static int add_file(
	struct image_export *x, int dirfd, const char *path, const char *name, struct fcm_error *err)
{
	auto_close int fd = openat(dirfd, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return fcm_fail_errno(err, "open %s", path);
	if (name)
		add_header(x, TAR_FILE, name, (uint64_t)st.st_size);
	struct part *p = head_part(x);
	p->fd = STEAL_FD(fd);
	p->size = (uint64_t)st.st_size;
	if (name)
		tar_pad(&head_part(x)->head, (uint64_t)st.st_size);
	return 0;
}

/* ---- what the archive says of the image ---- */

struct described {
	const struct image_id *id;
	const struct strv *names;
	struct strv layers;
	struct buf config;
	char manifest_id[65];
};

static void described_done(struct described *d)
{
	strv_done(&d->layers);
	buf_done(&d->config);
}

static field_json *descriptor(const char *type, const char *digest, uint64_t size)
{
	field_json *v = fj_object();
	auto_free char *full = xprintf("sha256:%s", digest);

	fj_set_str(v, "mediaType", type);
	fj_set_str(v, "digest", full);
	fj_set_int(v, "size", (int64_t)size);
	return v;
}

static char *blob_name(const char *digest)
{
	return xprintf(BLOBS "/%s", digest);
}

static char *print_manifest(const struct described *d, struct fcm_error *err)
{
	auto_json field_json *v = fj_object();
	field_json *layers = fj_array();

	fj_set_int(v, "schemaVersion", 2);
	fj_set_str(v, "mediaType", OCI_TYPE "manifest.v1+json");
	fj_set(v, "config", descriptor(OCI_TYPE "config.v1+json", d->id->s, d->config.n));
	fj_set(v, "layers", layers);
	for (size_t i = 0; i < d->layers.n; i++) {
		uint64_t size;
		if (image_layer_size(d->layers.v[i], &size, err) < 0)
			return NULL;
		fj_append(layers, descriptor(OCI_TYPE "layer.v1.tar", d->layers.v[i], size));
	}
	return fj_print(v, false);
}

/* An entry for each name, or one without. containerd reads the first annotation, skopeo and podman the second. */
static void add_index(struct image_export *x, const struct described *d, size_t manifest_size)
{
	auto_json field_json *v = fj_object();
	field_json *list = fj_array();

	fj_set_int(v, "schemaVersion", 2);
	fj_set_str(v, "mediaType", OCI_TYPE "index.v1+json");
	fj_set(v, "manifests", list);
	for (size_t i = 0; i < MAX(d->names->n, (size_t)1); i++) {
		field_json *one = descriptor(OCI_TYPE "manifest.v1+json", d->manifest_id, manifest_size);
		if (d->names->n) {
			field_json *notes = fj_object();
			fj_set_str(notes, "io.containerd.image.name", d->names->v[i]);
			fj_set_str(notes, "org.opencontainers.image.ref.name", d->names->v[i]);
			fj_set(one, "annotations", notes);
		}
		fj_append(list, one);
	}
	add_json(x, "index.json", v);
}

/* docker's own index */
static void add_docker_manifest(struct image_export *x, const struct described *d)
{
	auto_json field_json *v = fj_array();
	field_json *one = fj_object(), *names = fj_array(), *layers = fj_array();
	auto_free char *config = blob_name(d->id->s);

	fj_set_str(one, "Config", config);
	for (size_t i = 0; i < d->names->n; i++)
		fj_append(names, fj_str(d->names->v[i]));
	fj_set(one, "RepoTags", names);
	for (size_t i = 0; i < d->layers.n; i++) {
		auto_free char *layer = blob_name(d->layers.v[i]);
		fj_append(layers, fj_str(layer));
	}
	fj_set(one, "Layers", layers);
	fj_append(v, one);
	add_json(x, "manifest.json", v);
}

static bool came_before(const struct strv *l, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (strcmp(l->v[k], l->v[i]) == 0)
			return true;
	return false;
}

static int add_layers(struct image_export *x, const struct described *d, struct fcm_error *err)
{
	for (size_t i = 0; i < d->layers.n; i++) {
		auto_free char *file = xprintf("%s.tar", d->layers.v[i]), *name = blob_name(d->layers.v[i]);
		if (!came_before(&d->layers, i) && add_file(x, image_store.layers_fd, file, name, err) < 0)
			return -1;
	}
	return 0;
}

static int add_archive(struct image_export *x, struct described *d, struct fcm_error *err)
{
	static const char layout[] = "{\"imageLayoutVersion\":\"1.0.0\"}";
	auto_free char *manifest = print_manifest(d, err), *config_blob = blob_name(d->id->s);

	if (manifest == NULL)
		return -1;
	struct crypt_sha256 *h = crypt_sha256_new();
	crypt_sha256_add(h, manifest, strlen(manifest));
	crypt_sha256_hex(h, d->manifest_id);
	auto_free char *manifest_blob = blob_name(d->manifest_id);
	add_text(x, "oci-layout", layout, sizeof layout - 1);
	add_index(x, d, strlen(manifest));
	add_docker_manifest(x, d);
	add_header(x, TAR_DIR, "blobs", 0);
	add_header(x, TAR_DIR, BLOBS, 0);
	add_text(x, config_blob, d->config.p, d->config.n);
	add_text(x, manifest_blob, manifest, strlen(manifest));
	if (add_layers(x, d, err) < 0)
		return -1;
	tar_add_end(&head_part(x)->head);
	return 0;
}

/* ---- the whole ---- */

static int open_archive(
	struct image_export *x, const struct image_id *id, const struct strv *names, struct fcm_error *err)
{
	_cleanup_(described_done) struct described d = {.id = id, .names = names};
	struct image_facts facts;

	image_read_facts(id->s, &facts);
	d.layers = facts.layers;
	if (d.layers.n == 0) {
		fcm_fail(err, FCM_WRONG_STATE, "image %.12s has no layers: it came as a file system", id->s);
		return fcm_hint(err, "fcm image export --raw gives that");
	}
	return image_config_text(id, &d.config, err) < 0 ? -1 : add_archive(x, &d, err);
}

int image_export_open(const struct image_id *id, const struct strv *names, bool raw,
	struct image_export **ret, struct fcm_error *err)
{
	auto_free char *path = xprintf("%s/image.ext4", id->s);
	struct image_export *x = xalloc(sizeof *x);

	int r = raw ? add_file(x, image_store.images_fd, path, NULL, err) : open_archive(x, id, names, err);
	if (r < 0) {
		image_export_close(x);
		return -1;
	}
	*ret = x;
	return 0;
}

/* A file that is shorter than it was can't be: EIO. */
static ssize_t read_part(const struct part *part, uint64_t done, char *p, size_t n)
{
	if (done < part->head.n) {
		n = MIN(n, (size_t)(part->head.n - done));
		memcpy(p, part->head.p + done, n);
		return (ssize_t)n;
	}
	uint64_t at = done - part->head.n;
	ssize_t got = pread(part->fd, p, (size_t)MIN((uint64_t)n, part->size - at), (off_t)at);
	if (got == 0)
		errno = EIO;
	return got > 0 ? got : -1;
}

ssize_t image_export_read(struct image_export *x, char *p, size_t n)
{
	while (x->at < x->n && x->done == x->parts[x->at].head.n + x->parts[x->at].size) {
		x->at++;
		x->done = 0;
	}
	ssize_t got = x->at < x->n ? read_part(&x->parts[x->at], x->done, p, n) : 0;
	x->done += got > 0 ? (uint64_t)got : 0;
	return got;
}

void image_export_close(struct image_export *x)
{
	if (x == NULL)
		return;
	for (size_t i = 0; i < x->n; i++) {
		buf_done(&x->parts[i].head);
		fcm_closep(&x->parts[i].fd);
	}
	free(x->parts);
	free(x);
}
