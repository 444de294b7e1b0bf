/*
 * A tar with exactly the files that it should hold, and nothing else.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

/* A file of the tar. It is written sparsely, mode 0444. */
struct unpack_member {
	const char *name;
	uint64_t max;	   /* bytes */
	const char *magic; /* bytes that it must begin with (no NUL among them), or NULL */
	const char *what;  /* what a file with that magic is, for the error: "an ELF" */

	/* what was found */
	bool seen;
	uint64_t size;
};

/* Read a tar (ustar, pax or GNU; plain, gzip or zstd) from fd to its end, into the new files of dirfd. Each of the n
 * members must be there once, as a regular file, and nothing else may be. FCM_INVALID, FCM_TOO_LARGE, FCM_NO_SPACE; what
 * was written until then stays for the caller to remove. */
int unpack_tar(int fd, int dirfd, struct unpack_member *members, size_t n, struct fcm_error *err) must_check;
