#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/core/tar_internal.h"

enum { DRAIN_MAX = 1 << 20, DIGITS_MAX = 20 };

#define TIME_LAST (1ll << 34)
#define FILE_MAX (INT64_MAX / 2) /* so that sums of two don't overflow */

/* What extended headers said of the entry that follows. */
struct pax {
	char path[TAR_PATH_MAX], link[TAR_PATH_MAX];
	int64_t size, uid, gid, mtime; /* -1: nothing */
	int64_t real_size;	       /* of a sparse file, or -1 */
	bool sparse, named;	       /* `path` is a sparse file's own name: the other is a makeshift */
};

/* ---- bytes ---- */

static int fail_early(struct fcm_error *err)
{
	return fcm_fail(err, FCM_UNAVAILABLE, "the archive ends early");
}

/* Have at least one byte in the buffer. */
static int fill(struct tar_reader *r, struct fcm_error *err)
{
	if (r->begin < r->end)
		return 0;
	ssize_t n;
	while ((n = read(r->fd, r->bytes, sizeof r->bytes)) < 0 && errno == EINTR)
		;
	if (n < 0)
		return fcm_fail_errno(err, "read the archive");
	r->begin = 0;
	r->end = (size_t)n;
	return n == 0 ? fail_early(err) : 0;
}

static int take(struct tar_reader *r, void *p, size_t n, struct fcm_error *err)
{
	char *to = p;

	while (n > 0) {
		if (fill(r, err) < 0)
			return -1;
		size_t piece = MIN(n, r->end - r->begin);
		memcpy(to, r->bytes + r->begin, piece);
		r->begin += piece;
		to += piece;
		n -= piece;
	}
	return 0;
}

static int skip(struct tar_reader *r, uint64_t n, struct fcm_error *err)
{
	while (n > 0) {
		if (fill(r, err) < 0)
			return -1;
		size_t piece = (size_t)MIN(n, (uint64_t)(r->end - r->begin));
		r->begin += piece;
		n -= piece;
	}
	return 0;
}

void tar_drain(struct tar_reader *r)
{
	struct fcm_error ignored;

	for (size_t n = 0; n < DRAIN_MAX && fill(r, &ignored) == 0; r->begin = r->end)
		n += r->end - r->begin;
}

/* ---- numbers ---- */

/* Octal digits with blanks around them, or GNU's base 256: the first bit, then big-endian. -1 when it is neither, or large. */
static int64_t field_number(const char *field, size_t size)
{
	const unsigned char *p = (const unsigned char *)field;
	uint64_t v = 0;
	size_t i = 0;

	if (p[0] & 0x80) {
		for (v = p[0] & 0x7f, i = 1; i < size; i++) {
			if (v > FILE_MAX >> 8)
				return -1;
			v = v << 8 | p[i];
		}
		return (int64_t)v;
	}
	while (i < size && p[i] == ' ')
		i++;
	for (; i < size && p[i] >= '0' && p[i] <= '7'; i++)
		v = v << 3 | (uint64_t)(p[i] - '0');
	return i < size && p[i] != '\0' && p[i] != ' ' ? -1 : (int64_t)v;
}

/* A pax number; what is behind its point is thrown away. -1 when it is none. */
static int64_t pax_number(const char *value)
{
	char digits[DIGITS_MAX];
	int64_t v = -1;

	if (fcm_format(digits, sizeof digits, "%.*s", (int)strcspn(value, "."), value))
		(void)fcm_parse_i64(digits, 0, FILE_MAX, &v);
	return v;
}

/* ---- extended headers ---- */

static int fail_format(const char *what, struct fcm_error *err)
{
	fcm_fail(err, FCM_INVALID, "%s", what);
	return fcm_hint(err, "make it with: tar --format=posix");
}

static int set_number(int64_t *field, const char *key, const char *value, struct fcm_error *err)
{
	*field = pax_number(value);
	return *field < 0 ? fcm_fail(err, FCM_INVALID, "the archive has a %s that is no number", key) : 0;
}

static int set_name(char field[static TAR_PATH_MAX], const char *value, size_t n, struct fcm_error *err)
{
	if (n >= TAR_PATH_MAX || strlen(value) != n)
		return fcm_fail(err, FCM_INVALID,
			"the archive has a name of more than %d bytes, or with a NUL", TAR_PATH_MAX - 1);
	memcpy(field, value, n + 1);
	return 0;
}

static int take_record(struct pax *pax, const char *key, const char *value, size_t n, struct fcm_error *err)
{
	const struct {
		const char *key;
		int64_t *number;
		char *name;
	} keys[] = {
		{"path", NULL, pax->path},
		{"linkpath", NULL, pax->link},
		{"GNU.sparse.name", NULL, pax->path},
		{"size", &pax->size, NULL},
		{"uid", &pax->uid, NULL},
		{"gid", &pax->gid, NULL},
		{"mtime", &pax->mtime, NULL},
		{"GNU.sparse.realsize", &pax->real_size, NULL},
	};

	if (strcmp(key, TAR_ERROR_KEY) == 0)
		return fcm_fail(err, FCM_GUEST, "%s", value);
	if (strcmp(key, "GNU.sparse.major") == 0)
		pax->sparse = strcmp(value, "1") == 0;
	if (strcmp(key, "GNU.sparse.numblocks") == 0 || strcmp(key, "GNU.sparse.map") == 0)
		return fail_format("the archive has a sparse file in an old format", err);
	if (strcmp(key, "GNU.sparse.name") == 0)
		pax->named = true;
	else if (strcmp(key, "path") == 0 && pax->named)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		if (strcmp(keys[i].key, key) != 0)
			continue;
		return keys[i].number ? set_number(keys[i].number, key, value, err)
				      : set_name(keys[i].name, value, n, err);
	}
	return 0;
}

/* Records "LENGTH KEY=VALUE\n"; `text` is cut up. */
static int parse_pax(struct pax *pax, char *text, size_t n, struct fcm_error *err)
{
	while (n > 0) {
		char *blank = memchr(text, ' ', MIN(n, (size_t)DIGITS_MAX)), *equals;
		int64_t length = 0;
		if (blank)
			*blank = '\0';
		if (!blank || !fcm_parse_i64(text, 5, (int64_t)n, &length) || text[length - 1] != '\n' ||
			blank + 1 >= text + length - 1 ||
			!(equals = memchr(blank + 1, '=', (size_t)(text + length - 1 - (blank + 1)))))
			return fcm_fail(
				err, FCM_INVALID, "the archive has an extended header that is broken");
		*equals = text[length - 1] = '\0';
		if (take_record(pax, blank + 1, equals + 1, (size_t)(text + length - 1 - (equals + 1)), err) <
			0)
			return -1;
		text += length;
		n -= (size_t)length;
	}
	return 0;
}

/* The data of an extended header or of a long name of GNU's. */
static int take_extended(
	struct tar_reader *r, struct pax *pax, const struct tar_header *h, struct fcm_error *err)
{
	int64_t n = field_number(h->size, sizeof h->size);

	if (n < 0 || n > TAR_PAX_MAX)
		return fcm_fail(err, FCM_INVALID, "the archive has an extended header of more than %d bytes",
			TAR_PAX_MAX);
	auto_free char *text = xalloc((size_t)n + 1);
	if (take(r, text, (size_t)n, err) < 0 || skip(r, (uint64_t)-n % TAR_BLOCK, err) < 0)
		return -1;
	switch (h->type) {
	case 'x':
		return parse_pax(pax, text, (size_t)n, err);
	case 'L':
		return set_name(pax->path, text, strlen(text), err);
	case 'K':
		return set_name(pax->link, text, strlen(text), err);
	default: /* a global one: what it may say of all entries, we don't use */
		return 0;
	}
}

/* ---- entries ---- */

static bool is_zero(const struct tar_header *h)
{
	const char *p = (const char *)h;

	return p[0] == '\0' && memcmp(p, p + 1, sizeof *h - 1) == 0;
}

/* Bytes are summed unsigned; some old tars summed them signed. */
static bool sum_is_right(const struct tar_header *h)
{
	const unsigned char *p = (const unsigned char *)h;
	int64_t sum = 0, sum_signed = 0, said = field_number(h->checksum, sizeof h->checksum);

	for (size_t i = 0; i < sizeof *h; i++) {
		bool own = p + i >= (const unsigned char *)h->checksum &&
			   p + i < (const unsigned char *)h->checksum + sizeof h->checksum;
		sum += own ? ' ' : p[i];
		sum_signed += own ? ' ' : (signed char)p[i];
	}
	return said == sum || said == sum_signed;
}

/* The type of a header that is an entry, or -1. An old file whose name ends in a slash is a directory. */
static int type_of(const struct tar_header *h, const char *path)
{
	size_t n = strlen(path);

	switch (h->type) {
	case '0':
	case '7':
	case '\0':
		return n > 0 && path[n - 1] == '/' ? TAR_DIR : TAR_FILE;
	case '1':
		return TAR_HARDLINK;
	case '2':
		return TAR_SYMLINK;
	case '3':
		return TAR_CHAR;
	case '4':
		return TAR_BLOCKDEV;
	case '5':
		return TAR_DIR;
	case '6':
		return TAR_FIFO;
	default:
		return -1;
	}
}

static void copy_names(struct tar_entry *e, const struct tar_header *h, const struct pax *pax)
{
	bool is_ustar = memcmp(h->magic, "ustar\0", 6) == 0;

	if (pax->path[0])
		fcm_copy(e->path, sizeof e->path, pax->path);
	else if (is_ustar && h->prefix[0])
		fcm_format(e->path, sizeof e->path, "%.*s/%.*s", (int)sizeof h->prefix, h->prefix,
			(int)sizeof h->name, h->name);
	else
		fcm_format(e->path, sizeof e->path, "%.*s", (int)sizeof h->name, h->name);
	if (pax->link[0])
		fcm_copy(e->link, sizeof e->link, pax->link);
	else
		fcm_format(e->link, sizeof e->link, "%.*s", (int)sizeof h->link, h->link);
}

static int copy_numbers(
	struct tar_entry *e, const struct tar_header *h, const struct pax *pax, struct fcm_error *err)
{
	int64_t mode = field_number(h->mode, sizeof h->mode);
	int64_t uid = pax->uid >= 0 ? pax->uid : field_number(h->uid, sizeof h->uid);
	int64_t gid = pax->gid >= 0 ? pax->gid : field_number(h->gid, sizeof h->gid);
	int64_t mtime = pax->mtime >= 0 ? pax->mtime : field_number(h->mtime, sizeof h->mtime);
	int64_t major = field_number(h->major, sizeof h->major),
		minor = field_number(h->minor, sizeof h->minor);

	/* (uid_t)-1 means nobody to chown(2) */
	if (mode < 0 || uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX)
		return fcm_fail(err, FCM_INVALID, "'%.128s' has a mode or an owner that is none", e->path);
	e->mode = (unsigned)mode & 07777;
	e->uid = (uint32_t)uid;
	e->gid = (uint32_t)gid;
	e->mtime = MIN(MAX(mtime, 0), TIME_LAST);
	e->major = (unsigned)MIN(MAX(major, 0), 0xfff); /* what dev_t of Linux holds */
	e->minor = (unsigned)MIN(MAX(minor, 0), 0xfffff);
	return 0;
}

/* A decimal number on a line of its own. */
static int take_map_number(struct tar_reader *r, uint64_t *ret, struct fcm_error *err)
{
	char digits[DIGITS_MAX];
	int64_t v;

	for (size_t i = 0; i < sizeof digits; i++) {
		if (r->data == 0 || take(r, digits + i, 1, err) < 0)
			break;
		r->data--;
		if (digits[i] != '\n')
			continue;
		digits[i] = '\0';
		if (!fcm_parse_i64(digits, 0, FILE_MAX, &v))
			break;
		*ret = (uint64_t)v;
		return 0;
	}
	return fcm_fail(err, FCM_INVALID, "the archive has a sparse file whose map is broken");
}

static int take_map(struct tar_reader *r, const struct tar_entry *e, struct fcm_error *err)
{
	uint64_t before = r->data, n = 0, end = 0, sum = 0;

	if (take_map_number(r, &n, err) < 0)
		return -1;
	if (n > TAR_SEGMENTS_MAX)
		return fcm_fail(
			err, FCM_INVALID, "'%.128s' has more than %d pieces", e->path, TAR_SEGMENTS_MAX);
	r->map = xrealloc(r->map, (n + 1) * sizeof *r->map);
	for (r->segments = 0; r->segments < n; r->segments++) {
		struct tar_segment *s = &r->map[r->segments];
		if (take_map_number(r, &s->at, err) < 0 || take_map_number(r, &s->n, err) < 0)
			return -1;
		if (s->at < end || s->at > e->size || s->n > e->size - s->at)
			return fcm_fail(err, FCM_INVALID, "'%.128s' has pieces outside itself", e->path);
		end = s->at + s->n;
		sum += s->n;
	}
	uint64_t rest = (uint64_t) - (before - r->data) % TAR_BLOCK;
	if (rest > r->data || r->data - rest != sum)
		return fcm_fail(err, FCM_INVALID, "'%.128s' has a map that doesn't fit its size", e->path);
	r->data -= rest;
	return skip(r, rest, err);
}

/* Where the entry's data begins and ends. */
static int begin_data(struct tar_reader *r, struct tar_entry *e, const struct tar_header *h,
	const struct pax *pax, struct fcm_error *err)
{
	int64_t stored = pax->size >= 0 ? pax->size : field_number(h->size, sizeof h->size);

	if (stored < 0 || stored > FILE_MAX)
		return fcm_fail(err, FCM_INVALID, "'%.128s' has a size that is none", e->path);
	/* some tars give links the size of what they lead to */
	r->data = e->type == TAR_FILE ? (uint64_t)stored : 0;
	r->padding = (unsigned)(-r->data % TAR_BLOCK);
	e->size = r->data;
	if (!pax->sparse || e->type != TAR_FILE)
		return 0;
	if (pax->real_size < 0)
		return fcm_fail(err, FCM_INVALID, "'%.128s' is sparse and has no size", e->path);
	e->size = (uint64_t)pax->real_size;
	if (take_map(r, e, err) < 0)
		return -1;
	e->map = r->map;
	e->segments = r->segments;
	return 0;
}

static int make_entry(struct tar_reader *r, struct tar_entry *e, const struct tar_header *h,
	const struct pax *pax, struct fcm_error *err)
{
	copy_names(e, h, pax);
	int type = type_of(h, e->path);
	if (type < 0)
		return fail_format(h->type == 'S' ? "the archive has a sparse file in an old format"
						  : "the archive has an entry of a kind that we don't know",
			err);
	e->type = (enum tar_type)type;
	e->map = NULL;
	e->segments = 0;
	return copy_numbers(e, h, pax, err) < 0 || begin_data(r, e, h, pax, err) < 0 ? -1 : 1;
}

/* The end is two blocks of zeros; the second is left to tar_drain(), for some tars write one. */
int tar_next(struct tar_reader *r, struct tar_entry *e, struct fcm_error *err)
{
	auto_free struct pax *pax = xalloc(sizeof *pax);
	struct tar_header h;

	*pax = (struct pax){.size = -1, .uid = -1, .gid = -1, .mtime = -1, .real_size = -1};
	if (skip(r, r->data, err) < 0 || skip(r, r->padding, err) < 0)
		return -1;
	r->data = r->padding = 0;
	r->segments = r->next = 0;
	r->done = 0;
	for (;;) {
		if (take(r, &h, sizeof h, err) < 0)
			return -1;
		if (is_zero(&h))
			return 0;
		if (!sum_is_right(&h))
			return fcm_fail(err, FCM_INVALID, "what came is no tar archive, or it is damaged");
		if (!strchr("xgLK", h.type) || h.type == '\0')
			return make_entry(r, e, &h, pax, err);
		if (take_extended(r, pax, &h, err) < 0)
			return -1;
	}
}

ssize_t tar_data(struct tar_reader *r, const char **ret, uint64_t *ret_at, struct fcm_error *err)
{
	uint64_t left = r->data;

	while (r->next < r->segments && r->done == r->map[r->next].n) {
		r->next++;
		r->done = 0;
	}
	if (left == 0)
		return 0;
	*ret_at = r->done;
	if (r->segments) {
		left = r->map[r->next].n - r->done;
		*ret_at += r->map[r->next].at;
	}
	if (fill(r, err) < 0)
		return -1;
	size_t n = (size_t)MIN(left, (uint64_t)(r->end - r->begin));
	*ret = r->bytes + r->begin;
	r->begin += n;
	r->data -= n;
	r->done += n;
	return (ssize_t)n;
}

void tar_reader_done(struct tar_reader *r)
{
	free(r->map);
	r->map = NULL;
	r->segments = 0;
}
