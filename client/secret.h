/*
 * Files of the user that hold a token.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"

/* Read the file at `path`, at most `max` bytes; the text is the caller's. FCM_NOT_FOUND when it isn't there; FCM_FORBIDDEN when it
 * can't be read, or others may read it, too. */
int secret_read(const char *path, size_t max, struct buf *ret, struct fcm_error *err) must_check;

/* The token in the n bytes at `text`, without spaces at its ends; the caller's. `from` is what an error calls them. FCM_NO_TOKEN when
 * there is none, or something that may not stand in a header. */
int secret_token(const char *text, size_t n, const char *from, char **ret, struct fcm_error *err) must_check;
