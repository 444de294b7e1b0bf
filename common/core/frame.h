/*
 * Frames: what the host and fcm-agent say to each other over one byte stream (virtio-serial on QEMU, vsock on
 * Firecracker). docs/AGENT.md is the protocol's own page.
 *
 *	u32 stream   0 for the session itself; a request's number for its answer        little-endian
 *	u16 len      bytes of payload, at most FRAME_MAX
 *	u8  type     enum frame_type
 *	u8  channel  enum frame_channel for what a stream carries, else 0
 *	payload      a kv list (common/core/kv.h), then, for some requests, raw bytes; of DATA raw bytes, of CREDIT a u32
 *
 * A virtio-serial port tells neither side that the other went away, so a session begins with a nonce: the host sends
 * HELLO(nonce) and throws away what it reads until the HELLO with that nonce comes back; the agent forgets its old
 * session when a HELLO arrives, and a partial frame after FRAME_SILENCE_MS without a byte. Without the latter two,
 * a host that was killed in the middle of a frame wedged the channel in 18 of 20 tries.
 *
 * A request may open a stream (exec): between it and its answer DATA flows on its number, in up to three channels. Whoever
 * sends on one may send FRAME_WINDOW bytes, and then as many as CREDIT adds, so a reader that is slow stops its own stream
 * and no other; END is the last on a channel. Between the daemon and a client that upgraded its connection to fcm-stream
 * the same frames go, without HELLO and CREDIT: there a connection carries one stream and TCP slows its sender down.
 */
#pragma once

#include <stdint.h>

#include "common/core/util.h"

enum {
	FRAME_HEADER = 8,
	FRAME_MAX = 32768, /* payload bytes */
	FRAME_SILENCE_MS = 300,
	FRAME_VERSION = 1,
	FRAME_WINDOW = 65536, /* bytes on a channel of a stream that need no CREDIT */
};

#define FRAME_MAGIC "FCMA"

enum frame_type {
	FRAME_HELLO = 1, /* host: magic version nonce; agent: magic version nonce boot_id */
	FRAME_REQ = 2,	 /* host: op=... and its arguments */
	FRAME_RES = 3,	 /* agent, same stream: ok=1 and results, or error=text errno=N */
	FRAME_EVENT = 4, /* agent: event=... */
	FRAME_DATA = 5,
	FRAME_CREDIT = 6, /* u32: so many bytes more may be sent on this channel */
	FRAME_END = 7,	  /* nothing more comes on this channel; no payload */
};

enum frame_channel { FRAME_STDIN, FRAME_STDOUT, FRAME_STDERR };

struct frame {
	uint32_t stream;
	uint16_t len;
	uint8_t type, channel;
	const uint8_t *payload; /* points into the buffer that was parsed */
};

/* Append a frame to b. `n` is at most FRAME_MAX (asserted). */
void frame_add(struct buf *b, uint32_t stream, enum frame_type type, const void *payload, size_t n);

/* The same for what a stream carries. */
void frame_add_data(struct buf *b, uint32_t stream, enum frame_channel channel, const void *p, size_t n);
void frame_add_credit(struct buf *b, uint32_t stream, enum frame_channel channel, uint32_t bytes);
void frame_add_end(struct buf *b, uint32_t stream, enum frame_channel channel);

/* What a CREDIT grants. */
uint32_t frame_credit(const struct frame *f);

/* Parse the frame that the n bytes at p begin with. Returns its size in bytes, 0 when more bytes are needed, -1 when
 * these bytes can't be a frame (the length is over FRAME_MAX, the type unknown, the channel none that the type has, a CREDIT
 * or END of the wrong size): the session is lost then. */
ssize_t frame_parse(const void *p, size_t n, struct frame *ret);

/* Look for a HELLO that carries `nonce` anywhere in the n bytes at p, which may begin with rubbish. Returns the offset
 * behind it and sets *ret, or 0 when there is none yet; *ret_keep is then how many bytes at the end must be kept
 * because a HELLO may begin there. */
size_t frame_find_hello(const void *p, size_t n, const char *nonce, struct frame *ret, size_t *ret_keep);
