/*
 * Field tables and text: members set from words and printed as words, keys looked up, and all that needs no
 * JSON.
 */
#include <arpa/inet.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>

#include "common/core/clock.h"
#include "common/core/names.h"
#include "common/core/signals.h"
#include "common/field_internal.h"
#include "common/near.h"

struct field_clip field_clip(const char *s)
{
	struct field_clip t = {""};
	size_t room = sizeof t.s - 4;

	if (!fcm_quote(t.s, room, s))
		memcpy(t.s + strlen(t.s), "...", sizeof "...");
	return t;
}

void field_path(char ret[FIELD_PATH], const char *outer, const char *key)
{
	struct field_clip clip = field_clip(key);

	fcm_format(ret, FIELD_PATH, "%s%s%s", outer, *outer ? "." : "", clip.s);
}

const char *field_near(const struct field *t, const char *key)
{
	struct near n = near_of(key);

	for (; t->key; t++)
		near_try(&n, t->key);
	return n.best;
}

int field_unknown(const struct field *t, const char *path, const char *key, struct fcm_error *err)
{
	const char *near = field_near(t, key);

	fcm_fail_field(err, FCM_UNKNOWN_FIELD, path, "%s: unknown field", path);
	return near ? fcm_hint(err, "did you mean %s?", near) : -1;
}

bool field_empty(const struct field *f, const void *p)
{
	switch (f->type) {
	case FIELD_BOOL:
		return !*(const bool *)p;
	case FIELD_U32:
	case FIELD_MIB:
	case FIELD_SIGNAL:
		return *(const uint32_t *)p == 0;
	case FIELD_I64:
	case FIELD_TIME:
		return *(const int64_t *)p == 0;
	case FIELD_STR:
		return *(char *const *)p == NULL || **(char *const *)p == '\0';
	case FIELD_CHARS:
		return *(const char *)p == '\0';
	case FIELD_ENUM:
		return *(const int *)p == 0;
	case FIELD_IPV4:
		return ((const struct in_addr *)p)->s_addr == 0;
	case FIELD_STRV:
	case FIELD_MAP:
	case FIELD_KEYS:
		return ((const struct strv *)p)->n == 0;
	case FIELD_OBJECT:
		return field_empty(f->sub, (const char *)p + f->sub->off);
	}
	return true;
}

int field_put_int(const struct field *f, void *p, const char *path, int64_t v, struct fcm_error *err)
{
	bool wide = f->type == FIELD_I64, open = f->max == 0;
	int64_t min = wide && open ? INT64_MIN : f->min;
	int64_t max = !open ? f->max : wide ? INT64_MAX : UINT32_MAX;

	if (v < min || v > max)
		return fcm_fail_field(err, FCM_INVALID, path,
			"%s: %" PRId64 " is outside %" PRId64 "..%" PRId64 "%s", path, v, min, max,
			f->type == FIELD_MIB ? " MiB" : "");
	if (wide)
		*(int64_t *)p = v;
	else
		*(uint32_t *)p = (uint32_t)v;
	return 0;
}

static int not_a(const char *path, const char *s, const char *what, struct fcm_error *err)
{
	return fcm_fail_field(err, FCM_INVALID, path, "%s: '%s' is not %s", path, field_clip(s).s, what);
}

static int put_mib(const struct field *f, void *p, const char *path, const char *s, struct fcm_error *err)
{
	uint64_t bytes;

	if (!fcm_parse_size(s, 1 << 20, &bytes))
		return not_a(path, s, "a size (like 512, 512m or 2g)", err);
	if (bytes % (1 << 20))
		return not_a(path, s, "a whole number of MiB", err);
	return field_put_int(f, p, path, (int64_t)(bytes >> 20), err);
}

static int put_signal(const struct field *f, void *p, const char *path, const char *s, struct fcm_error *err)
{
	unsigned number = signal_parse(s);

	return number ? field_put_int(f, p, path, number, err)
		      : not_a(path, s, "a signal (like SIGTERM, hup, 15 or rtmin+3)", err);
}

static int put_seconds(const struct field *f, void *p, const char *path, const char *s, struct fcm_error *err)
{
	int64_t seconds;

	return clock_parse_span(s, &seconds) ? field_put_int(f, p, path, seconds, err)
					     : not_a(path, s, "a time (like 90, 90s, 5m or 1m30s)", err);
}

static int put_enum(const struct field *f, int *p, const char *path, const char *s, struct fcm_error *err)
{
	char names[192];
	size_t n = 0;

	for (int i = 0; f->names[i]; i++) {
		if (strcmp(f->names[i], s) == 0) {
			*p = i;
			return 0;
		}
		fcm_format(names + n, sizeof names - n, "%s%s", i ? ", " : "", f->names[i]);
		n = strlen(names);
	}
	return fcm_fail_field(
		err, FCM_INVALID, path, "%s: '%s' is not one of %s", path, field_clip(s).s, names);
}

static int too_long(const char *path, size_t max, struct fcm_error *err)
{
	return fcm_fail_field(err, FCM_INVALID, path, "%s: longer than %zu bytes", path, max);
}

int field_put_str(const struct field *f, void *p, const char *path, const char *s, struct fcm_error *err)
{
	switch (f->type) {
	case FIELD_STR:
		if (f->max && strlen(s) > (size_t)f->max)
			return too_long(path, (size_t)f->max, err);
		free(*(char **)p);
		*(char **)p = xstrdup(s);
		return 0;
	case FIELD_CHARS:
		if (strlen(s) >= f->size)
			return too_long(path, f->size - 1, err);
		fcm_copy(p, f->size, s);
		return 0;
	case FIELD_ENUM:
		return put_enum(f, p, path, s, err);
	case FIELD_IPV4:
		*(struct in_addr *)p = (struct in_addr){0};
		return *s == '\0' || inet_pton(AF_INET, s, p) == 1 ? 0
								   : not_a(path, s, "an IPv4 address", err);
	case FIELD_TIME:
		return clock_parse(s, p) == 0 ? 0 : not_a(path, s, "a time (like 2026-11-25T16:48:13Z)", err);
	case FIELD_MIB:
		return put_mib(f, p, path, s, err);
	case FIELD_SIGNAL:
		return put_signal(f, p, path, s, err);
	case FIELD_BOOL:
	case FIELD_U32:
	case FIELD_I64:
	case FIELD_STRV:
	case FIELD_MAP:
	case FIELD_KEYS:
	case FIELD_OBJECT:
		break;
	}
	return not_a(path, s, "what this field takes", err);
}

int field_put_entry(
	const struct field *f, struct strv *l, const char *path, const char *s, struct fcm_error *err)
{
	if (f->type == FIELD_MAP) {
		const char *end = strchr(s, '=');
		if (end == NULL || end == s)
			return not_a(path, s, "NAME=VALUE", err);
		for (size_t i = 0; i < l->n; i++) {
			if (strncmp(l->v[i], s, (size_t)(end - s) + 1) != 0)
				continue;
			free(l->v[i]);
			l->v[i] = xstrdup(s);
			return 0;
		}
	}
	if (f->max && l->n >= (size_t)f->max)
		return fcm_fail_field(
			err, FCM_INVALID, path, "%s: more than %" PRId64 " entries", path, f->max);
	strv_add(l, s);
	return 0;
}

static int put_bool(bool *p, const char *path, const char *s, struct fcm_error *err)
{
	static const char *const words[] = {"no", "yes", "false", "true", "0", "1"};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (strcasecmp(s, words[i]) == 0) {
			*p = i % 2;
			return 0;
		}
	}
	return not_a(path, s, "yes or no", err);
}

static int put_text(const struct field *f, void *p, const char *path, const char *s, struct fcm_error *err)
{
	int64_t v;

	switch (f->type) {
	case FIELD_BOOL:
		return put_bool(p, path, s, err);
	case FIELD_U32:
	case FIELD_I64:
		if (f->flags & FIELD_SPAN && !fcm_parse_i64(s, INT64_MIN, INT64_MAX, &v))
			return put_seconds(f, p, path, s, err);
		if (!fcm_parse_i64(s, INT64_MIN, INT64_MAX, &v))
			return not_a(path, s, "a whole number", err);
		return field_put_int(f, p, path, v, err);
	case FIELD_STRV:
	case FIELD_MAP:
	case FIELD_KEYS:
		return field_put_entry(f, p, path, s, err);
	case FIELD_OBJECT:
		return fcm_fail_field(err, FCM_INVALID, path, "%s: name one of its fields", path);
	case FIELD_MIB:
	case FIELD_SIGNAL:
	case FIELD_STR:
	case FIELD_CHARS:
	case FIELD_ENUM:
	case FIELD_IPV4:
	case FIELD_TIME:
		break;
	}
	return field_put_str(f, p, path, s, err);
}

const struct field *field_find(const struct field *t, const void *obj, const char *key, void **ret_obj)
{
	for (const struct field *f = t; f->key; f++) {
		size_t n = strlen(f->key);
		if (strncmp(f->key, key, n) != 0)
			continue;
		if (key[n] == '\0') {
			if (ret_obj)
				*ret_obj = (void *)obj;
			return f;
		}
		if (key[n] == '.' && f->type == FIELD_OBJECT)
			return field_find(f->sub, (const char *)obj + f->off, key + n + 1, ret_obj);
	}
	return NULL;
}

int field_set_text(const struct field *t, void *obj, const char *key, const char *text, struct fcm_error *err)
{
	char path[FIELD_PATH];
	void *in;
	const struct field *f = field_find(t, obj, key, &in);

	field_path(path, "", key);
	if (f == NULL)
		return field_unknown(t, path, key, err);
	void *p = (char *)in + f->off;
	if (put_text(f, p, path, text, err) < 0)
		return -1;
	return f->check ? f->check(p, path, err) : 0;
}

static char *join(const struct strv *l)
{
	struct buf b = {0};

	for (size_t i = 0; i < l->n; i++)
		buf_printf(&b, "%s%s", i ? ", " : "", l->v[i]);
	return b.p ? b.p : xstrdup("");
}

char *field_get_text(const struct field *t, const void *obj, const char *key)
{
	void *in;
	const struct field *f = field_find(t, obj, key, &in);

	if (f == NULL)
		return xstrdup("");
	const void *p = (const char *)in + f->off;
	if (f->flags & FIELD_SECRET && !field_empty(f, p))
		return xstrdup("***");
	switch (f->type) {
	case FIELD_BOOL:
		return xstrdup(*(const bool *)p ? "yes" : "no");
	case FIELD_U32:
	case FIELD_MIB:
	case FIELD_SIGNAL:
		return xprintf("%" PRIu32, *(const uint32_t *)p);
	case FIELD_I64:
		return xprintf("%" PRId64, *(const int64_t *)p);
	case FIELD_STR:
		return xstrdup(*(char *const *)p ? *(char *const *)p : "");
	case FIELD_CHARS:
		return xstrdup(p);
	case FIELD_ENUM:
		return xstrdup(f->names[*(const int *)p]);
	case FIELD_IPV4:
		return xstrdup(field_empty(f, p) ? "" : ip_dotted(*(const struct in_addr *)p).s);
	case FIELD_TIME:
		return xstrdup(field_empty(f, p) ? "" : clock_rfc3339(*(const int64_t *)p).s);
	case FIELD_STRV:
	case FIELD_MAP:
	case FIELD_KEYS:
		return join(p);
	case FIELD_OBJECT:
		break;
	}
	return xstrdup("");
}

void field_done(const struct field *t, void *obj)
{
	for (const struct field *f = t; f->key; f++) {
		void *p = (char *)obj + f->off;
		if (f->type == FIELD_OBJECT) {
			field_done(f->sub, p);
			continue;
		}
		if (f->type == FIELD_STR)
			free(*(char **)p);
		if (f->type == FIELD_STRV || f->type == FIELD_MAP || f->type == FIELD_KEYS)
			strv_done(p);
		memset(p, 0, f->size);
	}
}
