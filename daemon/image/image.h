/*
 * Images and kernels: what a VM is made of, read-only and shared.
 *
 *	<state>/images/<name>/image.ext4 + image.json {"name","tag","created","size","sha256"}
 *	<state>/kernels/<name>/{vmlinux,initrd,release}
 *
 * Both arrive as a request body (a tar with exactly those files), are unpacked into a temporary directory beside their
 * place and renamed into it: half of one is never visible. Nothing in an image is executed or mounted by the host.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/names.h"
#include "common/core/util.h"

struct image_info {
	struct asset_name name;
	char tag[32];
	char digest[65];  /* sha256 of image.ext4, hex */
	uint64_t size;	  /* apparent bytes */
	uint64_t on_disk; /* occupied bytes */
	int64_t created;  /* seconds since the epoch */
	bool is_kernel;
};

/* Open the store below `state_dir`. Leftover temporary directories are removed. */
int image_init(const char *state_dir, struct fcm_error *err) must_check;

/* Facts of an image. FCM_NO_IMAGE with the command that makes one. */
int image_find(const struct asset_name *name, struct image_info *ret, struct fcm_error *err) must_check;

/* Paths (the caller's strings) of an image's ext4, and of a kernel's vmlinux and initrd. FCM_NO_IMAGE, FCM_NO_KERNEL. */
int image_path(const struct asset_name *name, char **ret, struct fcm_error *err) must_check;
int kernel_paths(const struct asset_name *name, char **ret_vmlinux, char **ret_initrd,
	struct fcm_error *err) must_check;

/* All images and kernels; *ret is the caller's array of *ret_n. */
int image_list(struct image_info **ret, size_t *ret_n, struct fcm_error *err) must_check;

/* Receiving one: begin, feed the pieces of the tar in order, then commit (visible, replaces an older one whole) or
 * abort. An image in use may be replaced: running VMs keep the old file. The tar is plain, gzip or zstd. Errors are
 * FCM_INVALID (what is wrong with it), FCM_TOO_LARGE, FCM_NO_SPACE; FCM_UNAVAILABLE when four uploads are in progress. A
 * commit may take a minute for a large image. */
struct image_upload;
int image_upload_begin(const struct asset_name *name, bool is_kernel, struct image_upload **ret,
	struct fcm_error *err) must_check;
int image_upload_feed(struct image_upload *up, const void *data, size_t n, struct fcm_error *err) must_check;
int image_upload_commit(struct image_upload *up, struct image_info *ret, struct fcm_error *err) must_check;
void image_upload_abort(struct image_upload *up); /* NULL-safe; also frees after a commit */

/* Remove an image or kernel. */
int image_remove(const struct asset_name *name, bool is_kernel, struct fcm_error *err) must_check;
