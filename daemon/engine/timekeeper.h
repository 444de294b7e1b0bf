/*
 * The guests' clocks. One that was paused, or whose host slept, is late, and nothing in it knows.
 *
 * Theory of operation. A thread of its own looks at one guest after the other, every clock_seconds, and as soon as the host's own
 * clock was set or the host was suspended. It is one thread, however many VMs there are, so a look that takes long makes only
 * the others' later, and it claims no VM: no operation waits for it. The agent decides what to do about what it hears
 * (images/agent/wall.h).
 *
 * What is told isn't "it is three", which is wrong by the time it takes to be heard, but "it was three when your uptime was U":
 * a ping asks for the uptime, and the time at its half is right to half of its round trip (F. Cristian, Probabilistic clock
 * synchronization, 1989). So a message may also lie around while the machine is paused: either its uptime went on meanwhile,
 * and the sum is right; or it stood, as the guest's clock did, and the message changes nothing.
 */
#pragma once

#include <stdint.h>

#include "common/core/util.h"
#include "daemon/guest/guest.h"

enum {
	TIME_ANSWER_MS = 1000, /* for a guest's answers */
	TIME_TRIP_MS =
		150, /* a longer round trip makes what we say too wrong for a clock that may be right */
};

/* Tell a guest the time. FCM_TIMEOUT when the ping took longer than `trip_ms`, so that it would be too wrong; else the errors of
 * guest_call(). Any thread but the loop's. */
int guest_tell_time(struct guest *g, int64_t deadline, int64_t trip_ms, struct fcm_error *err) must_check;

/* Begin to look at the clocks of all running VMs, every `seconds`; 0: don't. */
int timekeeper_start(uint32_t seconds, struct fcm_error *err) must_check;

/* End it, and wait until it has ended: at most as long as one guest may take to answer, a second. The loop must run meanwhile. */
void timekeeper_stop(void);
