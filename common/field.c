/*
 * Field tables and JSON: decoding with every check, and encoding.
 */
#include <jansson.h>
#include <string.h>

#include "common/core/clock.h"
#include "common/core/names.h"
#include "common/field_internal.h"

static int decode_object(const struct field *t, const json_t *v, const char *outer, enum field_mode mode,
	void *obj, struct fcm_error *err) must_check;

static int wrong_type(const struct field *f, const char *path, struct fcm_error *err)
{
	static const char *const wanted[] = {
		[FIELD_BOOL] = "true or false",
		[FIELD_U32] = "a whole number",
		[FIELD_I64] = "a whole number",
		[FIELD_MIB] = "a whole number of MiB, or a text like \"2g\"",
		[FIELD_STR] = "a text",
		[FIELD_CHARS] = "a text",
		[FIELD_ENUM] = "a text",
		[FIELD_IPV4] = "a text like \"172.16.0.50\"",
		[FIELD_TIME] = "a text like \"2026-11-25T16:48:13Z\"",
		[FIELD_STRV] = "a list of texts",
		[FIELD_MAP] = "an object of texts",
		[FIELD_KEYS] = "an object",
		[FIELD_SIGNAL] = "a number from 1 to 64, or a name like \"SIGTERM\"",
		[FIELD_OBJECT] = "an object",
	};
	return fcm_fail_field(err, FCM_INVALID, path, "%s: must be %s", path, wanted[f->type]);
}

static int decode_list(
	const struct field *f, const json_t *v, const char *path, struct strv *l, struct fcm_error *err)
{
	const json_t *entry;
	size_t i;

	if (!json_is_array(v))
		return wrong_type(f, path, err);
	strv_done(l);
	json_array_foreach(v, i, entry)
	{
		if (!json_is_string(entry))
			return wrong_type(f, path, err);
		if (field_put_entry(f, l, path, json_string_value(entry), err) < 0)
			return -1;
	}
	return 0;
}

static int decode_map(
	const struct field *f, const json_t *v, const char *path, struct strv *l, struct fcm_error *err)
{
	if (!json_is_object(v))
		return wrong_type(f, path, err);
	strv_done(l);
	for (const char *key = NULL; (key = fj_next_key(v, key));) {
		const json_t *value = json_object_get(v, key);
		if (!json_is_string(value))
			return wrong_type(f, path, err);
		if (strchr(key, '='))
			return fcm_fail_field(err, FCM_INVALID, path, "%s: the name '%s' holds a '='", path,
				field_clip(key).s);
		auto_free char *entry = xprintf("%s=%s", key, json_string_value(value));
		if (field_put_entry(f, l, path, entry, err) < 0)
			return -1;
	}
	return 0;
}

static int decode_keys(
	const struct field *f, const json_t *v, const char *path, struct strv *l, struct fcm_error *err)
{
	if (!json_is_object(v))
		return wrong_type(f, path, err);
	strv_done(l);
	for (const char *key = NULL; (key = fj_next_key(v, key));)
		if (field_put_entry(f, l, path, key, err) < 0)
			return -1;
	return 0;
}

static int decode_value(const struct field *f, const json_t *v, const char *path, enum field_mode mode,
	void *p, struct fcm_error *err)
{
	switch (f->type) {
	case FIELD_BOOL:
		if (!json_is_boolean(v))
			return wrong_type(f, path, err);
		*(bool *)p = json_is_true(v);
		return 0;
	case FIELD_U32:
	case FIELD_I64:
	case FIELD_MIB:
	case FIELD_SIGNAL:
		if (json_is_integer(v))
			return field_put_int(f, p, path, json_integer_value(v), err);
		if ((f->type == FIELD_MIB || f->type == FIELD_SIGNAL) && json_is_string(v))
			return field_put_str(f, p, path, json_string_value(v), err);
		return wrong_type(f, path, err);
	case FIELD_STR:
	case FIELD_CHARS:
	case FIELD_ENUM:
	case FIELD_IPV4:
	case FIELD_TIME:
		if (!json_is_string(v))
			return wrong_type(f, path, err);
		return field_put_str(f, p, path, json_string_value(v), err);
	case FIELD_STRV:
		return decode_list(f, v, path, p, err);
	case FIELD_MAP:
		return decode_map(f, v, path, p, err);
	case FIELD_KEYS:
		return decode_keys(f, v, path, p, err);
	case FIELD_OBJECT:
		if (!json_is_object(v))
			return wrong_type(f, path, err);
		return decode_object(f->sub, v, path, mode, p, err);
	}
	return fcm_fail(err, FCM_INTERNAL, "%s: no such type of field", path);
}

static int decode_member(const struct field *t, const char *key, const json_t *v, const char *outer,
	enum field_mode mode, void *obj, struct fcm_error *err)
{
	const struct field *f = t;
	char path[FIELD_PATH];

	field_path(path, outer, key);
	while (f->key && strcmp(f->key, key) != 0)
		f++;
	if (f->key == NULL)
		return mode == FIELD_DISK ? 0 : field_unknown(t, path, key, err);
	if (f->flags & FIELD_READONLY && mode == FIELD_WIRE)
		return fcm_fail_field(err, FCM_INVALID, path, "%s: can't be set", path);
	if (json_is_null(v))
		return 0;
	void *p = (char *)obj + f->off;
	if (decode_value(f, v, path, mode, p, err) < 0)
		return -1;
	return f->check ? f->check(p, path, err) : 0;
}

static int decode_object(const struct field *t, const json_t *v, const char *outer, enum field_mode mode,
	void *obj, struct fcm_error *err)
{
	char path[FIELD_PATH];

	for (const char *key = NULL; (key = fj_next_key(v, key));)
		if (decode_member(t, key, json_object_get(v, key), outer, mode, obj, err) < 0)
			return -1;
	for (const struct field *f = t; f->key; f++) {
		const json_t *member = json_object_get(v, f->key);
		if (!(f->flags & FIELD_REQUIRED) || (member && !json_is_null(member)))
			continue;
		field_path(path, outer, f->key);
		return fcm_fail_field(err, FCM_INVALID, path, "%s: is missing", path);
	}
	return 0;
}

int field_from_json(
	const struct field *t, const field_json *v, enum field_mode mode, void *obj, struct fcm_error *err)
{
	if (!json_is_object(v))
		return fcm_fail(err, FCM_BAD_JSON, "bad JSON: an object is expected");
	return decode_object(t, v, "", mode, obj, err);
}

int field_decode(const struct field *t, const char *json, size_t n, enum field_mode mode, void *obj,
	struct fcm_error *err)
{
	json_auto_t *v = n ? fj_parse(json, n, err) : fj_object();

	return v ? field_from_json(t, v, mode, obj, err) : -1;
}

/* A text as it is, so that decoding gives the same; only what isn't UTF-8 can't stay. */
static json_t *exact(const char *s)
{
	json_t *v = json_string(s);

	return v ? v : fj_str(s);
}

static json_t *encode_list(const struct strv *l)
{
	json_t *v = fj_array();

	for (size_t i = 0; i < l->n; i++)
		fj_append(v, exact(l->v[i]));
	return v;
}

static json_t *encode_map(const struct strv *l, bool hide)
{
	json_t *v = fj_object();

	for (size_t i = 0; i < l->n; i++) {
		auto_free char *key = xstrdup(l->v[i]);
		char *value = strchr(key, '=');
		if (value == NULL)
			continue;
		*value++ = '\0';
		if (json_object_set_new(v, key, hide ? fj_str("***") : exact(value)) < 0)
			abort(); /* decoding let no other key in */
	}
	return v;
}

static json_t *encode_keys(const struct strv *l)
{
	json_t *v = fj_object();

	for (size_t i = 0; i < l->n; i++)
		fj_set(v, l->v[i], fj_object());
	return v;
}

static json_t *encode_value(const struct field *f, const void *p, bool secrets)
{
	bool hide = f->flags & FIELD_SECRET && !secrets;

	switch (f->type) {
	case FIELD_BOOL:
		return json_boolean(*(const bool *)p);
	case FIELD_U32:
	case FIELD_MIB:
	case FIELD_SIGNAL:
		return json_integer(*(const uint32_t *)p);
	case FIELD_I64:
		return json_integer(*(const int64_t *)p);
	case FIELD_STR:
	case FIELD_CHARS: {
		const char *s = f->type == FIELD_STR ? *(char *const *)p : p;
		return exact(s == NULL ? "" : hide && *s ? "***" : s);
	}
	case FIELD_ENUM:
		return json_string(f->names[*(const int *)p]);
	case FIELD_IPV4:
		return field_empty(f, p) ? json_null() : json_string(ip_dotted(*(const struct in_addr *)p).s);
	case FIELD_TIME:
		return field_empty(f, p) ? json_null() : json_string(clock_rfc3339(*(const int64_t *)p).s);
	case FIELD_STRV:
		return encode_list(p);
	case FIELD_KEYS:
		return encode_keys(p);
	case FIELD_MAP:
		return encode_map(p, hide);
	case FIELD_OBJECT:
		return field_encode(f->sub, p, secrets);
	}
	return json_null();
}

field_json *field_encode(const struct field *t, const void *obj, bool secrets)
{
	json_t *v = fj_object();

	for (const struct field *f = t; f->key; f++) {
		const void *p = (const char *)obj + f->off;
		if (f->flags & FIELD_OMIT_EMPTY && field_empty(f, p))
			continue;
		bool null = f->flags & FIELD_NULL_EMPTY && field_empty(f, p);
		fj_set(v, f->key, null ? NULL : encode_value(f, p, secrets));
	}
	return v;
}
