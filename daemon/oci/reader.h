/*
 * A file system that a guest wrote, read without a mount: ext4 as mke2fs makes it, unmounted. Any byte of it may be a lie, so names
 * and sizes are checked; a place on the disk may lie beyond its end. Format: the kernel's Documentation/filesystems/ext4.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "common/core/error.h"
#include "common/core/util.h"

struct reader;

enum { READER_ROOT = 2 }; /* the inode of the root directory */

/* Open the one in the file `fd`, which stays the caller's. FCM_GUEST when it is none, or wasn't unmounted. */
int reader_open(int fd, struct reader **ret, struct fcm_error *err) must_check;
void reader_close(struct reader *r); /* NULL-safe */

/* What a directory holds but for "." and "..", in the order of strcmp(3). No name has a '/' in it. */
struct reader_name {
	uint32_t inode;
	char *name;
};
struct reader_names {
	struct reader_name *v;
	size_t n;
};
int reader_names(struct reader *r, uint32_t dir, size_t max, struct reader_names *ret,
	struct fcm_error *err) must_check; /* at most `max`, else FCM_TOO_LARGE */
void reader_names_done(struct reader_names *names);

/* The inode of one of them; 0: it isn't there. */
int reader_find(
	struct reader *r, uint32_t dir, const char *name, uint32_t *ret, struct fcm_error *err) must_check;

struct reader_xattr {
	char *name; /* "user.comment" */
	void *value;
	size_t n;
};

struct reader_inode {
	mode_t mode; /* with its type */
	uint32_t uid, gid, links;
	int64_t mtime; /* seconds */
	unsigned major, minor;
	uint64_t size;
	char *target; /* of a symbolic link */
	struct reader_xattr *xattrs;
	size_t xattrs_n;
};
int reader_inode(
	struct reader *r, uint32_t number, struct reader_inode *ret, struct fcm_error *err) must_check;
void reader_inode_done(struct reader_inode *i);

/* Where a regular file of `size` bytes has data: ascending, within it. FCM_INVALID when it is kept in a way that this doesn't read. */
struct reader_run {
	uint64_t at, n, disk; /* bytes; `disk`: where they are in the file of the file system */
};
struct reader_runs {
	struct reader_run *v;
	size_t n;
};
int reader_runs(struct reader *r, uint32_t number, uint64_t size, struct reader_runs *ret,
	struct fcm_error *err) must_check;
void reader_runs_done(struct reader_runs *runs);

/* Read n bytes at `disk`. */
int reader_read(struct reader *r, uint64_t disk, void *p, size_t n, struct fcm_error *err) must_check;
