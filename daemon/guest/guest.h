/*
 * The daemon's side of the channel to one fcm-agent: a session with a nonce, requests with answers, events.
 *
 * The guest is an enemy: frames are bounded, a request has a deadline, an answer to a request that nobody
 * waits for is dropped, and text is made printable before it goes anywhere.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

struct loop;
struct guest;

enum guest_power { GUEST_CRASHED, GUEST_POWEROFF, GUEST_REBOOT };

/* Called on the loop's thread; must not block. A handler may be NULL. `lost` is said once, and not after
 * guest_close() was called. `lost` may close the session; `power` must not. */
struct guest_events {
	void (*power)(void *arg, enum guest_power intent); /* the guest says what it is about to do */
	void (*lost)(void *arg); /* the channel broke: reconnect, or the VM is gone */
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

/* Close the session and the descriptor; calls in progress end with FCM_GUEST, and no handler runs any more
 * when it returns. Any thread, but not while holding a lock that a handler takes. NULL-safe. */
void guest_close(struct guest *g);
