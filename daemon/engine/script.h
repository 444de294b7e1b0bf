/*
 * A script in a guest, by its agent (docs/AGENT.md): put there as `fcm cp` does it, run as `fcm exec` does it.
 */
#pragma once

#include "daemon/engine/op.h"

/* Run the n bytes of `script` as root in the running guest of `vm`, in "/": by what its first line says ("#!"), else by /bin/sh. What
 * it says becomes the events "output" of `op`; none is lost, so a reader that is slow slows it down. Its
 * end is the event "exit". Fails when it doesn't end with
 * status 0 (FCM_SCRIPT), when the guest doesn't know how to run it or goes away (FCM_GUEST), and when op is given up
 * (FCM_CANCELLED): then it is ended. */
int script_run(struct op *op, struct vm *vm, const char *script, size_t n, struct fcm_error *err) must_check;
