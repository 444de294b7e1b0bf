/*
 * Releases of Firecracker below the state directory:
 *
 *     firecracker/<version>/firecracker, jailer    0755, root's
 *     firecracker/<version>/SHA256SUMS             their digests, as sha256sum -c takes them
 *     firecracker/current -> <version>             what the daemon runs
 *
 * A version's directory appears whole, or not at all. VMs that run keep the file that they were started with.
 */
#pragma once

#include "client/fetch.h"
#include "common/field.h"

/* Unpack what is needed of a checked archive (open at archive_fd) and make it the current version. `dirfd` is
 * <state>/firecracker. FCM_HOST when the archive lacks a program or can't be read. */
int install_release(int dirfd, const struct release *r, int archive_fd, struct fcm_error *err) must_check;

/* Let `current` lead to the version. */
int install_choose(int dirfd, const struct release *r, struct fcm_error *err) must_check;

/* Compare what is there of a version with its SHA256SUMS: append {file, version, status} to `rows` for each file, where
 * status is ok, changed or missing. Returns whether all are ok. */
bool install_verify(int dirfd, const char *version, field_json *rows);

/* The versions that are there, the oldest first, as an array of {version, name, current, sha256}; the caller's. */
field_json *install_list(int dirfd);
