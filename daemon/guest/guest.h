/*
 * The daemon's side of the channel to one fcm-agent: a session with a nonce, requests with answers, events.
 *
 * The guest is an enemy: frames are bounded, a request has a deadline, an answer to a request that nobody waits for is
 * dropped, and text is made printable before it goes anywhere.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

struct loop;
struct guest;

enum guest_power { GUEST_CRASHED, GUEST_POWEROFF, GUEST_REBOOT };

/* Called on the loop's thread; must not block. */
struct guest_events {
	void (*power)(void *arg, enum guest_power intent); /* the guest says what it is about to do */
	void (*lost)(void *arg);			    /* the channel broke: reconnect, or the VM is gone */
	void *arg;
};

/* What HELLO said. */
struct guest_hello {
	char boot_id[37];
	unsigned version; /* of the protocol */
};

/* Begin a session on `fd` (taken over, non-blocking). The HELLO is repeated until it is answered or the session is
 * closed. */
int guest_open(struct loop *loop, int fd, const struct guest_events *events, struct guest **ret,
	struct fcm_error *err) must_check;

/* Wait for the agent's HELLO. FCM_TIMEOUT when the deadline comes first, FCM_GUEST when the channel breaks. */
int guest_hello(struct guest *g, int64_t deadline, struct guest_hello *ret, struct fcm_error *err) must_check;

/* Send a request (a kv list with op=..., then maybe raw bytes) and wait for its answer, a kv list in *ret (may be
 * NULL; the caller's). An answer error=... is FCM_GUEST with that text. Any thread. */
int guest_call(struct guest *g, const struct buf *request, int64_t deadline, struct buf *ret,
	struct fcm_error *err) must_check;

/* Close the session and the descriptor; calls in progress end with FCM_GUEST. NULL-safe. */
void guest_close(struct guest *g);
