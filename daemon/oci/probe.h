/*
 * What a stream is, by its first bytes. Pure.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum { PROBE_BYTES = 2048 }; /* that are needed */

enum probe_kind { PROBE_OTHER, PROBE_TAR, PROBE_EXT4 };
enum probe_kind probe_kind(const void *bytes, size_t n);

/* The first bytes of an ext4 (or ext2, ext3): would a guest mount it, is it as large as its file of `size` bytes, and was it
 * unmounted? FCM_INVALID. */
int probe_ext4(const void *bytes, size_t n, uint64_t size, struct fcm_error *err) must_check;
