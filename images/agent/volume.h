/*
 * Volumes: disks beside the guest's own, each mounted at a place of the guest's root.
 *
 * What the guest sees is the directory `data` of a volume's file system, not its root, where lost+found is in the way of
 * programs that want an empty directory. A volume without `data` is new: nobody has written to it. It is filled under another
 * name, which becomes `data` when it is whole.
 *
 * The file system is mounted at a place of ours, `data` bound from there, and then the place is given up; a descriptor is kept
 * for the shutdown.
 */
#pragma once

#include <stdbool.h>

#include "common/core/volume.h"
#include "images/agent/exec.h"

enum { VOLUMES_MAX = 8 };

struct volume {
	char device[16];
	int fd;	   /* the root of its file system */
	bool done; /* bound */
};

struct volumes {
	struct volume v[VOLUMES_MAX];
	size_t n;
};

/* op=volume, a kv list of n bytes. *ret_new: it has nothing yet, so it isn't bound: volume_fill(), then this again. What is
 * done stays done. */
int volume_mount(
	struct volumes *vs, const void *kv, size_t n, bool *ret_new, struct fcm_error *err) must_check;

/* op=fill on stream `number`: copy what the root has at `path` into a new volume. */
int volume_fill(struct volumes *vs, struct execs *x, uint32_t number, const void *kv, size_t n,
	struct fcm_error *err) must_check;

/* The process of it: argv is `x copy fill PATH DIR`. Returns its exit status; on failure it says why on stdout. */
int volume_fill_run(const char *path, const char *dir);

/* Make all of them read-only, so that the next machine finds a clean file system. For the end only. */
void volume_finish(const struct volumes *vs);
