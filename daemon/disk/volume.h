/*
 * The store of volumes: disks with a name, which VMs come and go from. Nothing in it knows who has one.
 *
 *	<state>/volumes/<name>/volume.ext4	a sparse copy of an empty ext4 template; the host never mounts it
 *	                       volume.json	when it was made, and for whom
 *
 * The folder is root's alone (0700): a VM reaches a volume by the bind in its jail. A volume's file belongs to the VM that
 * wrote last, and anybody who gets it into a jail may read it.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "common/core/error.h"
#include "common/core/names.h"

#define VOLUME_FILE "volume.ext4"

struct volume_info {
	struct asset_name name;
	char vm[9];	  /* id of the VM that it goes with, or "" */
	uint64_t size;	  /* bytes */
	uint64_t on_disk; /* bytes that it occupies */
	int64_t created;
};

/* Open <state_dir>/volumes, made if missing, and remove what a daemon that was killed left half-made. */
int volume_init(const char *state_dir, struct fcm_error *err) must_check;

/* Make one of `mib` MiB; `vm` is the id of the VM that it goes with, or "". FCM_NAME_TAKEN when there is one, FCM_NO_SPACE. */
int volume_make(const struct asset_name *name, const char *vm, int templates_dirfd, unsigned mib,
	struct fcm_error *err) must_check;

/* Make one that is a copy of the open disk `from`, likewise; one that is there gets its content. */
int volume_copy(const struct asset_name *name, const char *vm, int from, struct fcm_error *err) must_check;

/* Open its file, for reading. FCM_NOT_FOUND. */
int volume_open(const struct asset_name *name, struct fcm_error *err) must_check;

/* What there is of it. FCM_NOT_FOUND. A volume.json that can't be read costs `vm` and `created` only. */
int volume_find(const struct asset_name *name, struct volume_info *ret, struct fcm_error *err) must_check;

/* All, sorted by name; *ret is the caller's. */
int volume_list(struct volume_info **ret, size_t *ret_n, struct fcm_error *err) must_check;

/* Let `uid` write it. */
int volume_give(const struct asset_name *name, uid_t uid, struct fcm_error *err) must_check;

/* Remove it; a missing one is fine. Adds the bytes it freed to *freed when that isn't NULL. */
int volume_remove(const struct asset_name *name, uint64_t *freed, struct fcm_error *err) must_check;
