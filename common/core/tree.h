/*
 * Files and directories as a tar archive on a descriptor, and back: the agent's and the client's half of cp.
 *
 * Who sends an archive is the enemy of who unpacks it. Unpacking opens each directory below its target by itself and without
 * following a link (O_NOFOLLOW), one component at a time, so neither names that go up nor links, whether they lay there, came
 * earlier in the archive or are put there meanwhile, lead anywhere else. Files and links are made under a name of their own
 * and renamed: nothing is written through what was there, and what was there stays until the new one is whole.
 *
 * Both block. They are run by a process of their own, which ends when the descriptor does.
 */
#pragma once

#include <limits.h>
#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum {
	TREE_DEPTH_MAX = 256,	     /* directories in one another: each is a descriptor */
	TREE_ENTRIES_MAX = 1 << 24,  /* that one archive may have */
	TREE_SEGMENTS_MAX = 1 << 13, /* pieces that a file is cut into; behind them holes are written out */
	TREE_HEAD = 1 << 20,	     /* bytes of an archive in which the head of its first entry is whole */
};

enum {
	TREE_PLACE =
		1, /* the archive is one file or directory, to be put where cp(1) would: see tree_unpack() */
	TREE_OWNERS = 2,  /* keep owner and group; else they are root's in the archive, and ours in files */
	TREE_SETID = 4,	  /* keep setuid, setgid and sticky bits */
	TREE_DEVICES = 8, /* make devices and fifos; else they are passed over */
};

struct tree_count {
	uint64_t entries, bytes; /* bytes: of data, without holes */
	uint64_t skipped;	 /* sockets, and without TREE_DEVICES devices and fifos */
};

/* Write the archive of `path` to fd: one file, link (itself, not what it leads to) or directory with what is in it. Its names
 * begin with the last component of the path, or with "." where that is "/", "." or "..". What /proc and /sys hold isn't
 * read, unless the path leads there. flags: TREE_OWNERS. FCM_NOT_FOUND for field "path"; FCM_CANCELLED when nobody reads any
 * more (EPIPE; the caller ignores SIGPIPE); what fails between two files is said in the archive, too. */
int tree_pack(
	int fd, const char *path, unsigned flags, struct tree_count *ret, struct fcm_error *err) must_check;

/* The name that the archive of `path` begins with. */
void tree_name(const char *path, char ret[static PATH_MAX]);

/* Is the archive that begins with these bytes (TREE_HEAD, or all that there are) named as tree_pack() names that of `path`? Who
 * sends something under another name would choose what of ours it replaces. FCM_INVALID, and what tar_next() says. */
int tree_check_name(const void *head, size_t n, const char *path, struct fcm_error *err) must_check;

/* Unpack the archive that comes from fd, until its end.
 *
 * Without TREE_PLACE `target` is a directory that is there. With it the archive's entries begin with one name, of a file or
 * directory, or with ".", and
 *	target is a directory		it is put into it under its name; of "." what is in it
 *	target is something else	a file takes its place; a directory can't
 *	target isn't there		it gets that name; its parent must be there. A target that ends in "/" can't be a file
 * A directory that was there keeps its owner and mode. FCM_NOT_FOUND and FCM_INVALID for field "path"; FCM_INVALID for an
 * archive that isn't taken; FCM_UNAVAILABLE when it ends early; FCM_GUEST when it ends with the reason of who packed it. What
 * was unpacked before the error stays. *ret counts in any case. */
int tree_unpack(
	int fd, const char *target, unsigned flags, struct tree_count *ret, struct fcm_error *err) must_check;
