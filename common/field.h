/*
 * Field tables: one row describes one member of a struct, and from it we decode and check JSON, refuse unknown fields by
 * name, encode, redact, parse the text of a command line or a config file, and print documentation.
 * field.c and json.c are the only places that know jansson.
 *
 * A value is empty when it is zero, "", a list without entries, or an object whose first row is empty. On the wire null
 * means the same as leaving the field out: the struct keeps what it held.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum field_type {
	FIELD_BOOL,  /* bool */
	FIELD_U32,   /* uint32_t, min..max; max 0: all of the type */
	FIELD_I64,   /* int64_t, min..max; max 0: all of the type */
	FIELD_MIB,   /* uint32_t MiB: JSON number of MiB, or text with a suffix ("2g"); min..max in MiB */
	FIELD_STR,   /* char *, owned; at most max bytes (0: no limit of its own) */
	FIELD_CHARS, /* char[size]; at most size - 1 bytes */
	FIELD_ENUM,  /* an int-sized enum; names in `names`, NULL-ended, in order of value */
	FIELD_IPV4,  /* struct in_addr; JSON text, absent or null when 0 */
	FIELD_TIME,  /* int64_t seconds since the epoch; JSON RFC 3339; absent or null when 0 */
	FIELD_STRV,  /* struct strv; JSON array of strings, at most max entries (0: no limit of its own) */
	FIELD_MAP, /* struct strv of "K=V"; JSON object of strings, at most max entries; no K is empty or has a '=' */
	FIELD_KEYS,   /* struct strv; JSON object, of which only the keys count, at most max of them */
	FIELD_SIGNAL, /* uint32_t, 1..SIGNAL_MAX; JSON number, or text with a name ("SIGTERM", "rtmin+3") */
	FIELD_OBJECT, /* a struct with the table `sub` */
};

enum {
	FIELD_REQUIRED = 1 << 0,
	FIELD_SECRET = 1 << 1,	   /* encoded as "***" unless asked for */
	FIELD_READONLY = 1 << 2,   /* encoded, refused on the wire */
	FIELD_OMIT_EMPTY = 1 << 3, /* not encoded when zero or empty */
	FIELD_NULL_EMPTY = 1 << 4, /* encoded as null when zero or empty */
	FIELD_SPAN = 1 << 5, /* of FIELD_U32, seconds: in a text "90s", "5m" and "1m30s" are fine, too */
};

struct field {
	const char *key;
	enum field_type type;
	size_t off, size;
	int64_t min, max;
	const char *const *names;
	const struct field *sub;
	unsigned flags;
	/* A check beyond the range, after the value is set; `value` points to the member, `key` is its dotted path. */
	int (*check)(const void *value, const char *key, struct fcm_error *err);
	const char *doc;
};

/* F(struct vm_spec, vcpus, FIELD_U32, .min = 1, .max = 32, .doc = "...") : a row; the key is the member's name. */
#define F(type_, member, ftype, ...) FK(#member, type_, member, ftype, __VA_ARGS__)
#define FK(key_, type_, member, ftype, ...)                                                                  \
	{                                                                                                    \
		.key = (key_), .type = (ftype), .off = offsetof(type_, member),                              \
		.size = sizeof(((type_ *)0)->member), __VA_ARGS__                                            \
	}
#define FIELD_END                                                                                            \
	{                                                                                                    \
		.key = NULL                                                                                  \
	}

enum field_mode {
	FIELD_WIRE, /* strict: unknown, duplicate and read-only fields are refused */
	FIELD_DISK, /* tolerant: unknown fields are ignored, read-only ones accepted */
};

/* Decode one JSON object of n bytes into *obj, a struct with the table `t` (already holding its defaults). The error
 * names the field: "net.brigde: unknown field", "vcpus: 99 is outside 1..32", and for bad JSON the line and column. The
 * depth is bounded. An empty body (n = 0) is an empty object. On failure *obj must still be given to field_done(). */
int field_decode(const struct field *t, const char *json, size_t n, enum field_mode mode, void *obj,
	struct fcm_error *err) must_check;

/* A JSON value being built or read; opaque, so that jansson stays in field.c. */
typedef struct json_t field_json;

/* Encode *obj; secrets are shown when `secrets`. The caller's value. */
field_json *field_encode(const struct field *t, const void *obj, bool secrets);

/* Building by hand: objects and arrays. The setters take over `value`. */
field_json *fj_object(void);
field_json *fj_array(void);
void fj_set(field_json *object, const char *key, field_json *value); /* NULL: null */
void fj_set_str(field_json *object, const char *key,
	const char *value); /* NULL: null; text is made printable UTF-8 */
void fj_set_int(field_json *object, const char *key, int64_t value);
void fj_set_bool(field_json *object, const char *key, bool value);
void fj_append(field_json *array, field_json *value);
field_json *fj_str(const char *s);	       /* made printable UTF-8, like fj_set_str() */
field_json *fj_exact(const char *p, size_t n); /* as it is; NULL when it isn't UTF-8 without NUL */
field_json *fj_ref(field_json *v);
void fj_free(field_json *v); /* NULL-safe */
static inline void fj_freep(field_json **v)
{
	fj_free(*v);
}
#define auto_json _cleanup_(fj_freep) /* a value of ours, freed at the end of its scope */

/* Parse one JSON object or array (RFC 8259) of n bytes; depth, duplicate keys and NULs as in field_decode(). The
 * caller's. FCM_BAD_JSON with line and column; FCM_INVALID for a number that doesn't fit. */
field_json *fj_parse(const char *text, size_t n, struct fcm_error *err) must_check;

/* Reading: NULL, "", `otherwise` when it isn't there or of another type. What is returned is borrowed. */
field_json *fj_get(const field_json *object, const char *key);
const char *fj_get_str(const field_json *object, const char *key);
int64_t fj_get_int(const field_json *object, const char *key, int64_t otherwise);
bool fj_get_bool(const field_json *object, const char *key);
size_t fj_len(const field_json *array);
field_json *fj_at(const field_json *array, size_t i);
const char *fj_text(const field_json *string); /* "" unless it is a string */
bool fj_is_object(const field_json *v);
bool fj_is_int(const field_json *v);
/* Keys of an object in order: call with NULL first; NULL at the end. */
const char *fj_next_key(const field_json *object, const char *prev);

/* The text of a value, the caller's: one line, or indented by two for people. */
char *fj_print(const field_json *v, bool pretty);

/* Decode a value that is already parsed. */
int field_from_json(const struct field *t, const field_json *v, enum field_mode mode, void *obj,
	struct fcm_error *err) must_check;

/* Set the field `key` (dotted path) from text: of a command line or a config file. Sizes take suffixes, booleans
 * yes/no/true/false/1/0, lists add one entry a call. FCM_UNKNOWN_FIELD, FCM_INVALID. */
int field_set_text(const struct field *t, void *obj, const char *key, const char *text,
	struct fcm_error *err) must_check;

/* The field's value as text (secrets as ***; the entries of a list with ", " between them); the caller's. */
char *field_get_text(const struct field *t, const void *obj, const char *key);

/* The row for a dotted path, or NULL; *ret_obj (may be NULL) becomes the struct it is in. */
const struct field *field_find(const struct field *t, const void *obj, const char *key, void **ret_obj);

/* The key of the table that `key` is a slip of (one or two letters wrong, missing, added or swapped), or NULL. */
const char *field_near(const struct field *t, const char *key);

/* Free what *obj owns and zero it. */
void field_done(const struct field *t, void *obj);
