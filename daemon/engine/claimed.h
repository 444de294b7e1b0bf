/*
 * What operations are made of: claim a VM, run tables of steps on it, leave in the VM how that went.
 *
 * All but claimed_begin() and claimed_try() are for the holder of the VM's busy slot, who gives it back by registry_drop().
 */
#pragma once

#include "daemon/engine/op.h"

/* Claim op->vm. One whose config.json is broken can only be destroyed (FCM_CONFIG): everything else would write a new one
 * over what its user may still mend. */
int claimed_begin(struct op *op, struct fcm_error *err) must_check;

/* The same without waiting: FCM_BUSY. */
int claimed_try(struct op *op, struct fcm_error *err) must_check;

/* Run a table. One that fails leaves the VM as it was when nothing was touched yet, running when only its guest is late,
 * and failed with the reason in all other cases. */
int claimed_run(struct op *op, const struct op_table *table, struct fcm_error *err) must_check;

/* Release what a VM has whose VMM is gone, and leave it in `state`. */
int claimed_release(struct op *op, enum vm_state state, struct fcm_error *err) must_check;

/* Release what is left of an earlier run, then start. */
int claimed_start(struct op *op, struct fcm_error *err) must_check;

/* Leave a VM running whose guest didn't answer in time, with the reason; it is set up when it does. One that its user has paused
 * stays so. A daemon that stops leaves that to the next one. */
void claimed_keep(struct vm *vm, const struct fcm_error *why);

/* Record why a VM is not what its user wants. */
void vm_set_reason(struct vm *vm, const char *code, const struct fcm_error *err);

/* Write config.json; a failure is logged, for what it says is true all the same. */
void vm_save(struct vm *vm);
