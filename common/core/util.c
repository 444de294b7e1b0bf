#include "common/core/util.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void *checked(void *p)
{
	if (p == NULL) {
		static const char msg[] = "out of memory\n";
		(void)!write(STDERR_FILENO, msg, sizeof msg - 1);
		abort();
	}
	return p;
}

void *xalloc(size_t n)
{
	return checked(calloc(1, MAX(n, (size_t)1)));
}

void *xrealloc(void *p, size_t n)
{
	return checked(realloc(p, MAX(n, (size_t)1)));
}

char *xstrdup(const char *s)
{
	return s ? checked(strdup(s)) : NULL;
}

char *xprintf(const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		s = NULL;
	va_end(ap);
	return checked(s);
}

bool fcm_copy(char *dst, size_t size, const char *src)
{
	size_t n = strnlen(src, size);
	bool whole = n < size;

	if (!whole)
		n = size - 1;
	memcpy(dst, src, n);
	dst[n] = '\0';
	return whole;
}

bool fcm_format(char *dst, size_t size, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(dst, size, fmt, ap);
	va_end(ap);
	return n >= 0 && (size_t)n < size;
}

bool fcm_parse_i64(const char *s, int64_t min, int64_t max, int64_t *ret)
{
	if (!isdigit((unsigned char)s[s[0] == '-']))
		return false;
	char *end;
	errno = 0;
	long long v = strtoll(s, &end, 10);
	if (errno || *end || v < min || v > max)
		return false;
	*ret = v;
	return true;
}

int64_t fcm_line_number(const char *text, const char *key)
{
	size_t n = strlen(key);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, n) != 0)
			continue;
		const char *s = line + n + strspn(line + n, " \t");
		if (!isdigit((unsigned char)*s))
			continue;
		errno = 0;
		long long v = strtoll(s, NULL, 10);
		return errno ? -1 : v;
	}
	return -1;
}

static uint64_t suffix_unit(char c, uint64_t unit)
{
	switch (tolower((unsigned char)c)) {
	case '\0':
		return unit;
	case 'k':
		return 1ull << 10;
	case 'm':
		return 1ull << 20;
	case 'g':
		return 1ull << 30;
	case 't':
		return 1ull << 40;
	default:
		return 0;
	}
}

bool fcm_parse_size(const char *s, uint64_t unit, uint64_t *ret)
{
	if (!isdigit((unsigned char)s[0]))
		return false;
	char *end;
	errno = 0;
	unsigned long long whole = strtoull(s, &end, 10);
	unsigned thousandths = 0;
	if (*end == '.') {
		unsigned scale = 100;
		for (end++; isdigit((unsigned char)*end); end++, scale /= 10)
			thousandths += scale * (unsigned)(*end - '0');
	}
	uint64_t mul = suffix_unit(*end, unit);
	uint64_t bytes;
	if (errno || mul == 0 || (*end && end[1]) || __builtin_mul_overflow(whole, mul, &bytes) ||
		__builtin_add_overflow(
			bytes, mul / 1000 * thousandths + mul % 1000 * thousandths / 1000, &bytes))
		return false;
	*ret = bytes;
	return true;
}

/* Length of the valid UTF-8 sequence at s (RFC 3629, section 4), or 0. */
static size_t utf8_len(const unsigned char *s, size_t n, uint32_t *ret)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t len = s[0] < 0x80	     ? 1
		     : (s[0] & 0xe0) == 0xc0 ? 2
		     : (s[0] & 0xf0) == 0xe0 ? 3
		     : (s[0] & 0xf8) == 0xf0 ? 4
					     : 0;
	if (len == 0 || len > n)
		return 0;
	uint32_t c = len == 1 ? s[0] : s[0] & (0x7f >> len);
	for (size_t i = 1; i < len; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	*ret = c;
	return len;
}

static bool printable_char(uint32_t c)
{
	if (c == '\n' || c == '\t')
		return true;
	if (c < 0x20 || (c >= 0x7f && c < 0xa0))
		return false;
	/* bidirectional controls and the byte order mark: Unicode TR 36, section 2.6 */
	return !(c == 0x200e || c == 0x200f || (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) ||
		 c == 0xfeff);
}

size_t fcm_printable(char *s, size_t n)
{
	unsigned char *in = (unsigned char *)s, *out = in, *end = in + n;

	while (in < end) {
		uint32_t c = 0;
		size_t len = utf8_len(in, (size_t)(end - in), &c);
		if (len && printable_char(c)) {
			memmove(out, in, len);
			out += len;
		} else {
			*out++ = '?';
		}
		in += len ? len : 1;
	}
	return (size_t)(out - (unsigned char *)s);
}

char *fcm_make_printable(char *s)
{
	s[fcm_printable(s, strlen(s))] = '\0';
	return s;
}

bool fcm_quote(char *dst, size_t size, const char *src)
{
	bool whole = fcm_copy(dst, size, src);

	fcm_make_printable(dst);
	for (char *p = dst; (p = strpbrk(p, "\n\t"));)
		*p = '?';
	return whole;
}

static void buf_room(struct buf *b, size_t n)
{
	if (b->n + n + 1 <= b->cap)
		return;
	b->cap = MAX(b->n + n + 1, MAX(b->cap * 2, (size_t)256));
	b->p = xrealloc(b->p, b->cap);
}

void buf_add(struct buf *b, const void *data, size_t n)
{
	if (n == 0)
		return;
	buf_room(b, n);
	memcpy(b->p + b->n, data, n);
	b->n += n;
	b->p[b->n] = '\0';
}

void buf_str(struct buf *b, const char *s)
{
	buf_add(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
	auto_free char *s = NULL;
	va_list ap;

	va_start(ap, fmt);
	int n = vasprintf(&s, fmt, ap);
	va_end(ap);
	checked(n < 0 ? NULL : s);
	buf_add(b, s, (size_t)n);
}

void buf_drop(struct buf *b, size_t n)
{
	n = MIN(n, b->n);
	if (n == 0)
		return;
	memmove(b->p, b->p + n, b->n - n);
	b->n -= n;
	b->p[b->n] = '\0';
}

void buf_done(struct buf *b)
{
	free(b->p);
	*b = (struct buf){0};
}

static void strv_take(struct strv *l, char *s)
{
	l->v = xrealloc(l->v, (l->n + 2) * sizeof *l->v);
	l->v[l->n++] = s;
	l->v[l->n] = NULL;
}

void strv_add(struct strv *l, const char *s)
{
	strv_take(l, xstrdup(s));
}

void strv_addf(struct strv *l, const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;

	va_start(ap, fmt);
	int n = vasprintf(&s, fmt, ap);
	va_end(ap);
	strv_take(l, checked(n < 0 ? NULL : s));
}

void strv_copy(struct strv *dst, const struct strv *src)
{
	for (size_t i = 0; i < src->n; i++)
		strv_add(dst, src->v[i]);
}

bool strv_has(const struct strv *l, const char *s)
{
	for (size_t i = 0; i < l->n; i++)
		if (strcmp(l->v[i], s) == 0)
			return true;
	return false;
}

void strv_remove(struct strv *l, const char *s)
{
	for (size_t i = 0; i < l->n; i++)
		if (strcmp(l->v[i], s) == 0) {
			free(l->v[i]);
			l->v[i] = l->v[--l->n];
			return;
		}
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

void strv_sort(struct strv *l)
{
	if (l->n) /* qsort(3) takes no NULL */
		qsort(l->v, l->n, sizeof *l->v, by_text);
}

void strv_done(struct strv *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->v[i]);
	free(l->v);
	*l = (struct strv){0};
}
