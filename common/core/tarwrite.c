#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/core/tar_internal.h"

/* What fits into the digits of a header (a NUL behind them). */
#define ID_MAX 07777777u
#define SIZE_MAX_OCTAL 077777777777ull

static void put_octal(char *field, size_t size, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof text, "%0*" PRIo64, (int)size - 1, value);
	memcpy(field, text, size - 1);
}

/* "LENGTH KEY=VALUE\n", where LENGTH counts itself. */
static void add_bytes(struct buf *out, const char *key, const void *value, size_t n)
{
	size_t body = strlen(key) + n + 3, total = body + 1;

	while (total != body + (size_t)snprintf(NULL, 0, "%zu", total))
		total++;
	buf_printf(out, "%zu %s=", total, key);
	buf_add(out, value, n);
	buf_str(out, "\n");
}

static void add_record(struct buf *out, const char *key, const char *value)
{
	add_bytes(out, key, value, strlen(value));
}

static void add_number(struct buf *out, const char *key, uint64_t value)
{
	char text[24];

	fcm_format(text, sizeof text, "%" PRIu64, value);
	add_record(out, key, text);
}

void tar_pad(struct buf *out, uint64_t n)
{
	static const char zeros[TAR_BLOCK];

	buf_add(out, zeros, (size_t)(-n % TAR_BLOCK));
}

/* The sum counts its own field as blanks. */
static void add_header(struct buf *out, struct tar_header *h)
{
	unsigned sum = 0;

	memcpy(h->magic, "ustar", 6);
	memcpy(h->version, "00", 2);
	memset(h->checksum, ' ', sizeof h->checksum);
	for (size_t i = 0; i < sizeof *h; i++)
		sum += ((const unsigned char *)h)[i];
	put_octal(h->checksum, sizeof h->checksum - 1, sum);
	h->checksum[sizeof h->checksum - 2] = '\0';
	buf_add(out, h, sizeof *h);
}

static void add_pax(struct buf *out, const struct buf *records)
{
	struct tar_header h = {.name = "PaxHeaders/entry", .type = 'x'};

	put_octal(h.mode, sizeof h.mode, 0644);
	put_octal(h.uid, sizeof h.uid, 0);
	put_octal(h.gid, sizeof h.gid, 0);
	put_octal(h.mtime, sizeof h.mtime, 0);
	put_octal(h.size, sizeof h.size, records->n);
	add_header(out, &h);
	buf_add(out, records->p, records->n);
	tar_pad(out, records->n);
}

/* What stands in front of a sparse file's data, to whole blocks. A hole at its end has an empty segment behind it: GNU tar makes
 * the file as long as its last segment says. */
static void add_map(struct buf *out, const struct tar_entry *e)
{
	const struct tar_segment *last = e->segments ? &e->map[e->segments - 1] : NULL;
	bool hole = last == NULL || last->at + last->n < e->size;
	size_t begin = out->n;

	buf_printf(out, "%zu\n", e->segments + hole);
	for (size_t i = 0; i < e->segments; i++)
		buf_printf(out, "%" PRIu64 "\n%" PRIu64 "\n", e->map[i].at, e->map[i].n);
	if (hole)
		buf_printf(out, "%" PRIu64 "\n0\n", e->size);
	tar_pad(out, out->n - begin);
}

static void add_sparse_records(struct buf *out, const struct tar_entry *e)
{
	add_record(out, "GNU.sparse.major", "1");
	add_record(out, "GNU.sparse.minor", "0");
	add_record(out, "GNU.sparse.name", e->path);
	add_number(out, "GNU.sparse.realsize", e->size);
}

static void add_xattrs(struct buf *out, const struct tar_entry *e)
{
	for (size_t i = 0; i < e->xattrs_n; i++) {
		auto_free char *key = xprintf("SCHILY.xattr.%s", e->xattrs[i].name);
		add_bytes(out, key, e->xattrs[i].value, e->xattrs[i].n);
	}
}

/* The first bytes of a name that is too long are for readers that know no pax. */
static void put_name(char *field, const char *name, const char *key, struct buf *records)
{
	size_t n = strlen(name);

	memcpy(field, name, MIN(n, (size_t)TAR_NAME));
	if (n > TAR_NAME)
		add_record(records, key, name);
}

static void put_number(
	char *field, size_t size, uint64_t value, uint64_t max, const char *key, struct buf *records)
{
	put_octal(field, size, value > max ? 0 : value);
	if (value > max)
		add_number(records, key, value);
}

void tar_add(struct buf *out, const struct tar_entry *e)
{
	static const char types[] = {
		[TAR_FILE] = '0',
		[TAR_DIR] = '5',
		[TAR_SYMLINK] = '2',
		[TAR_HARDLINK] = '1',
		[TAR_CHAR] = '3',
		[TAR_BLOCKDEV] = '4',
		[TAR_FIFO] = '6',
	};
	_cleanup_(buf_done) struct buf records = {0}, map = {0};
	auto_free char *path = xprintf("%s%s", e->path, e->type == TAR_DIR ? "/" : "");
	struct tar_header h = {.type = types[e->type]};
	uint64_t stored = e->type == TAR_FILE ? e->size : 0;

	if (e->map) {
		add_sparse_records(&records, e);
		add_map(&map, e);
		stored = map.n;
		for (size_t i = 0; i < e->segments; i++)
			stored += e->map[i].n;
	}
	put_name(h.name, path, "path", &records);
	put_name(h.link, e->link, "linkpath", &records);
	put_octal(h.mode, sizeof h.mode, e->mode & 07777);
	put_number(h.uid, sizeof h.uid, e->uid, ID_MAX, "uid", &records);
	put_number(h.gid, sizeof h.gid, e->gid, ID_MAX, "gid", &records);
	put_number(h.size, sizeof h.size, stored, SIZE_MAX_OCTAL, "size", &records);
	put_octal(h.mtime, sizeof h.mtime, (uint64_t)MIN(MAX(e->mtime, 0), (int64_t)SIZE_MAX_OCTAL));
	put_octal(h.major, sizeof h.major, e->major & ID_MAX);
	put_octal(h.minor, sizeof h.minor, e->minor & ID_MAX);
	add_xattrs(&records, e);
	if (records.n)
		add_pax(out, &records);
	add_header(out, &h);
	if (map.n)
		buf_add(out, map.p, map.n);
}

void tar_add_end(struct buf *out)
{
	static const char zeros[2 * TAR_BLOCK];

	buf_add(out, zeros, sizeof zeros);
}

void tar_add_error(struct buf *out, const char *why)
{
	_cleanup_(buf_done) struct buf records = {0};

	add_record(&records, TAR_ERROR_KEY, why);
	add_pax(out, &records);
}
