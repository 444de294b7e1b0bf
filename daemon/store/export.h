/*
 * A snapshot as a stream: a tar, compressed with zstd, of snapshot.json as it is here and then the files that it lists, with their holes.
 * It holds what its VM's memory and environment held, in the clear.
 */
#pragma once

#include "daemon/store/snapshot.h"

struct snapshot_export;

/* Begin one of the snapshot in dirfd, which nobody removes before the end. FCM_CONFIG when a file of it has changed. */
int snapshot_export_open(
	int dirfd, const struct snapshot *s, struct snapshot_export **ret, struct fcm_error *err) must_check;

/* Its next bytes, at most n. 0 at the end; -1 with errno. */
ssize_t snapshot_export_read(struct snapshot_export *x, char *p, size_t n);

void snapshot_export_close(struct snapshot_export *x); /* NULL-safe */
