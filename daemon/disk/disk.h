/*
 * The writable disk of a VM: a sparse copy of an empty ext4 template of its size. The image underneath is read-only and
 * shared; overlayfs in the guest joins the two. Raw only; the host never mounts nor checks what a guest wrote.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "common/core/error.h"
#include "common/core/util.h"

/* Make <dirfd>/<name> of `mib` MiB, owned by uid (0600), as a copy of <templates_dirfd>/<mib>.ext4, which is made
 * by mkfs.ext4 the first time. Data extents only are copied (FICLONE where the file system can, else SEEK_DATA and
 * copy_file_range). An existing one is replaced. `lasting`: on the disk before it has its name; not needed where nothing else is
 * left after a crash. FCM_NO_SPACE when it doesn't fit. */
int disk_make(int dirfd, const char *name, int templates_dirfd, unsigned mib, uid_t uid, bool lasting,
	struct fcm_error *err) must_check;

/* What a copy is called behind its name until it is whole. */
#define DISK_TEMP ".tmp"

/* Make <dirfd>/<name>, owned by uid (0600), a copy of the open disk `from`, likewise. */
int disk_copy(
	int from, int dirfd, const char *name, uid_t uid, bool lasting, struct fcm_error *err) must_check;

/* disk_make() for <vm_dirfd>/rootfs.img, not lasting: with the first thing that its guest syncs all of it is on the disk. */
int disk_create(int vm_dirfd, int templates_dirfd, unsigned mib, uid_t uid, struct fcm_error *err) must_check;

/* Open it, for reading; and make it a copy of another, likewise. */
int disk_open(int vm_dirfd, struct fcm_error *err) must_check;
int disk_sync(int vm_dirfd, struct fcm_error *err) must_check; /* what was written to it is lasting then */
int disk_replace(int vm_dirfd, int from, uid_t uid, bool lasting, struct fcm_error *err) must_check;

/* Bytes that the disk occupies now; 0 when there is none. */
uint64_t disk_used(int vm_dirfd);

/* Bytes free for us on the file system of dirfd. */
uint64_t disk_free_bytes(int dirfd);
