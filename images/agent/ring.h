/*
 * What the main process printed last: a ring of bytes that drops the oldest, and of each byte the channel it came on.
 *
 * A byte's position is the count of those before it since the machine's boot, of both channels together; so it says what is
 * new to a host that has read so far, and how much is gone that it hasn't. Pure.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/core/frame.h"

enum { RING_BYTES = 256 << 10, RING_PIECES = 4096 };

/* Bytes of one channel, up to where the next piece begins. */
struct ring_piece {
	uint64_t begin;
	enum frame_channel channel;
};

/* Zero-initialised is empty. */
struct ring {
	char *bytes;	/* RING_BYTES, once there are any */
	uint64_t total; /* bytes that ever came */
	struct ring_piece pieces[RING_PIECES];
	size_t first, count; /* the oldest piece, how many */
};

/* Add n bytes, at most RING_BYTES; what they have no room beside is dropped. */
void ring_add(struct ring *r, enum frame_channel channel, const void *p, size_t n);

/* Position of the oldest byte that is still there; r->total when there is none. */
uint64_t ring_oldest(const struct ring *r);

/* May n bytes in at most two pieces come, and nothing be dropped from position `pos` on? */
bool ring_has_room(const struct ring *r, uint64_t pos, size_t n);

/* The bytes at position `pos` (not before the oldest) that follow each other in memory, at most `max`, all of one channel.
 * Returns how many; 0 at the end. */
size_t ring_get(
	const struct ring *r, uint64_t pos, size_t max, enum frame_channel *ret_channel, const char **ret);

/* Append what begins at *pos, or at the oldest byte behind that, as records of a byte with the channel, two with the length
 * (little-endian), and the bytes; at most `max` in all. *pos becomes where they begin. */
void ring_records(const struct ring *r, uint64_t *pos, size_t max, struct buf *ret);

/* Free what it holds. */
void ring_done(struct ring *r);
