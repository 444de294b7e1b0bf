/*
 * A program of others, run to its end, with what it prints kept.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"

/* Run a program, which is found in PATH unless its name has a slash: `input` is its stdin, and of its stdout the first `max` bytes are
 * appended to `out`. *ret_status is as of waitpid(2). FCM_NOT_FOUND when there is no such program. */
int capture(const char *const argv[], const char *input, size_t max, struct buf *out, int *ret_status,
	struct fcm_error *err) must_check;
