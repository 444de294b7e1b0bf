/*
 * Files and sockets the careful way: whole, atomic, bounded, never through a link that somebody else planted.
 * All descriptors are CLOEXEC.
 */
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include "common/core/error.h"
#include "common/core/util.h"

/* Read the whole file `name` below `dirfd` (or AT_FDCWD), at most `max` bytes, without following a link at its end and
 * only if it is a regular file. The text is terminated and the caller's. ENOENT is FCM_NOT_FOUND. */
int file_read(int dirfd, const char *name, size_t max, struct buf *ret, struct fcm_error *err) must_check;

/* Take, as root, what a program left that ran as a stranger and has ended: its descriptor, to read, or -1. It must be a regular file of
 * that name alone, and is root's from then on, 0444. ENOENT is FCM_NOT_FOUND; FCM_INVALID. */
int file_take_over(int dirfd, const char *name, struct stat *ret, struct fcm_error *err) must_check;

/* Replace `name` below `dirfd` by `data` so that after a crash it is the old or the new one: temp, fsync, rename,
 * fsync(dir). */
int file_write_atomic(int dirfd, const char *name, mode_t mode, const void *data, size_t n,
	struct fcm_error *err) must_check;

/* The same with the owner, group and permissions of `like`, as root. */
int file_write_like(int dirfd, const char *name, const struct stat *like, const void *data, size_t n,
	struct fcm_error *err) must_check;

/* As file_write_atomic() for whoever reads it meanwhile, but a crash may leave nothing of it: for what is written anew before it is read
 * again. */
int file_replace(int dirfd, const char *name, mode_t mode, const void *data, size_t n,
	struct fcm_error *err) must_check;

/* Write to a file of /proc or /sys: one write(2) to an existing file. */
int file_poke(const char *path, const char *text, struct fcm_error *err) must_check;

/* read(2) and write(2) until all is done. Return 0, or -1 with errno (EPIPE at an early end of file). */
int fd_read_all(int fd, void *data, size_t n) must_check;
int fd_write_all(int fd, const void *data, size_t n) must_check;

/* Make a directory and its parents (0755), then give the last one `mode`. An existing one is fine if it is a directory
 * and not a link. */
int dir_make(const char *path, mode_t mode, struct fcm_error *err) must_check;

/* Open a directory, not following a link at its end. Returns the descriptor, or -1. */
int dir_open(int dirfd, const char *name, struct fcm_error *err) must_check;

/* The names of what is in the directory `dirfd`, sorted. */
int dir_names(int dirfd, struct strv *ret, struct fcm_error *err) must_check;

/* Remove a directory below `dirfd` with everything in it; links are removed, never followed; it doesn't cross into
 * another file system. However deep it is and however much is in it, stack, memory and descriptors don't grow. A file
 * is removed, too, and a missing one is fine. Adds the disk bytes it freed to *freed when that isn't NULL. When it
 * fails, some of what is left may lie elsewhere in the directory. Nobody may be writing there: it could go on for ever. */
int dir_remove(int dirfd, const char *name, uint64_t *freed, struct fcm_error *err) must_check;

/* Connect to or listen at the unix stream socket `name` in directory `dirfd`, through /proc/self/fd so that the length
 * of the path doesn't matter (sun_path holds 108 bytes: unix(7)). Non-blocking iff `flags` has SOCK_NONBLOCK. Connecting
 * follows no link at the end: whoever owns the directory could lead us to any socket of the host. A stale socket is
 * unlinked before listening. Return the descriptor, or -1. */
int unix_connect(int dirfd, const char *name, int flags, struct fcm_error *err) must_check;
int unix_listen(int dirfd, const char *name, mode_t mode, int flags, struct fcm_error *err) must_check;
