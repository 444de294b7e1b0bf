/*
 * The layers of an image, merged in memory: names, inodes, and where in which layer the bytes of each file are. Nothing is
 * looked up on the host, so a name can't lead anywhere but into the tree.
 *
 * The rules are those of the OCI image specification (layer.md): an entry takes the place of what lower layers had, a
 * directory is merged with a directory, `.wh.NAME` removes NAME of lower layers, `.wh..wh..opq` all that lower layers had in
 * its directory, wherever in its layer it stands. Links of the image to directories are followed inside the tree, as a
 * program in the guest would follow them; names with a `..` are refused.
 */
#pragma once

#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum {
	ROOTFS_NAME = 255,	  /* bytes of a name: ext4's own limit */
	ROOTFS_PATH = 4095,	  /* bytes of a path, and of a symbolic link: PATH_MAX */
	ROOTFS_DEPTH = 1024,	  /* directories */
	ROOTFS_ENTRIES = 2000000, /* of all layers together */
	ROOTFS_XATTRS = 32,	  /* of an entry */
	ROOTFS_XATTR_NAME = 255,  /* bytes: xattr(7) */
	ROOTFS_XATTR_BYTES =
		3072, /* of all of an entry, so that they fit into the one block that ext4 has for them */
	ROOTFS_PIECE = 64 << 10,   /* zeros of that size and alignment become a hole */
	ROOTFS_LINKS = 40,	   /* symbolic links on the way to one name: path_resolution(7) */
	ROOTFS_HARDLINKS = 65000,  /* names of one file: ext4's own limit */
	ROOTFS_MEMORY = 768 << 20, /* bytes that all of this may take */
};

struct rootfs_xattr {
	struct rootfs_xattr *next;
	char *name;
	size_t n;
	unsigned char value[];
};

struct rootfs_node;

struct rootfs_inode {
	mode_t mode;
	uint32_t uid, gid;
	int64_t mtime;
	uint32_t mtime_ns;
	unsigned major, minor; /* of devices */
	char *target;	       /* of a symbolic link */
	struct rootfs_xattr *xattrs;
	uint64_t size;	 /* of a regular file, */
	uint64_t used;	 /* and of that what isn't zeros, in whole pieces of ROOTFS_PIECE */
	unsigned layer;	 /* where its bytes are: the layer, from 0, */
	uint64_t index;	 /* and the number of its entry there, from 1; 0: it has none */
	unsigned links;	 /* names */
	uint32_t number; /* for whoever writes the tree: 0 at first */
};

TAILQ_HEAD(rootfs_nodes, rootfs_node);

struct rootfs_node {
	char *name; /* "" for the root */
	struct rootfs_node *parent;
	struct rootfs_nodes children; /* of a directory, in the order in which they came */
	TAILQ_ENTRY(rootfs_node) sibling;
	struct rootfs_node *chain; /* of the hash table */
	struct rootfs_inode *inode;
	unsigned layer; /* the last that had it */
};

struct rootfs;

/* What an archive says of one thing. Borrowed. */
struct rootfs_entry {
	const char *path, *hardlink, *target; /* the last two or NULL */
	mode_t mode;			      /* with its type */
	int64_t uid, gid, mtime, size;
	uint32_t mtime_ns;
	unsigned major, minor;
	const struct rootfs_xattr *xattrs; /* copied, those of `user.` and `security.` */
	uint64_t used, index;
};

/* An empty tree: its root, 0755 of root. */
struct rootfs *rootfs_new(void);
void rootfs_free(struct rootfs *t); /* NULL-safe */

/* What is added from now on belongs to the next layer. */
void rootfs_next_layer(struct rootfs *t);

/* Add an entry, a whiteout or an opaque marker. FCM_INVALID naming the entry and what is wrong with it, FCM_TOO_LARGE. The
 * tree is good for nothing then. */
int rootfs_add(struct rootfs *t, const struct rootfs_entry *e, struct fcm_error *err) must_check;

/* Its root, which is always there. */
struct rootfs_node *rootfs_root(struct rootfs *t);

/* The node behind `n` where all nodes are walked, parents first, children in the order of the tree; NULL at the end. Begins
 * with the root. */
struct rootfs_node *rootfs_walk(struct rootfs_node *n);

/* Find a path, without following a link at its end; NULL when it isn't there. */
struct rootfs_node *rootfs_find(struct rootfs *t, const char *path);

/* Entries that were added, and bytes of the files that the layers had so far. */
uint64_t rootfs_entries(const struct rootfs *t);
uint64_t rootfs_bytes(const struct rootfs *t);
