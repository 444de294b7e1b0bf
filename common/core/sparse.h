/*
 * Files with holes: what isn't written costs no disk and reads as zeros.
 */
#pragma once

#include <sys/types.h>

#include "common/core/util.h"

/* Are all of them zeros? */
bool all_zeros(const char *p, size_t n);

/* Write n bytes to `at` of a file that reads as zeros there: blocks of 4096 bytes that are zeros are left out. 0, or -1 with
 * errno. */
int sparse_write(int fd, const void *data, size_t n, off_t at) must_check;

/* Copy the bytes from..to of what begins at `base` of `in` to that place of `out`, which reads as zeros there; zeros become
 * holes. 0, or -1 with errno, EIO when `in` is shorter. */
int sparse_copy_range(int in, off_t base, int out, off_t from, off_t to) must_check;

/* Make `out`, which is empty, equal to `in`, with its holes; a clone (FICLONE) where the file system can. 0, or -1 with errno. */
int sparse_copy(int in, int out) must_check;
