/*
 * Key=value lists in one block of memory: "key=value\0key=value\0". The payload of agent frames and the plan that a shim
 * gets are such lists: no parser to attack, no allocation to size. A value holds no NUL; a key no '='. A key may
 * repeat: that is a list. An empty entry ends the list, and raw bytes may follow it.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/core/util.h"

/* Append one entry. */
void kv_add(struct buf *b, const char *key, const char *value);
void kv_addf(struct buf *b, const char *key, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* End the list (an empty entry), so that raw bytes can follow. */
void kv_end(struct buf *b);

/* Value of the first entry `key` in the list of n bytes at p, or NULL. Never reads past p + n: an entry that isn't
 * terminated doesn't count. An empty list may be at NULL, here and below. */
const char *kv_get(const void *p, size_t n, const char *key);

/* The next value of `key` behind the value `prev` (NULL: the first), or NULL. */
const char *kv_next(const void *p, size_t n, const char *key, const char *prev);

/* A number in min..max, or `otherwise` when the key is missing or isn't one. */
int64_t kv_i64(const void *p, size_t n, const char *key, int64_t min, int64_t max, int64_t otherwise);

/* The raw bytes behind the list: returns their start and sets *ret_n; NULL when the list has no end. */
const void *kv_raw(const void *p, size_t n, size_t *ret_n);
