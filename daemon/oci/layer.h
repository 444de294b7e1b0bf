/*
 * One layer's archive: what is in it, and once more the bytes of some of its files.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"
#include "daemon/oci/rootfs.h"

/* Told how far reading a layer is, in bytes. */
typedef void layer_progress(void *arg, uint64_t done);

/* Read a layer (tar: ustar, pax, GNU) from the begin of fd to its end and add all that is in it to the tree. The bytes must have
 * the sha256 `diff_id` (hex). FCM_INVALID, FCM_TOO_LARGE. `progress` may be NULL. */
int layer_scan(int fd, const char *diff_id, struct rootfs *t, layer_progress *progress, void *arg,
	struct fcm_error *err) must_check;

/* What takes the bytes of files: `begin` once for each, then `piece` for each piece of ROOTFS_PIECE (or what is left of the
 * file) that isn't all zeros, in order, at a multiple of ROOTFS_PIECE, and `end`. */
struct layer_sink {
	int (*begin)(void *arg, struct rootfs_inode *inode, struct fcm_error *err);
	int (*piece)(void *arg, uint64_t at, const void *p, size_t n, struct fcm_error *err);
	int (*end)(void *arg, struct fcm_error *err);
	void *arg;
};

/* Read the layer again for the n files of `inodes`, which are in the order of their index. */
int layer_copy(int fd, struct rootfs_inode *const *inodes, size_t n, const struct layer_sink *sink,
	struct fcm_error *err) must_check;
