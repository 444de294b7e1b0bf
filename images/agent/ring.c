#include "images/agent/ring.h"

#include <string.h>

enum { RECORD_HEAD = 3 };

static struct ring_piece *piece_at(const struct ring *r, size_t i)
{
	return (struct ring_piece *)&r->pieces[(r->first + i) % RING_PIECES];
}

static uint64_t end_of(const struct ring *r, size_t i)
{
	return i + 1 < r->count ? piece_at(r, i + 1)->begin : r->total;
}

static void drop_first(struct ring *r)
{
	r->first = (r->first + 1) % RING_PIECES;
	r->count--;
}

/* Many small pieces run out before the bytes do. */
static void note_piece(struct ring *r, enum frame_channel channel)
{
	if (r->count && piece_at(r, r->count - 1)->channel == channel)
		return;
	if (r->count == RING_PIECES)
		drop_first(r);
	*piece_at(r, r->count++) = (struct ring_piece){r->total, channel};
}

static void drop_old(struct ring *r)
{
	uint64_t oldest = r->total > RING_BYTES ? r->total - RING_BYTES : 0;

	while (r->count && end_of(r, 0) <= oldest)
		drop_first(r);
	if (r->count && piece_at(r, 0)->begin < oldest)
		piece_at(r, 0)->begin = oldest;
}

void ring_add(struct ring *r, enum frame_channel channel, const void *p, size_t n)
{
	if (n == 0)
		return;
	if (r->bytes == NULL)
		r->bytes = xalloc(RING_BYTES);
	note_piece(r, channel);
	size_t at = r->total % RING_BYTES, head = MIN(n, RING_BYTES - at);
	memcpy(r->bytes + at, p, head);
	memcpy(r->bytes, (const char *)p + head, n - head);
	r->total += n;
	drop_old(r);
}

uint64_t ring_oldest(const struct ring *r)
{
	return r->count ? piece_at(r, 0)->begin : r->total;
}

bool ring_has_room(const struct ring *r, uint64_t pos, size_t n)
{
	size_t dropped = r->count + 2 > RING_PIECES ? r->count + 2 - RING_PIECES : 0;

	pos = MAX(pos, ring_oldest(r));
	return r->total - pos + n <= RING_BYTES && (dropped == 0 || end_of(r, dropped - 1) <= pos);
}

/* The piece that holds `pos`, which is one of those that are there. */
static size_t find(const struct ring *r, uint64_t pos)
{
	size_t low = 0, high = r->count;

	while (high - low > 1) {
		size_t middle = (low + high) / 2;
		if (piece_at(r, middle)->begin <= pos)
			low = middle;
		else
			high = middle;
	}
	return low;
}

size_t ring_get(
	const struct ring *r, uint64_t pos, size_t max, enum frame_channel *ret_channel, const char **ret)
{
	if (pos < ring_oldest(r) || pos >= r->total)
		return 0;
	size_t i = find(r, pos), at = pos % RING_BYTES;
	uint64_t n = MIN(end_of(r, i) - pos, (uint64_t)max);

	*ret_channel = piece_at(r, i)->channel;
	*ret = r->bytes + at;
	return MIN((size_t)n, RING_BYTES - at);
}

void ring_records(const struct ring *r, uint64_t *pos, size_t max, struct buf *ret)
{
	enum frame_channel channel;
	const char *p;
	size_t n;

	*pos = MAX(*pos, ring_oldest(r));
	for (uint64_t at = *pos; max > RECORD_HEAD; at += n, max -= RECORD_HEAD + n) {
		n = ring_get(r, at, MIN(max - RECORD_HEAD, (size_t)UINT16_MAX), &channel, &p);
		if (n == 0)
			return;
		const uint8_t head[RECORD_HEAD] = {(uint8_t)channel, (uint8_t)n, (uint8_t)(n >> 8)};
		buf_add(ret, head, sizeof head);
		buf_add(ret, p, n);
	}
}

void ring_done(struct ring *r)
{
	free(r->bytes);
	*r = (struct ring){0};
}
