#include "daemon/oci/pack.h"

#include <fnmatch.h>
#include <search.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "common/core/tar.h"
#include "daemon/oci/place.h"
#include "daemon/oci/reader.h"
#include "daemon/oci/rootfs.h"
#include "daemon/oci/source.h"

#define UPPER "upper"
#define NEW "new"
#define WHITEOUT ".wh."
#define OPAQUE ".wh..wh..opq"
#define OVERLAY "trusted.overlay."

/* The first name of an inode that has several. */
struct first {
	uint32_t inode;
	char *path;
};

struct packer {
	struct reader *reader;
	const struct oci_job *job;
	struct tar_entry e; /* e.path is where we are; "" the root */
	unsigned depth;
	size_t entries, listed;
	bool told;    /* the error names a file */
	void *firsts; /* tsearch(3) of struct first */
	int fd;
	EVP_MD_CTX *hash;
	uint64_t written;
	char bytes[TAR_BUFFER];
};

/* ---- to the layer ---- */

static int put(struct packer *p, const void *data, size_t n, struct fcm_error *err)
{
	if (n > OCI_LAYER_BYTES - p->written)
		return fcm_fail(err, FCM_TOO_LARGE, "the layer is larger than %llu GiB",
			(unsigned long long)(OCI_LAYER_BYTES >> 30));
	p->written += n;
	EVP_DigestUpdate(p->hash, data, n);
	if (fd_write_all(p->fd, data, n) < 0)
		return fcm_fail_errno(err, "write the layer");
	oci_progress("packing", "layer", p->written, 0);
	return 0;
}

static int put_buf(struct packer *p, struct buf *b, struct fcm_error *err)
{
	int r = put(p, b->p, b->n, err);

	buf_done(b);
	return r;
}

static int put_entry(struct packer *p, const struct tar_entry *e, struct fcm_error *err)
{
	struct buf head = {0};

	tar_add(&head, e);
	return put_buf(p, &head, err);
}

/* ---- names ---- */

/* Go down to a name of the directory where we are; -1 when that is too deep. *ret is for leave(). */
static int enter(struct packer *p, const char *name, size_t *ret, struct fcm_error *err)
{
	*ret = strlen(p->e.path);
	if (fcm_format(p->e.path + *ret, sizeof p->e.path - *ret, "%s%s", *ret ? "/" : "", name))
		return 0;
	return fcm_fail(err, FCM_INVALID, "its name is longer than %d bytes", TAR_PATH_MAX - 1);
}

static void leave(struct packer *p, size_t before)
{
	p->e.path[before] = '\0';
}

static bool is_excluded(const struct packer *p)
{
	for (const char *s = NULL; (s = kv_next(p->job->plan, p->job->plan_n, "exclude", s));)
		if (fnmatch(s, p->e.path, FNM_PATHNAME | FNM_LEADING_DIR) == 0)
			return true;
	return false;
}

static int by_inode(const void *a, const void *b)
{
	const struct first *x = a, *y = b;

	return (x->inode > y->inode) - (x->inode < y->inode);
}

/* The name that the inode has in the layer already, or NULL: it has this one now. */
static const char *first_name(struct packer *p, uint32_t inode)
{
	struct first *f = xalloc(sizeof *f);

	*f = (struct first){inode, NULL};
	const struct first *found = *(struct first **)tsearch(f, &p->firsts, by_inode);
	if (found == f) {
		f->path = xstrdup(p->e.path);
		return NULL;
	}
	free(f);
	return found->path;
}

static void free_first(void *first)
{
	struct first *f = first;

	free(f->path);
	free(f);
}

/* ---- what overlayfs says with attributes ---- */

static const struct reader_xattr *find_xattr(const struct reader_inode *i, const char *name)
{
	for (size_t k = 0; k < i->xattrs_n; k++)
		if (strcmp(i->xattrs[k].name, name) == 0)
			return &i->xattrs[k];
	return NULL;
}

/* What a lower layer has in this directory isn't there. */
static bool is_opaque(const struct reader_inode *i)
{
	const struct reader_xattr *x = find_xattr(i, OVERLAY "opaque");

	return x && x->n == 1 && *(const char *)x->value == 'y';
}

/* Our agent's overlay has neither; a guest that made one may. */
static int check_whole(const struct reader_inode *i, struct fcm_error *err)
{
	if (find_xattr(i, OVERLAY "redirect") == NULL && find_xattr(i, OVERLAY "metacopy") == NULL)
		return 0;
	return fcm_fail(err, FCM_INVALID, "what it is stands in a lower layer only");
}

static bool is_kept(const char *name)
{
	return strncmp(name, "user.", 5) == 0 || strncmp(name, "security.", 9) == 0;
}

/* e.xattrs, the caller's. */
static int take_xattrs(
	struct packer *p, const struct reader_inode *i, struct tar_xattr **ret, struct fcm_error *err)
{
	struct tar_xattr *kept = xalloc((i->xattrs_n + 1) * sizeof *kept);

	p->e.xattrs_n = 0;
	p->e.xattrs = *ret = kept;
	for (size_t k = 0; k < i->xattrs_n; k++) {
		const struct reader_xattr *x = &i->xattrs[k];
		if (!is_kept(x->name))
			continue;
		if (strchr(x->name, '='))
			return fcm_fail(err, FCM_INVALID, "there is a '=' in the name of an attribute");
		kept[p->e.xattrs_n++] = (struct tar_xattr){x->name, x->value, x->n};
	}
	return 0;
}

/* ---- entries ---- */

/* An empty file beside what is there, or in it. */
static int put_mark(struct packer *p, const char *path, struct fcm_error *err)
{
	auto_free struct tar_entry *mark = xalloc(sizeof *mark);

	mark->type = TAR_FILE;
	if (!fcm_copy(mark->path, sizeof mark->path, path))
		return fcm_fail(err, FCM_INVALID, "its name is longer than %d bytes", TAR_PATH_MAX - 1);
	return put_entry(p, mark, err);
}

static int put_whiteout(struct packer *p, struct fcm_error *err)
{
	const char *slash = strrchr(p->e.path, '/'), *name = slash ? slash + 1 : p->e.path;
	auto_free char *path = xprintf("%.*s" WHITEOUT "%s", (int)(name - p->e.path), p->e.path, name);

	return put_mark(p, path, err);
}

static int put_opaque(struct packer *p, struct fcm_error *err)
{
	auto_free char *path = xprintf("%s%s" OPAQUE, p->e.path, p->e.path[0] ? "/" : "");

	return put_mark(p, path, err);
}

/* The pieces of the archive: runs that follow each other are one. */
static int take_map(
	struct packer *p, const struct reader_runs *runs, struct tar_segment **ret, struct fcm_error *err)
{
	struct tar_segment *map = xalloc((runs->n + 1) * sizeof *map), *last = map;
	size_t n = 0;

	*ret = map;
	for (size_t i = 0; i < runs->n; i++) {
		const struct reader_run *run = &runs->v[i];
		if (n && last->at + last->n == run->at) {
			last->n += run->n;
			continue;
		}
		last = &map[n++];
		*last = (struct tar_segment){run->at, run->n};
	}
	/* one more says where the end is */
	if (n >= TAR_SEGMENTS_MAX)
		return fcm_fail(err, FCM_TOO_LARGE, "it has more than %d holes", TAR_SEGMENTS_MAX - 1);
	bool whole = p->e.size == 0 || (n == 1 && map->n == p->e.size);
	p->e.map = whole ? NULL : map;
	p->e.segments = whole ? 0 : n;
	return 0;
}

static int put_run(struct packer *p, const struct reader_run *run, struct fcm_error *err)
{
	size_t n;

	for (uint64_t done = 0; done < run->n; done += n) {
		n = (size_t)MIN(run->n - done, (uint64_t)sizeof p->bytes);
		if (reader_read(p->reader, run->disk + done, p->bytes, n, err) < 0 ||
			put(p, p->bytes, n, err) < 0)
			return -1;
	}
	return 0;
}

static int put_file(struct packer *p, const struct reader_runs *runs, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf pad = {0};
	auto_free struct tar_segment *map = NULL;
	uint64_t sum = 0;

	if (take_map(p, runs, &map, err) < 0 || put_entry(p, &p->e, err) < 0)
		return -1;
	for (size_t i = 0; i < runs->n; i++) {
		if (put_run(p, &runs->v[i], err) < 0)
			return -1;
		sum += runs->v[i].n;
	}
	tar_pad(&pad, sum);
	return put(p, pad.p, pad.n, err);
}

static int pack_file(struct packer *p, uint32_t number, struct fcm_error *err)
{
	struct reader_runs runs;

	if (p->e.size > OCI_LAYER_BYTES)
		return fcm_fail(err, FCM_TOO_LARGE, "it is larger than %llu GiB",
			(unsigned long long)(OCI_LAYER_BYTES >> 30));
	int r = reader_runs(p->reader, number, p->e.size, &runs, err);
	if (r == 0)
		r = put_file(p, &runs, err);
	reader_runs_done(&runs);
	p->e.map = NULL;
	p->e.segments = 0;
	return r;
}

static int pack_link(struct packer *p, enum tar_type type, const char *target, struct fcm_error *err)
{
	p->e.type = type;
	(void)fcm_copy(p->e.link, sizeof p->e.link, target); /* both are shorter */
	int r = put_entry(p, &p->e, err);
	p->e.link[0] = '\0';
	return r;
}

static int pack_names(struct packer *p, uint32_t dir, struct fcm_error *err);

static int pack_dir(struct packer *p, uint32_t number, const struct reader_inode *i, struct fcm_error *err)
{
	p->e.type = TAR_DIR;
	/* the root's own name */
	bool root = p->e.path[0] == '\0';
	if (root)
		(void)fcm_copy(p->e.path, sizeof p->e.path, ".");
	int r = put_entry(p, &p->e, err);
	if (root)
		p->e.path[0] = '\0';
	if (r < 0 || (is_opaque(i) && put_opaque(p, err) < 0))
		return -1;
	if (p->depth == ROOTFS_DEPTH)
		return fcm_fail(err, FCM_INVALID, "it is more than %d directories deep", ROOTFS_DEPTH);
	p->depth++;
	r = pack_names(p, number, err);
	p->depth--;
	return r;
}

static void fill_entry(struct packer *p, const struct reader_inode *i)
{
	struct tar_entry *e = &p->e;

	e->mode = i->mode & 07777;
	e->uid = i->uid;
	e->gid = i->gid;
	e->mtime = i->mtime;
	e->major = i->major;
	e->minor = i->minor;
	e->size = S_ISREG(i->mode) ? i->size : 0;
}

static int pack_kind(struct packer *p, uint32_t number, const struct reader_inode *i, struct fcm_error *err)
{
	const char *first = !S_ISDIR(i->mode) && i->links > 1 ? first_name(p, number) : NULL;

	if (first) {
		p->e.size = 0;
		p->e.xattrs_n = 0;
		return pack_link(p, TAR_HARDLINK, first, err);
	}
	switch (i->mode & S_IFMT) {
	case S_IFDIR:
		return pack_dir(p, number, i, err);
	case S_IFREG:
		p->e.type = TAR_FILE;
		return pack_file(p, number, err);
	case S_IFLNK:
		return pack_link(p, TAR_SYMLINK, i->target, err);
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
		p->e.type = S_ISCHR(i->mode) ? TAR_CHAR : S_ISBLK(i->mode) ? TAR_BLOCKDEV : TAR_FIFO;
		return put_entry(p, &p->e, err);
	default:
		return fcm_fail(err, FCM_GUEST, "the file system is damaged: a file of no known kind");
	}
}

/* A socket means nothing without who made it. */
static int pack_inode(struct packer *p, uint32_t number, const struct reader_inode *i, struct fcm_error *err)
{
	auto_free struct tar_xattr *xattrs = NULL;

	if (S_ISSOCK(i->mode))
		return 0;
	p->entries++;
	if (S_ISCHR(i->mode) && i->major == 0 && i->minor == 0)
		return put_whiteout(p, err);
	fill_entry(p, i);
	if (check_whole(i, err) < 0 || take_xattrs(p, i, &xattrs, err) < 0)
		return -1;
	return pack_kind(p, number, i, err);
}

static int pack_node(struct packer *p, uint32_t number, struct fcm_error *err)
{
	struct reader_inode i;

	int r = reader_inode(p->reader, number, &i, err);
	if (r == 0)
		r = pack_inode(p, number, &i, err);
	reader_inode_done(&i);
	return r;
}

static int pack_name(struct packer *p, const struct reader_name *n, struct fcm_error *err)
{
	size_t before;

	if (enter(p, n->name, &before, err) < 0)
		return -1;
	int r = 0;
	if (strncmp(n->name, WHITEOUT, strlen(WHITEOUT)) == 0)
		r = fcm_fail(err, FCM_INVALID, "a name that begins with " WHITEOUT " can't be in a layer");
	else if (!is_excluded(p))
		r = pack_node(p, n->inode, err);
	if (r < 0 && !p->told)
		fcm_wrap(err, "/%.200s", p->e.path);
	p->told = r < 0;
	leave(p, before);
	return r;
}

static int pack_names(struct packer *p, uint32_t dir, struct fcm_error *err)
{
	struct reader_names names;

	int r = reader_names(p->reader, dir, ROOTFS_ENTRIES - p->listed, &names, err);
	p->listed += names.n;
	for (size_t i = 0; r == 0 && i < names.n; i++)
		r = pack_name(p, &names.v[i], err);
	reader_names_done(&names);
	return r;
}

/* ---- the job ---- */

static int find_upper(struct packer *p, uint32_t *ret, struct fcm_error *err)
{
	struct reader_inode i;

	if (reader_find(p->reader, READER_ROOT, UPPER, ret, err) < 0)
		return -1;
	int r = *ret ? reader_inode(p->reader, *ret, &i, err) : 0;
	bool dir = *ret && r == 0 && S_ISDIR(i.mode);
	if (*ret)
		reader_inode_done(&i);
	if (r == 0 && !dir)
		r = fcm_fail(err, FCM_GUEST, "it has no directory '" UPPER "': was the VM ever started?");
	return r;
}

static int pack_upper(struct packer *p, struct fcm_error *err)
{
	struct buf end = {0};
	uint32_t upper;

	if (find_upper(p, &upper, err) < 0 || pack_node(p, upper, err) < 0)
		return -1;
	tar_add_end(&end);
	return put_buf(p, &end, err);
}

static int pack(struct packer *p, struct buf *ret, struct fcm_error *err)
{
	char id[65];

	if (pack_upper(p, err) < 0)
		return -1;
	sum_end(p->hash, id);
	kv_add(ret, "layer", id);
	kv_addf(ret, "entries", "%zu", p->entries);
	kv_addf(ret, "bytes", "%llu", (unsigned long long)p->written);
	return 0;
}

int pack_disk(const struct oci_job *job, int disk_fd, int out_fd, struct buf *ret, struct fcm_error *err)
{
	_cleanup_(source_hash_freep) EVP_MD_CTX *hash = source_hash(err);
	auto_free struct packer *p = xalloc(sizeof *p);

	*p = (struct packer){.job = job, .fd = out_fd, .hash = hash};
	int r = hash ? reader_open(disk_fd, &p->reader, err) : -1;
	if (r == 0)
		r = pack(p, ret, err);
	reader_close(p->reader);
	tdestroy(p->firsts, free_first);
	return r < 0 ? fcm_wrap(err, "the VM's disk") : 0;
}

/* Under the name that its bytes give it. One that is here already is the same. */
static int keep(const char *id, struct fcm_error *err)
{
	auto_free char *name = xprintf("%s.tar", id);

	if (place_has_layer(name))
		return place_remove(NEW, err);
	return renameat(OCI_DIR, NEW, OCI_DIR, name) < 0 ? fcm_fail_errno(err, "name the layer") : 0;
}

int oci_pack(const struct oci_job *job, struct buf *ret, struct fcm_error *err)
{
	auto_close int fd = place_create(NEW, err);

	if (fd < 0 || pack_disk(job, OCI_IN, fd, ret, err) < 0)
		return -1;
	return keep(kv_get(ret->p, ret->n, "layer"), err);
}
