/*
 * Waiting for a guest, as the steps `guest` and `ready` do.
 */
#pragma once

#include "daemon/engine/op.h"

/* Does waiting on still make sense? Not when the VMM ended, the daemon stops, somebody wants the VM killed, or the deadline
 * has come (FCM_TIMEOUT: "<what> within <patience> s", with the console's last line and where to read more). */
int wait_goes_on(struct op *op, int64_t deadline, int64_t patience_ms, const char *what,
	struct fcm_error *err) must_check;

/* What this start waits for: what its request says, or the VM. */
const struct ready_spec *wait_ready_spec(const struct op *op);
