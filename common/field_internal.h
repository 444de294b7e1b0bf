/*
 * What field.c (JSON) and field_text.c (text) share: setting a member from a number or a text, with one set
 * of messages.
 */
#pragma once

#include "common/field.h"

enum { FIELD_PATH = 64 };

/* Text from outside, short and on one line, for a message. */
struct field_clip {
	char s[48];
};
struct field_clip field_clip(const char *s);

/* "outer.key", or "key" when outer is "". Cut to fit. */
void field_path(char ret[FIELD_PATH], const char *outer, const char *key);

/* Refuse an unknown key, with the nearest one in the hint. Returns -1. */
int field_unknown(const struct field *t, const char *path, const char *key, struct fcm_error *err);

/* Is the member at p empty? */
bool field_empty(const struct field *f, const void *p);

/* Set a FIELD_U32, FIELD_I64 or FIELD_MIB from a number. */
int field_put_int(
	const struct field *f, void *p, const char *path, int64_t v, struct fcm_error *err) must_check;

/* Set a FIELD_STR, CHARS, ENUM, IPV4, TIME or MIB from its text. */
int field_put_str(
	const struct field *f, void *p, const char *path, const char *s, struct fcm_error *err) must_check;

/* Add one entry to a FIELD_STRV, or "K=V" to a FIELD_MAP, where it replaces an older K. */
int field_put_entry(const struct field *f, struct strv *l, const char *path, const char *s,
	struct fcm_error *err) must_check;
