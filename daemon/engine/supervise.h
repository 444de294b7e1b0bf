/*
 * Watching running VMs: the end of a VMM, the guest's last word, a broken agent channel, restarts after a
 * crash, foreign changes of the network, sites that are pending.
 */
#pragma once

#include "daemon/engine/vm.h"

/* Watch the shim of a VM that runs; when it ends, the operation `ended` releases what it had and the restart
 * policy decides. So it does when it isn't healthy (health.h). Called by the holder of the busy slot. */
int supervise_watch(struct vm *vm, struct fcm_error *err) must_check;

/* No longer: the end that comes is wanted. Also cancels a restart that is due. */
void supervise_unwatch(struct vm *vm);

/* Start the VM again after `delay_ms`, unless an operation comes first. Called by the holder of the busy
 * slot. */
int supervise_restart_in(struct vm *vm, int64_t delay_ms, struct fcm_error *err) must_check;

/* Callbacks of the agent's channel; `arg` is the VM. supervise_lost() plans to set the guest up again, and is also for one
 * that hasn't answered yet; any thread. */
void supervise_power(void *arg, enum guest_power intent);
void supervise_main(void *arg, int exit);
void supervise_lost(void *arg);

/* The same for a run that has just begun: how often earlier ones were tried doesn't count. Any thread. */
void supervise_new(struct vm *vm);

/* Start watching the host's network and the pending sites. */
int supervise_host(struct fcm_error *err) must_check;

/* A VM that has ended and is to go by itself goes, as soon as who waits for its end knows it, or after a while. */
void supervise_remove(struct vm *vm);

/* What the end of a VMM means. `status` is that of its main process, -1 without one or where it is not known. Pure. */
struct verdict {
	enum vm_state state; /* VM_STOPPED, VM_FAILED; VM_STARTING: a reboot that waits */
	bool restart;	     /* start it again */
	int64_t delay_ms;    /* after that long */
	const char *code;    /* of the reason: "" when there is none to tell */
};
struct verdict supervise_verdict(enum guest_power intent, int status, enum vm_restart policy,
	enum vm_desired desired, unsigned crashes);

/* Run `op`, whose reference is taken over, on a thread, as soon as there is one for it; failures are logged. For work that nobody
 * waits for. */
void supervise_run(struct op *op);

/* Retry the sites that are pending, soon. */
void supervise_sites(void);
