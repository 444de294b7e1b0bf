/*
 * A kernel that is made here of what a request brought: a directory beside the kernels, which takes the place of an older one whole
 * or goes.
 *
 *	<state>/kernels/.<random>/	root's alone
 *	<state>/kernels/.<random>/kernel/	the job's (daemon/oci), then root's, and at last the kernel
 *
 * A kernel is three files: vmlinux, an ELF; initrd; release, what `uname -r` says of it.
 */
#pragma once

#include "daemon/image/image.h"
#include "daemon/image/store.h"

/* What all its files may have together. */
#define KERNEL_BYTES ((int64_t)257 << 20)

struct kernel_making {
	bool begun;		/* else the rest says nothing */
	struct image_temp temp; /* the outer directory's name */
	int dir_fd, job_fd;
};

/* The names of its files. */
void kernel_names(struct strv *ret);

/* Begin one; `uid` gets the job's directory, which no other job of that uid gets at. */
int kernel_make_begin(uid_t uid, struct kernel_making *ret, struct fcm_error *err) must_check;

/* Make it visible under that name; what the job left must be a kernel and nothing else. FCM_INVALID, FCM_TOO_LARGE. */
int kernel_make_commit(struct kernel_making *m, const struct asset_name *name, struct image_info *ret,
	struct fcm_error *err) must_check;

/* Remove what didn't become one; for the end in any case. Nothing is done for one that wasn't begun, or has ended. */
void kernel_make_done(struct kernel_making *m);
