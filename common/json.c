/*
 * JSON values for everybody else: field_json is jansson's json_t.
 */
#include <jansson.h>
#include <string.h>

#include "common/field_internal.h"

enum { DEPTH_MAX = 32 };

static json_t *checked(json_t *v)
{
	if (v == NULL)
		abort(); /* out of memory, like xalloc() */
	return v;
}

field_json *fj_object(void)
{
	return checked(json_object());
}

field_json *fj_array(void)
{
	return checked(json_array());
}

field_json *fj_str(const char *s)
{
	auto_free char *copy = xstrdup(s);
	size_t n = fcm_printable(copy, strlen(copy));

	return checked(json_stringn(copy, n));
}

field_json *fj_exact(const char *p, size_t n)
{
	return n && memchr(p, '\0', n) ? NULL : json_stringn(n ? p : "", n);
}

void fj_set(field_json *object, const char *key, field_json *value)
{
	if (json_object_set_new(object, key, value ? value : json_null()) < 0)
		abort();
}

void fj_set_str(field_json *object, const char *key, const char *value)
{
	fj_set(object, key, value ? fj_str(value) : NULL);
}

void fj_set_int(field_json *object, const char *key, int64_t value)
{
	fj_set(object, key, checked(json_integer(value)));
}

void fj_set_bool(field_json *object, const char *key, bool value)
{
	fj_set(object, key, json_boolean(value));
}

void fj_append(field_json *array, field_json *value)
{
	if (json_array_append_new(array, value) < 0)
		abort();
}

field_json *fj_ref(field_json *v)
{
	return json_incref(v);
}

void fj_free(field_json *v)
{
	json_decref(v);
}

/* A member's name as it stands in the text, without its quotes. */
struct name_at {
	const char *s;
	size_t n;
};

/* The end of the string that begins behind its quote at i: the offset of the closing quote, or n. */
static size_t string_end(const char *s, size_t n, size_t i)
{
	for (; i < n && s[i] != '"'; i++)
		if (s[i] == '\\')
			i++;
	return MIN(i, n);
}

/* How deep does the text nest? It need not be valid: this runs before jansson, whose recursion goes to 2048,
 * and once more to find the last member's name before the place of an error. */
static unsigned scan(const char *s, size_t n, struct name_at *last)
{
	unsigned depth = 0, deepest = 0;
	size_t begin = 0, end = 0;

	for (size_t i = 0; i < n; i++) {
		if (s[i] == '"') {
			begin = i + 1;
			i = end = string_end(s, n, begin);
		} else if (s[i] == ':' && end > begin) {
			*last = (struct name_at){s + begin, end - begin};
		} else if (s[i] == '[' || s[i] == '{') {
			depth++;
			deepest = MAX(deepest, depth);
		} else if ((s[i] == ']' || s[i] == '}') && depth > 0) {
			depth--;
		}
	}
	return deepest;
}

static int bad_json(const char *text, size_t n, const json_error_t *e, struct fcm_error *err)
{
	struct name_at last = {"", 0};
	char name[FIELD_PATH], what[JSON_ERROR_TEXT_LENGTH];

	scan(text, MIN(n, (size_t)MAX(e->position, 0)), &last);
	fcm_format(name, sizeof name, "%.*s", (int)MIN(last.n, sizeof name), last.s);
	struct field_clip key = field_clip(name);
	if (json_error_code(e) == json_error_numeric_overflow)
		return fcm_fail_field(
			err, FCM_INVALID, key.s, "%s%sthe number is too large", key.s, key.s[0] ? ": " : "");
	fcm_copy(what, sizeof what, e->text);
	fcm_make_printable(what);
	for (char *p = what; (p = strpbrk(p, "\n\t"));)
		*p = ' ';
	return fcm_fail_field(err, FCM_BAD_JSON, key.s, "%s%sbad JSON at line %d, column %d: %s", key.s,
		key.s[0] ? ": " : "", e->line, e->column, what);
}

field_json *fj_parse(const char *text, size_t n, struct fcm_error *err)
{
	struct name_at last;
	json_error_t e;

	if (scan(text, n, &last) > DEPTH_MAX) {
		fcm_fail(err, FCM_BAD_JSON, "bad JSON: nested deeper than %d", DEPTH_MAX);
		return NULL;
	}
	json_t *v = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
	if (v == NULL)
		bad_json(text, n, &e, err);
	return v;
}

field_json *fj_get(const field_json *object, const char *key)
{
	return json_object_get(object, key);
}

const char *fj_get_str(const field_json *object, const char *key)
{
	return fj_text(fj_get(object, key));
}

int64_t fj_get_int(const field_json *object, const char *key, int64_t otherwise)
{
	const json_t *v = fj_get(object, key);

	return json_is_integer(v) ? json_integer_value(v) : otherwise;
}

bool fj_get_bool(const field_json *object, const char *key)
{
	return json_is_true(fj_get(object, key));
}

size_t fj_len(const field_json *array)
{
	return json_array_size(array);
}

field_json *fj_at(const field_json *array, size_t i)
{
	return json_array_get(array, i);
}

const char *fj_text(const field_json *string)
{
	const char *s = json_string_value(string);

	return s ? s : "";
}

bool fj_is_object(const field_json *v)
{
	return json_is_object(v);
}

bool fj_is_int(const field_json *v)
{
	return json_is_integer(v);
}

const char *fj_next_key(const field_json *object, const char *prev)
{
	json_t *o = (json_t *)object; /* jansson's iterators take it mutable */
	void *i = prev ? json_object_iter_next(o, json_object_iter_at(o, prev)) : json_object_iter(o);

	return i ? json_object_iter_key(i) : NULL;
}

char *fj_print(const field_json *v, bool pretty)
{
	char *s = json_dumps(v, JSON_ENCODE_ANY | (pretty ? JSON_INDENT(2) : JSON_COMPACT));

	if (s == NULL)
		abort();
	return s;
}
