/*
 * Tar archives as a stream: headers out, headers in. tree.h makes them of files and files of them.
 *
 * What is written is POSIX.1-2001 pax over ustar (pax(1), "ustar Interchange Format", "pax Header Block"), so that any tar
 * reads it: long names and large numbers as pax records, extended attributes as star(5) and GNU tar have them, holes as GNU
 * tar's sparse format 1.0 (tar's manual, "PAX Format, Version 1.0"). What is read is that, older ustar and v7, and what GNU tar writes by itself (long names as entries L and K,
 * numbers in base 256); its older sparse formats are refused by name.
 *
 * Who can no longer go on between two files says why in the archive: a last record FCM.error in place of the end. pax(1)
 * leaves names with upper case to vendors, and other readers find an archive that is cut off, which it is.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum {
	TAR_BLOCK = 512,
	TAR_PATH_MAX = 4096,	 /* with its NUL: PATH_MAX of Linux */
	TAR_PAX_MAX = 256 << 10, /* bytes of one extended header: attributes that we don't use may be large */
	TAR_SEGMENTS_MAX = 1 << 16, /* pieces of one sparse file */
	TAR_BUFFER = 64 << 10,
};

enum tar_type { TAR_FILE, TAR_DIR, TAR_SYMLINK, TAR_HARDLINK, TAR_CHAR, TAR_BLOCKDEV, TAR_FIFO };

/* Where a sparse file has data. */
struct tar_segment {
	uint64_t at, n;
};

/* An extended attribute, xattr(7); there is no '=' in its name. */
struct tar_xattr {
	const char *name;
	const void *value;
	size_t n;
};

struct tar_entry {
	enum tar_type type;
	char path[TAR_PATH_MAX]; /* as it stands there: it may be absolute, or go up */
	char link[TAR_PATH_MAX]; /* of TAR_SYMLINK and TAR_HARDLINK */
	unsigned mode;		 /* of 07777 */
	uint32_t uid, gid;
	int64_t mtime;		 /* seconds since 1970, 0 to 2^34 */
	unsigned major, minor;	 /* of TAR_CHAR and TAR_BLOCKDEV */
	uint64_t size;		 /* of TAR_FILE: of the file as it will be, else 0 */
	struct tar_segment *map; /* its data, ascending and within size; NULL: it has no holes */
	size_t segments;
	const struct tar_xattr *xattrs; /* written; who reads gets none */
	size_t xattrs_n;
};

/* ---- writing ---- */

/* Append the header of *e. Its data follows: all of it, or of a sparse file the bytes of its segments; then tar_pad(). */
void tar_add(struct buf *out, const struct tar_entry *e);

/* Append zeros up to a whole block after n bytes of data. */
void tar_pad(struct buf *out, uint64_t n);

/* Append the end of an archive, or what kept it from being whole. */
void tar_add_end(struct buf *out);
void tar_add_error(struct buf *out, const char *why);

/* ---- reading ---- */

/* `fd` is the caller's; the rest begins zeroed. */
struct tar_reader {
	int fd;
	size_t begin, end; /* of what is in `bytes` */
	uint64_t data;	   /* bytes of the entry's data that weren't read */
	unsigned padding;  /* behind them */
	struct tar_segment *map;
	size_t segments, next; /* the segment that comes, of it ... */
	uint64_t done;	       /* ... so much is read; without a map of the whole */
	char bytes[TAR_BUFFER];
};

/* The next entry, behind what is left of the one before: 1; 0 at the end of the archive; -1. e->map belongs to the reader and is
 * good until the next call. FCM_UNAVAILABLE: it ends early. FCM_GUEST: FCM.error was there. FCM_INVALID: it isn't an
 * archive, or one that we don't take; the message says why. */
int tar_next(struct tar_reader *r, struct tar_entry *e, struct fcm_error *err) must_check;

/* The next piece of the entry's data and where it belongs in the file: its bytes, 0 when there is no more, -1 as above. *ret
 * is good until the next call. */
ssize_t tar_data(struct tar_reader *r, const char **ret, uint64_t *ret_at, struct fcm_error *err) must_check;

/* Read what is behind the end, so that who writes it meets no closed door: at most 1 MiB. */
void tar_drain(struct tar_reader *r);

/* Free what it holds. */
void tar_reader_done(struct tar_reader *r);
