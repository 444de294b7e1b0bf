/*
 * Small things that every program uses: cleanup attributes, allocation that can't fail, bounded strings.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define must_check __attribute__((warn_unused_result))

/* Run `fn(&variable)` when the variable goes out of scope. (Not named `cleanup`: jansson's json_auto_t needs it.) */
#define _cleanup_(fn) __attribute__((cleanup(fn)))
#define auto_free _cleanup_(fcm_freep)
#define auto_close _cleanup_(fcm_closep)

/* Take the value out of a cleanup variable: the caller owns it now. */
#define STEAL(p)                                                                                             \
	({                                                                                                   \
		__typeof__(p) stolen_ = (p);                                                                 \
		(p) = NULL;                                                                                  \
		stolen_;                                                                                     \
	})
#define STEAL_FD(fd)                                                                                         \
	({                                                                                                   \
		int stolen_fd_ = (fd);                                                                       \
		(fd) = -1;                                                                                   \
		stolen_fd_;                                                                                  \
	})

static inline void fcm_freep(void *p)
{
	free(*(void **)p);
}

/* Close it where it is open; afterwards it is -1. */
static inline void fcm_closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Allocation for small things whose size we choose: aborts when memory is out. What a client can size is allocated
 * with malloc() under a limit instead. */
void *xalloc(size_t n); /* zeroed */
void *xrealloc(void *p, size_t n);
char *xstrdup(const char *s); /* NULL stays NULL */
char *xprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Copy `src` into `dst` of `size` bytes, always terminated. Returns false when it was cut. */
bool fcm_copy(char *dst, size_t size, const char *src);

/* Format into `dst`. Returns false when it did not fit; dst is terminated all the same. */
bool fcm_format(char *dst, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Parse a whole decimal number in min..max: no sign but '-', no space, nothing after it. */
bool fcm_parse_i64(const char *s, int64_t min, int64_t max, int64_t *ret);

/* The number behind `key` at the beginning of a line of `text`, after blanks: of what /proc prints, such as "Pss:   12 kB".
 * -1 when there is none, or one that doesn't fit. */
int64_t fcm_line_number(const char *text, const char *key);

/* Parse a size with one optional suffix k, m, g or t (powers of 1024, case doesn't matter, "512", "2g", "1.5g").
 * A bare number counts in `unit` bytes. *ret is in bytes. */
bool fcm_parse_size(const char *s, uint64_t unit, uint64_t *ret);

/* Replace everything that isn't printable UTF-8 (C0 and C1 controls but for \n and \t, broken sequences, bidi
 * overrides) by '?', in place: for text of a guest that goes to a terminal or into a log. Returns the new length. */
size_t fcm_printable(char *s, size_t n);

/* The same of a string. Returns it. */
char *fcm_make_printable(char *s);

/* What fits of `src` in `dst` of `size` bytes, printable and on one line ('?' for each \n and \t, too): for a message that quotes
 * what a stranger said. Returns false when it was cut. */
bool fcm_quote(char *dst, size_t size, const char *src);

/* A growing byte buffer; zero-initialised is empty. `p` is always terminated when n > 0. */
struct buf {
	char *p;
	size_t n, cap;
};
void buf_add(struct buf *b, const void *data, size_t n);
void buf_str(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_drop(struct buf *b, size_t n); /* remove the first n bytes, or all */
void buf_done(struct buf *b);		/* free the contents; the buffer is empty again */

/* An owned list of owned strings; zero-initialised is empty. */
struct strv {
	char **v;
	size_t n;
};
void strv_add(struct strv *l, const char *s);
void strv_addf(struct strv *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void strv_copy(struct strv *dst, const struct strv *src);
bool strv_has(const struct strv *l, const char *s);
void strv_remove(struct strv *l, const char *s); /* once, if it is there; the last takes its place */
void strv_sort(struct strv *l);			 /* by the bytes */
void strv_done(struct strv *l);
