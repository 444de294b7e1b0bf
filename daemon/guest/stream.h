/*
 * The streams of a session, as guest.c sees them; the rest of the daemon has guest.h. All functions but
 * guest_lock() are called with the session's lock held.
 */
#pragma once

#include <sys/queue.h>

#include "common/core/frame.h"
#include "daemon/guest/guest.h"

enum {
	STREAMS_MAX = 128,
	/* Bytes that wait for the channel before streams wait as well: what is above is for requests. */
	STREAM_OUT_MAX = 2 * FRAME_MAX,
};

LIST_HEAD(stream_list, guest_stream);

/* A stream on the number of its request. FCM_UNAVAILABLE when there are STREAMS_MAX or no descriptor is left. */
struct guest_stream *stream_new(
	struct stream_list *all, struct guest *g, uint32_t number, struct fcm_error *err);

/* A frame that may belong to a stream: DATA, CREDIT, END, RES. False when it was of no use to anybody. */
bool stream_take(struct stream_list *all, const struct frame *f);

/* The channel has room again. */
void stream_wake(struct stream_list *all);

/* The session is over, and all streams with it. */
void stream_fail_all(struct stream_list *all);

/* ---- what stream.c needs of guest.c ---- */

/* The lock of a session and its streams. */
void guest_lock(struct guest *g);
void guest_unlock(struct guest *g);

/* Where frames are put; guest_flush() then sends them. NULL when the session isn't up. */
struct buf *guest_out(struct guest *g);
void guest_flush(struct guest *g);

/* A number that no request has. */
uint32_t guest_number(struct guest *g);
