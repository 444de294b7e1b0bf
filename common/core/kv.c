#include "common/core/kv.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void kv_add(struct buf *b, const char *key, const char *value)
{
	buf_str(b, key);
	buf_str(b, "=");
	buf_add(b, value, strlen(value) + 1);
}

void kv_addf(struct buf *b, const char *key, const char *fmt, ...)
{
	auto_free char *s = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		abort();
	va_end(ap);
	kv_add(b, key, s);
}

void kv_end(struct buf *b)
{
	buf_add(b, "", 1);
}

/* Nothing may be added to NULL, not even 0: C11, 6.5.6. */
static const char *end_of(const char *p, size_t n)
{
	return p ? p + n : p;
}

/* The entry at s, or NULL at the end of the list. Sets *next to what follows it. */
static const char *entry(const char *s, const char *end, const char **next)
{
	if (s >= end || *s == '\0')
		return NULL;
	const char *nul = memchr(s, '\0', (size_t)(end - s));
	if (nul == NULL)
		return NULL;
	*next = nul + 1;
	return s;
}

const char *kv_next(const void *p, size_t n, const char *key, const char *prev)
{
	const char *end = end_of(p, n), *s = prev ? prev + strlen(prev) + 1 : p, *next;
	size_t k = strlen(key);

	for (; entry(s, end, &next); s = next)
		if (strncmp(s, key, k) == 0 && s[k] == '=')
			return s + k + 1;
	return NULL;
}

const char *kv_get(const void *p, size_t n, const char *key)
{
	return kv_next(p, n, key, NULL);
}

int64_t kv_i64(const void *p, size_t n, const char *key, int64_t min, int64_t max, int64_t otherwise)
{
	const char *s = kv_get(p, n, key);
	int64_t v;

	return s && fcm_parse_i64(s, min, max, &v) ? v : otherwise;
}

const void *kv_raw(const void *p, size_t n, size_t *ret_n)
{
	const char *s = p, *end = end_of(p, n), *next;

	while (entry(s, end, &next))
		s = next;
	if (s >= end || *s != '\0')
		return NULL;
	*ret_n = (size_t)(end - s - 1);
	return s + 1;
}
