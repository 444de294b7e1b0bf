/*
 * Machines that were saved: by `suspend` into <id>/saved, from where the VM's next start takes it up again; by `snapshot` into
 * a directory of its own (daemon/store/snapshot.h), from where clones and restores get their own <id>/saved. So there is one way
 * to begin with a saved machine: it lies in <id>/saved when the VMM starts.
 */
#pragma once

#include "daemon/engine/op.h"
#include "daemon/store/snapshot.h"

#define SAVED "saved"

/* Where and by what a VM runs now; and where and by what one would be started, and a saved machine loaded. */
struct snapshot_machine saved_of(const struct vm *vm);
struct snapshot_machine saved_here(void);

/* Save the paused machine of op->vm to files in dirfd. */
int saved_write(struct op *op, int dirfd, struct fcm_error *err) must_check;

/* Is there one, whole, for the VM's next start? */
bool saved_there(const struct vm *vm);

/* And its memory in a file of its own (daemon/vmm/vmm.h)? */
bool saved_memory(const struct vm *vm);

/* Read what it is: the caller's. FCM_NOT_FOUND; FCM_CONFIG and FCM_WRONG_STATE when it can't go on here. */
int saved_read(const struct vm *vm, struct snapshot *ret, struct fcm_error *err) must_check;

/* Give the VM the machine of a snapshot, an open directory, or give one that of the VM: by links, for such files are never
 * written again. */
int saved_take(const struct vm *vm, int snapshot_fd, struct fcm_error *err) must_check;
int saved_lend(const struct vm *vm, int snapshot_fd, struct fcm_error *err) must_check;

/* Forget it, for good before anything of the VM runs on: its disk will no longer be the one that this memory knows. A missing
 * one is fine. */
int saved_discard(const struct vm *vm, struct fcm_error *err) must_check;
