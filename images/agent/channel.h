/*
 * The byte stream to the host, and frames on it.
 *
 * A virtio-serial port gives POLLHUP for as long as no host is connected, and tells nobody about a host that
 * came and went in between. Therefore:
 * - while it hangs up, the descriptor is left out of poll() for a moment instead of spinning on it;
 * - a frame that began but doesn't go on within FRAME_SILENCE_MS, or isn't whole after CHANNEL_FRAME_MS, is
 * dropped: its sender is dead. The second bound is needed because the next host's HELLOs, which come more
 * often than FRAME_SILENCE_MS, would fill up the frame that the dead one began;
 * - bytes that can't be a frame are dropped as a whole: the next HELLO, 200 ms later, begins anew.
 * A vsock, Firecracker's channel, is a listener instead, and a connection says when it ends. There is one at a time: a host
 * that was killed may have left one open, so a new one takes its place.
 *
 * What isn't written yet is kept, and nothing is read while more than CHANNEL_OUT_MAX of it wait: a host that
 * asks and never listens makes itself wait, not the guest's memory grow.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/core/frame.h"
#include "common/core/util.h"

enum {
	CHANNEL_OUT_MAX = 65536, /* bytes that wait for the host before we stop reading */
	CHANNEL_FRAME_MS = 1000, /* for the whole of a frame */
	CHANNEL_HANGUP_MS = 100, /* how long we look away when no host is there */
	CHANNEL_FIRST_MS = 250,	 /* from one look to the next before the first byte */
	CHANNEL_LINGER_S = 1,
	CHANNEL_PORT = 52, /* vsock port, docs/AGENT.md */
};

/* Zero-initialised with both descriptors -1 is a channel that isn't open yet. Both are non-blocking, CLOEXEC and owned. */
struct channel {
	int fd;	       /* what is read and written: the port, or the vsock connection that there is */
	int listen_fd; /* of a vsock, else -1 */
	struct buf in, out;
	int64_t began;	    /* clock_ms() when the incomplete frame in `in` began */
	int64_t heard;	    /* clock_ms() of the last byte */
	int64_t deaf_until; /* clock_ms() until which fd is not polled */
	bool lost;	    /* the host went away; for who asks channel_lost() */
};

/* Find the virtio-serial port that the host named "fcm.agent" in /sys/class/virtio-ports, and open it. There
 * is no udev in an initramfs, so the port's device is known by its number only. Returns whether the channel
 * is open now. */
bool channel_open(struct channel *c);

/* Is the machine one whose channel is a vsock: has it such a device, and no virtio-serial one? */
bool channel_is_vsock(void);

/* Listen on vsock port CHANNEL_PORT. Returns whether the channel is open now; it fails where the modules are missing. */
bool channel_listen(struct channel *c);

/* Take the newest connection that waits at c->listen_fd, and close all others. Only the host's count: a program in the
 * guest has no business here. */
void channel_accept(struct channel *c);

/* Close it for good, so that the host has all that was written: a vsock passes bytes on later than write(2) returns, and a
 * machine that is reset before takes them with it. Takes at most CHANNEL_LINGER_S. */
void channel_close(struct channel *c);

/* Is there nothing left to say? Nor is there without any channel. Where one is open and no host connected, what waits may
 * still find one. */
bool channel_told(const struct channel *c);

/* What poll(2) should wait for on c->fd; 0 for nothing (leave the descriptor out). */
short channel_events(const struct channel *c);

/* When channel_tick() has something to do: a moment on clock_ms(), or FCM_FOREVER. */
int64_t channel_deadline(const struct channel *c);

/* Drop a frame whose sender fell silent. To be called when channel_deadline() is past. */
void channel_tick(struct channel *c);

/* Serve what poll() said of c->fd: write what waits, read what is there, at most 64 KiB a call. */
void channel_serve(struct channel *c, short revents);

/* The next whole frame; it stays valid until channel_done_frame(), which must follow. False when there is
 * none. */
bool channel_next(struct channel *c, struct frame *ret);
void channel_done_frame(struct channel *c, const struct frame *f);

/* Queue a frame, and write what goes at once. A payload over FRAME_MAX is a bug of the caller (asserted). */
void channel_send(struct channel *c, uint32_t stream, enum frame_type type, const struct buf *payload);

/* Write what goes at once of what was added to c->out. */
void channel_flush(struct channel *c);

/* Has a host gone away since this was last asked? */
bool channel_lost(struct channel *c);

/* Forget all that waits to be written: a new session began. */
void channel_reset(struct channel *c);
