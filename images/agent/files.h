/*
 * Files that the host puts into the guest.
 */
#pragma once

#include <stddef.h>

#include "common/core/error.h"
#include "common/core/util.h"

/* Do the request `file` (docs/AGENT.md): the n bytes at p are its kv list and, behind that, the contents. The
 * path is absolute, without "." or ".."; parents are made with 0755. -1 with FCM_INVALID for arguments, else
 * the system's error. */
int files_write(const void *p, size_t n, struct fcm_error *err) must_check;

/* Whether a path is one that files_write() takes. */
bool files_path_valid(const char *path);
