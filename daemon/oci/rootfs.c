#include "daemon/oci/rootfs.h"

#include <string.h>
#include <sys/stat.h>

#include "daemon/oci/oci.h"

enum { BUCKETS = 1 << 17 };

struct rootfs {
	struct rootfs_node *root;
	struct rootfs_node *buckets[BUCKETS];
	unsigned layer;
	uint64_t entries, bytes, memory;
};

static const char whiteout[] = ".wh.", opaque[] = ".wh..wh..opq", metadata[] = ".wh..wh.";

/* ---- nodes ---- */

/* FNV-1a (draft-eastlake-fnv), begun with the parent. Names that collide on purpose cost a walk of a chain, and ROOTFS_ENTRIES
 * bounds that. */
static struct rootfs_node **bucket(
	struct rootfs *t, const struct rootfs_node *parent, const char *name, size_t n)
{
	uint64_t h = 14695981039346656037ull ^ (uintptr_t)parent;

	for (size_t i = 0; i < n; i++)
		h = (h ^ (unsigned char)name[i]) * 1099511628211ull;
	return &t->buckets[(h ^ h >> 32) & (BUCKETS - 1)];
}

static struct rootfs_node *look(
	struct rootfs *t, const struct rootfs_node *parent, const char *name, size_t n)
{
	for (struct rootfs_node *k = *bucket(t, parent, name, n); k; k = k->chain)
		if (k->parent == parent && strncmp(k->name, name, n) == 0 && k->name[n] == '\0')
			return k;
	return NULL;
}

static bool is_dir(const struct rootfs_node *n)
{
	return S_ISDIR(n->inode->mode);
}

static void xattrs_free(struct rootfs_xattr *x)
{
	while (x) {
		struct rootfs_xattr *next = x->next;
		free(x->name);
		free(x);
		x = next;
	}
}

static void inode_unref(struct rootfs_inode *i)
{
	if (--i->links > 0)
		return;
	xattrs_free(i->xattrs);
	free(i->target);
	free(i);
}

static struct rootfs_inode *inode_new(mode_t mode)
{
	struct rootfs_inode *i = xalloc(sizeof *i);

	i->mode = mode;
	return i;
}

static struct rootfs_node *node_new(
	struct rootfs *t, struct rootfs_node *parent, const char *name, size_t n, struct rootfs_inode *inode)
{
	struct rootfs_node *k = xalloc(sizeof *k), **b = bucket(t, parent, name, n);

	t->memory += sizeof *k + sizeof *inode + n;
	k->name = xprintf("%.*s", (int)n, name);
	k->parent = parent;
	k->inode = inode;
	k->layer = t->layer;
	TAILQ_INIT(&k->children);
	inode->links++;
	k->chain = *b;
	*b = k;
	if (parent)
		TAILQ_INSERT_TAIL(&parent->children, k, sibling);
	return k;
}

static void node_free(struct rootfs *t, struct rootfs_node *n)
{
	struct rootfs_node **at = bucket(t, n->parent, n->name, strlen(n->name));

	while (*at != n)
		at = &(*at)->chain;
	*at = n->chain;
	if (n->parent)
		TAILQ_REMOVE(&n->parent->children, n, sibling);
	inode_unref(n->inode);
	free(n->name);
	free(n);
}

/* The first leaf below n. */
static struct rootfs_node *leaf(struct rootfs_node *n)
{
	while (!TAILQ_EMPTY(&n->children))
		n = TAILQ_FIRST(&n->children);
	return n;
}

/* Remove n and all below it, but not what this layer has, nor the way to that; children first. With `all`, everything. */
static void prune(struct rootfs *t, struct rootfs_node *n, bool all)
{
	for (struct rootfs_node *k = leaf(n), *next; k; k = next) {
		struct rootfs_node *after = k == n ? NULL : TAILQ_NEXT(k, sibling);
		next = k == n ? NULL : after ? leaf(after) : k->parent;
		if (TAILQ_EMPTY(&k->children) && (all || k->layer < t->layer))
			node_free(t, k);
	}
}

static void prune_children(struct rootfs *t, struct rootfs_node *dir)
{
	for (struct rootfs_node *k = TAILQ_FIRST(&dir->children), *next; k; k = next) {
		next = TAILQ_NEXT(k, sibling);
		prune(t, k, false);
	}
}

/* ---- paths ---- */

static int fail_entry(const char *path, const char *why, struct fcm_error *err)
{
	char shown[120];

	(void)fcm_quote(shown, sizeof shown, path);
	return fcm_fail(err, FCM_INVALID, "'%s': %s", shown, why);
}

static bool has_dotdot(const char *path)
{
	for (const char *s = path; *s; s += strspn(s, "/")) {
		size_t n = strcspn(s, "/");
		if (n == 2 && memcmp(s, "..", 2) == 0)
			return true;
		s += n;
	}
	return false;
}

static unsigned depth(const struct rootfs_node *n)
{
	unsigned d = 0;

	for (; n->parent; n = n->parent)
		d++;
	return d;
}

/* How a path is walked: what is left of it, below the links that were met, and how many more of these may come. */
struct walk {
	struct rootfs *t;
	bool make; /* directories that are missing, and in the place of what is none */
	unsigned links;
	const char *why; /* when it failed */
};

static struct rootfs_node *walk(struct walk *w, struct rootfs_node *dir, const char *path);

static struct rootfs_node *fail_walk(struct walk *w, const char *why)
{
	w->why = why;
	return NULL;
}

static struct rootfs_node *make_dir(struct walk *w, struct rootfs_node *dir, const char *name, size_t n)
{
	if (++w->t->entries > ROOTFS_ENTRIES)
		return fail_walk(w, "there are too many files");
	if (depth(dir) >= ROOTFS_DEPTH)
		return fail_walk(w, "it is too deep");
	return node_new(w->t, dir, name, n, inode_new(S_IFDIR | 0755));
}

/* From directory `dir` one name on: to its directory, through a link, or to a new one. */
static struct rootfs_node *step(struct walk *w, struct rootfs_node *dir, const char *name, size_t n)
{
	if (n > ROOTFS_NAME)
		return fail_walk(w, "a name in it is longer than 255 bytes");
	struct rootfs_node *next = look(w->t, dir, name, n);
	if (next && is_dir(next))
		return next;
	if (next && S_ISLNK(next->inode->mode)) {
		if (w->links-- == 0)
			return fail_walk(w, "its links lead in a circle");
		const char *target = next->inode->target;
		return walk(w, *target == '/' ? w->t->root : dir, target);
	}
	if (!w->make)
		return fail_walk(w, next ? "it is below a file" : "it isn't there");
	if (next)
		prune(w->t, next, true);
	return make_dir(w, dir, name, n);
}

/* `..` occurs in links of the image only, and ends at the root, as in the guest. */
static struct rootfs_node *walk(struct walk *w, struct rootfs_node *dir, const char *path)
{
	for (const char *s = path + strspn(path, "/"); dir && *s; s += strspn(s, "/")) {
		size_t n = strcspn(s, "/");
		if (n == 2 && memcmp(s, "..", 2) == 0)
			dir = dir->parent ? dir->parent : dir;
		else if (n != 1 || *s != '.')
			dir = step(w, dir, s, n);
		s += n;
	}
	return dir;
}

/* A path as directory and last name. */
struct split {
	char dir[ROOTFS_PATH + 1];
	const char *name; /* within `dir`; "" for the root itself */
};

static void split_path(const char *path, struct split *ret)
{
	size_t n = strlen(path);

	while (n && (path[n - 1] == '/' || (path[n - 1] == '.' && (n == 1 || path[n - 2] == '/'))))
		n--;
	fcm_format(ret->dir, sizeof ret->dir, "%.*s", (int)n, path);
	char *slash = strrchr(ret->dir, '/');
	ret->name = slash ? slash + 1 : ret->dir;
	if (slash)
		*slash = '\0';
}

/* The directory of a split path. */
static struct rootfs_node *find_dir(struct walk *w, const struct split *s)
{
	return s->name == s->dir ? w->t->root : walk(w, w->t->root, s->dir);
}

/* ---- entries ---- */

static const char *check_entry(const struct rootfs_entry *e)
{
	if (e->path[0] == '\0')
		return "it has no name";
	if (strlen(e->path) > ROOTFS_PATH)
		return "its name is too long";
	if (has_dotdot(e->path))
		return "'..' in its name";
	if (e->hardlink)
		return strlen(e->hardlink) > ROOTFS_PATH ? "its link is too long"
		       : has_dotdot(e->hardlink)	 ? "'..' in its link"
							 : NULL;
	if (!S_ISREG(e->mode) && !S_ISDIR(e->mode) && !S_ISLNK(e->mode) && !S_ISCHR(e->mode) &&
		!S_ISBLK(e->mode) && !S_ISFIFO(e->mode))
		return "it is of a kind that an image can't have";
	if (e->uid < 0 || e->uid > UINT32_MAX - 1 || e->gid < 0 || e->gid > UINT32_MAX - 1)
		return "its owner is no uid or gid";
	if (S_ISLNK(e->mode) &&
		(e->target == NULL || e->target[0] == '\0' || strlen(e->target) > ROOTFS_PATH))
		return "its link is empty or too long";
	return S_ISREG(e->mode) && e->size < 0 ? "its size is negative" : NULL;
}

/* What means something in the guest: `trusted.` would rule how the guest's overlay joins its layers, `system.` is the kernel's
 * own form of lists that tar has in others. */
static bool xattr_wanted(const char *name)
{
	return strncmp(name, "user.", strlen("user.")) == 0 ||
	       strncmp(name, "security.", strlen("security.")) == 0;
}

static int copy_xattrs(
	struct rootfs *t, const struct rootfs_entry *e, struct rootfs_inode *i, struct fcm_error *err)
{
	size_t count = 0, bytes = 0;

	for (const struct rootfs_xattr *x = e->xattrs; x; x = x->next) {
		if (!xattr_wanted(x->name))
			continue;
		bytes += strlen(x->name) + x->n;
		if (++count > ROOTFS_XATTRS || strlen(x->name) > ROOTFS_XATTR_NAME ||
			bytes > ROOTFS_XATTR_BYTES)
			return fail_entry(e->path, "its extended attributes are too many or too long", err);
		struct rootfs_xattr *copy = xalloc(sizeof *copy + x->n);
		copy->name = xstrdup(x->name);
		copy->n = x->n;
		memcpy(copy->value, x->value, x->n);
		copy->next = i->xattrs;
		i->xattrs = copy;
	}
	t->memory += bytes + count * sizeof(struct rootfs_xattr);
	return 0;
}

/* What an entry says of an inode; the type stays. */
static int set_facts(
	struct rootfs *t, const struct rootfs_entry *e, struct rootfs_inode *i, struct fcm_error *err)
{
	xattrs_free(i->xattrs);
	i->xattrs = NULL;
	i->mode = (i->mode & S_IFMT) | (S_ISLNK(i->mode) ? 0777 : (e->mode & 07777));
	i->uid = (uint32_t)e->uid;
	i->gid = (uint32_t)e->gid;
	i->mtime = e->mtime;
	i->mtime_ns = e->mtime_ns;
	return copy_xattrs(t, e, i, err);
}

static int add_whiteout(
	struct rootfs *t, struct rootfs_node *dir, const char *path, const char *name, struct fcm_error *err)
{
	if (strcmp(name, opaque) == 0) {
		prune_children(t, dir);
		return 0;
	}
	if (strncmp(name, metadata, sizeof metadata - 1) == 0)
		return 0; /* aufs's own */
	name += sizeof whiteout - 1;
	if (*name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return fail_entry(path, "a whiteout of nothing", err);
	struct rootfs_node *n = look(t, dir, name, strlen(name));
	if (n)
		prune(t, n, false);
	return 0;
}

static int add_hardlink(struct rootfs *t, struct rootfs_node *dir, const char *name,
	const struct rootfs_entry *e, struct fcm_error *err)
{
	struct walk w = {.t = t, .links = ROOTFS_LINKS};
	struct split s;

	split_path(e->hardlink, &s);
	struct rootfs_node *in = find_dir(&w, &s), *target = in ? look(t, in, s.name, strlen(s.name)) : NULL;
	if (target == NULL)
		return fail_entry(e->path, "it is a link to what isn't there", err);
	if (is_dir(target))
		return fail_entry(e->path, "it is a link to a directory", err);
	if (target->inode->links == ROOTFS_HARDLINKS)
		return fail_entry(e->path, "it is a link to what has too many already", err);
	struct rootfs_node *old = look(t, dir, name, strlen(name));
	struct rootfs_inode *inode = target->inode;
	if (old && old->inode == inode) {
		old->layer = t->layer;
		return 0;
	}
	inode->links++; /* held, for the old one may be all that has it */
	if (old)
		prune(t, old, true);
	node_new(t, dir, name, strlen(name), inode);
	inode->links--;
	return 0;
}

static int fill_inode(
	struct rootfs *t, const struct rootfs_entry *e, struct rootfs_inode *i, struct fcm_error *err)
{
	if (set_facts(t, e, i, err) < 0)
		return -1;
	if (S_ISLNK(e->mode)) {
		i->target = xstrdup(e->target);
		t->memory += strlen(e->target);
	}
	if (S_ISCHR(e->mode) || S_ISBLK(e->mode))
		i->major = e->major, i->minor = e->minor;
	if (S_ISREG(e->mode)) {
		i->size = (uint64_t)e->size;
		i->used = e->used;
		i->layer = t->layer;
		i->index = e->index;
		if (i->size > OCI_LAYER_BYTES || (t->bytes += i->size) > OCI_IMAGE_BYTES)
			return fcm_fail(err, FCM_TOO_LARGE, "the files of the image are larger than %llu GiB",
				(unsigned long long)(OCI_IMAGE_BYTES >> 30));
	}
	return 0;
}

static int add_new(struct rootfs *t, struct rootfs_node *dir, const char *name, const struct rootfs_entry *e,
	struct fcm_error *err)
{
	struct rootfs_node *old = look(t, dir, name, strlen(name));

	if (old && is_dir(old) && S_ISDIR(e->mode)) {
		old->layer = t->layer;
		return set_facts(t, e, old->inode, err);
	}
	if (depth(dir) >= ROOTFS_DEPTH)
		return fail_entry(e->path, "it is too deep", err);
	if (old)
		prune(t, old, true);
	return fill_inode(
		t, e, node_new(t, dir, name, strlen(name), inode_new(e->mode & S_IFMT))->inode, err);
}

/* The root itself may only be a directory. */
static int add_root(struct rootfs *t, const struct rootfs_entry *e, struct fcm_error *err)
{
	if (e->hardlink || !S_ISDIR(e->mode))
		return fail_entry(e->path, "the root is a directory and nothing else", err);
	return set_facts(t, e, t->root->inode, err);
}

int rootfs_add(struct rootfs *t, const struct rootfs_entry *e, struct fcm_error *err)
{
	struct walk w = {.t = t, .make = true, .links = ROOTFS_LINKS};
	const char *why = check_entry(e);
	struct split s;

	if (why)
		return fail_entry(e->path, why, err);
	if (++t->entries > ROOTFS_ENTRIES || t->memory > ROOTFS_MEMORY)
		return fcm_fail(err, FCM_TOO_LARGE, "the image has more than %d files, or too long names",
			ROOTFS_ENTRIES);
	split_path(e->path, &s);
	if (s.name[0] == '\0')
		return add_root(t, e, err);
	if (strlen(s.name) > ROOTFS_NAME)
		return fail_entry(e->path, "its name is longer than 255 bytes", err);
	struct rootfs_node *dir = find_dir(&w, &s);
	if (dir == NULL)
		return fail_entry(e->path, w.why, err);
	if (strncmp(s.name, whiteout, sizeof whiteout - 1) == 0)
		return add_whiteout(t, dir, e->path, s.name, err);
	return e->hardlink ? add_hardlink(t, dir, s.name, e, err) : add_new(t, dir, s.name, e, err);
}

/* ---- the whole ---- */

struct rootfs *rootfs_new(void)
{
	struct rootfs *t = xalloc(sizeof *t);

	t->root = node_new(t, NULL, "", 0, inode_new(S_IFDIR | 0755));
	return t;
}

void rootfs_free(struct rootfs *t)
{
	if (t == NULL)
		return;
	prune(t, t->root, true);
	free(t);
}

void rootfs_next_layer(struct rootfs *t)
{
	t->layer++;
}

struct rootfs_node *rootfs_root(struct rootfs *t)
{
	return t->root;
}

struct rootfs_node *rootfs_walk(struct rootfs_node *n)
{
	if (!TAILQ_EMPTY(&n->children))
		return TAILQ_FIRST(&n->children);
	for (; n->parent; n = n->parent)
		if (TAILQ_NEXT(n, sibling))
			return TAILQ_NEXT(n, sibling);
	return NULL;
}

struct rootfs_node *rootfs_find(struct rootfs *t, const char *path)
{
	struct walk w = {.t = t, .links = ROOTFS_LINKS};
	struct split s;

	if (strlen(path) > ROOTFS_PATH)
		return NULL;
	split_path(path, &s);
	if (s.name[0] == '\0')
		return t->root;
	struct rootfs_node *dir = find_dir(&w, &s);
	return dir ? look(t, dir, s.name, strlen(s.name)) : NULL;
}

uint64_t rootfs_entries(const struct rootfs *t)
{
	return t->entries;
}

uint64_t rootfs_bytes(const struct rootfs *t)
{
	return t->bytes;
}
