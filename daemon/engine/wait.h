/*
 * Waiting for a guest, as the steps `guest` and `ready` do.
 */
#pragma once

#include "daemon/engine/op.h"
#include "daemon/engine/probe.h"

/* Is the guest's next answer still wanted? Not when somebody wants the VM killed or the daemon stops. Asked before each request of a
 * setup, which a guest may answer as late as it can. (steps_ready.c) */
int wait_wanted(const struct vm *vm, struct fcm_error *err) must_check;

/* Does waiting on still make sense? Not when the VMM ended, the daemon stops, somebody wants the VM killed, or the deadline
 * has come (FCM_TIMEOUT: "<what> within <patience> s", with the console's last line and where to read more). */
int wait_goes_on(struct op *op, int64_t deadline, int64_t patience_ms, const char *what,
	struct fcm_error *err) must_check;

/* Begin a new session with the guest's agent, in place of one that may be there, and wait for its HELLO. (steps_guest.c) */
int guest_reach(struct op *op, int64_t deadline, struct fcm_error *err) must_check;

/* Have the guest's agent run something that ends by itself (a stream as of op=probe, docs/AGENT.md), and wait for it. 1: it went
 * well, 0: `why` says what went wrong, -1 when waiting on makes no sense; `what` as of wait_goes_on(). */
int guest_await(struct op *op, const struct buf *request, int64_t patience_ms, const char *what,
	char why[PROBE_WHY], struct fcm_error *err) must_check;

/* What this start waits for: what its request says, or the VM. */
const struct ready_spec *wait_ready_spec(const struct op *op);
