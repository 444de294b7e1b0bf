/*
 * The daemon's side of the channel to one fcm-agent: a session with a nonce, requests with answers, events.
 *
 * The guest is an enemy: frames are bounded, a request has a deadline, an answer to a request that nobody
 * waits for is dropped, and text is made printable before it goes anywhere.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/frame.h"
#include "common/core/util.h"

struct loop;
struct guest;

enum guest_power { GUEST_CRASHED, GUEST_POWEROFF, GUEST_REBOOT };

/* Called on the loop's thread; must not block. A handler may be NULL. `lost` is said once, and not after
 * guest_close() was called. `lost` may close the session; `power` must not. */
struct guest_events {
	void (*power)(void *arg, enum guest_power intent); /* the guest says what it is about to do */
	void (*main)(void *arg, int exit); /* its main process has ended: 0 to 255; must not close either */
	void (*lost)(void *arg);	   /* the channel broke: reconnect, or the VM is gone */
	void *arg;
};

/* What HELLO said. */
struct guest_hello {
	char boot_id[37];
	unsigned version; /* of the protocol */
};

/* Begin a session on `fd` (a connected stream socket, taken over, also when this fails). The HELLO is
 * repeated until it is answered or the session is closed. A session that breaks begins again by itself a few
 * times. */
int guest_open(struct loop *loop, int fd, const struct guest_events *events, struct guest **ret,
	struct fcm_error *err) must_check;

/* Wait for the agent's HELLO. FCM_TIMEOUT when the deadline comes first, FCM_GUEST when the channel breaks.
 */
int guest_hello(struct guest *g, int64_t deadline, struct guest_hello *ret, struct fcm_error *err) must_check;

/* Send a request (a kv list with op=..., then maybe raw bytes; at most FRAME_MAX in all) and wait for its
 * answer, a kv list in *ret (may be NULL; the caller's). Waits for the HELLO first. An answer error=... is
 * FCM_GUEST with that text, made printable, and the guest's errno in err->sys; FCM_TIMEOUT; FCM_UNAVAILABLE
 * when 64 are in progress. Any thread but the loop's. */
int guest_call(struct guest *g, const struct buf *request, int64_t deadline, struct buf *ret,
	struct fcm_error *err) must_check;

/* Several requests at once: all are sent, in their order, before the first answer is waited for, and the agent works them off in
 * that order. -1 with the error of the first that went wrong; those behind it were sent all the same. Requests and answers are
 * the caller's. */
enum { GUEST_ASKS = 16 };
struct guest_ask {
	struct buf request, answer;
};
int guest_call_all(struct guest *g, struct guest_ask *asks, size_t n, int64_t deadline,
	struct fcm_error *err) must_check;

/* What a guest says, on its way to people: at most `size` - 1 bytes, printable, on one line. */
void guest_text(const char *s, char *ret, size_t size);

/* Close the session and the descriptor; calls in progress end with FCM_GUEST, streams are broken, and no handler runs any
 * more when it returns. What is left is freed by the last guest_unref(), if there was a guest_ref(). Any thread, but not
 * while holding a lock that a handler takes. NULL-safe. */
void guest_close(struct guest *g);

/* Hold a session that another thread may close: calls then fail. Takes no lock. */
struct guest *guest_ref(struct guest *g);
void guest_unref(struct guest *g); /* NULL-safe */

/* ---- streams (docs/AGENT.md) ----
 *
 * A request whose answer is the end of something longer, with bytes in up to three channels meanwhile. A stream belongs to
 * one thread, which waits for its descriptor and then tries again all that was to be done later. It keeps its session's
 * memory, not the session: with that one it breaks. */

struct guest_stream;

enum guest_read {
	GUEST_LATER,  /* nothing now */
	GUEST_DATA,   /* n bytes of `channel` */
	GUEST_END,    /* `channel` has ended; said once for each, also when the guest forgot to */
	GUEST_RESULT, /* it is over: guest_stream_result() */
	GUEST_BROKEN, /* and so it is, but guest_stream_result() has an error */
};

struct guest_piece {
	enum frame_channel channel; /* stdout or stderr */
	size_t n;
	char p[FRAME_MAX / 2];
};

/* Send a request that opens a stream. Waits for the HELLO, but not for the answer. Errors as for guest_call(), FCM_UNAVAILABLE
 * when 128 are open. */
int guest_stream_open(struct guest *g, const struct buf *request, int64_t deadline, struct guest_stream **ret,
	struct fcm_error *err) must_check;

/* Readable when something has changed since guest_stream_clear(), which is called before one tries again. */
int guest_stream_fd(const struct guest_stream *s);
void guest_stream_clear(struct guest_stream *s);

/* Send to its stdin what the guest's credit and the channel have room for. Returns how many of the n bytes; the rest later. A
 * stream that is over or broken takes all and throws it away. */
size_t guest_stream_write(struct guest_stream *s, const void *p, size_t n);

/* Its stdin ends. False: later. */
bool guest_stream_end(struct guest_stream *s);

/* Send a request about it (a kv list, `stream` is added), such as signal, whose answer nobody waits for. False: later, for the
 * one before isn't answered yet. */
bool guest_stream_control(struct guest_stream *s, const struct buf *request);

/* What comes next. The guest may send as much again as is read here. */
enum guest_read guest_stream_read(struct guest_stream *s, struct guest_piece *ret);

/* Its answer, a kv list that is good until guest_stream_close(): after GUEST_RESULT. Else FCM_GUEST with the reason. */
int guest_stream_result(struct guest_stream *s, const struct buf **ret, struct fcm_error *err) must_check;

/* Be done with it: what isn't over is cancelled (op=close). NULL-safe. */
void guest_stream_close(struct guest_stream *s);
