/*
 * The health of running VMs: a question to the guest every so often (probe.h), and what its answers add up to.
 */
#pragma once

#include "daemon/engine/vm.h"

/* Begin to look after a VM whose user wants that, or go on after health_rest(); nothing changes where it is done already.
 * Called by the holder of the busy slot, and so are the other two. */
int health_watch(struct vm *vm, struct fcm_error *err) must_check;

/* Ask nothing while it stands still; what is known of it stays. */
void health_rest(struct vm *vm);

/* No longer: it ends. */
void health_unwatch(struct vm *vm);

/* Count one answer. A first good one, or one after that, means healthy; `retries` bad ones in a row mean unhealthy; those
 * that come `early` (in the start period, or before the guest is set up), before any good one, don't count. Returns whether the status has changed.
 * Pure. */
bool health_count(struct vm_health *h, bool good, bool early, uint32_t retries);
