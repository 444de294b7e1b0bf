/*
 * A merged tree as a file system: ext4 without a journal, for a disk that nobody ever writes. The same tree and seed give the
 * same bytes: no clock and no random number goes in. Format: the kernel's Documentation/filesystems/ext4. With
 * reader.c the only user of libext2fs, whose checksums, allocation tables and extent trees these are; names are put into
 * directories here, since ext2fs_link() looks at a whole directory for each.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"
#include "daemon/oci/layer.h"
#include "daemon/oci/rootfs.h"

enum { EXT4_SEED = 32 };

struct ext4;

/* Make the file system in the regular file `fd` (emptied before; sparse; not closed) with everything of the tree but what is
 * in its files. UUID and hash seed come from `seed`. The tree's inodes get their numbers. FCM_TOO_LARGE when the tree doesn't
 * fit into a file system, FCM_NO_SPACE. */
int ext4_new(int fd, struct rootfs *t, const unsigned char seed[EXT4_SEED], struct ext4 **ret,
	struct fcm_error *err) must_check;

/* Takes the contents of the tree's files, one after the other. */
struct layer_sink ext4_sink(struct ext4 *e);

/* Write what is left and free it; with ret_size the size of the file system in bytes. */
int ext4_finish(struct ext4 *e, uint64_t *ret_size, struct fcm_error *err) must_check;

/* Give it up; NULL-safe. */
void ext4_free(struct ext4 *e);
