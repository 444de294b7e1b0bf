/*
 * Snapshots and their VMs: taken of a VM, gone back to, become others. What one is on the disk is daemon/store/snapshot.h's.
 */
#pragma once

#include "daemon/engine/op.h"
#include "daemon/store/snapshot.h"

/* For the steps: count a hold whose directory was just begun; its snapshot becomes visible under its name, unless it is
 * temporary (FCM_NAME_TAKEN); does it load here, as op->table wants it? */
void snapshot_held(struct snapshot_hold *h);
int snapshot_enter(struct op *op, struct fcm_error *err) must_check;
int snapshot_loads(const struct op *op, struct fcm_error *err) must_check;

/* Can it be of use on another host? FCM_WRONG_STATE naming a volume that its VM had and that doesn't go with it: there one of that
 * name is another. */
int snapshot_moves(const struct snapshot *s, struct fcm_error *err) must_check;

/* Make it one of no VM here. snapshot_moves() said yes. */
void snapshot_forget_vm(struct snapshot *s);

/* FCM_NAME_TAKEN when a snapshot has that name. */
int snapshot_name_free(const char *name, struct fcm_error *err) must_check;

/* For a create that op->save says more of: could that be done with such a VM, under that name? And do it, the VM being claimed and
 * up: op->hold is it then. */
int snapshot_could(struct op *op, struct fcm_error *err) must_check;
int snapshot_take(struct op *op, struct fcm_error *err) must_check;

/* `only`, here and below: a snapshot of a VM that hadn't that label then doesn't exist; NULL: each does. */

/* Hold the one with that name or id. FCM_NOT_FOUND; FCM_CONFIG when it can't be read. */
int engine_snapshot_hold(
	const char *text, const char *only, struct snapshot_hold *ret, struct fcm_error *err) must_check;

/* All of them, oldest first; *ret is the caller's, each to be given to snapshot_done(). One that can't be read is left out, with
 * a line in the log. */
int engine_snapshots(
	const char *only, struct snapshot **ret, size_t *ret_n, struct fcm_error *err) must_check;

/* Bytes that its files occupy. */
uint64_t snapshot_on_disk(const struct vm_id *id);

/* Remove it. FCM_NOT_FOUND; FCM_BUSY while a VM is being made of it. */
int engine_snapshot_remove(const char *text, const char *only, struct vm_id *ret_id, uint64_t *ret_freed,
	struct fcm_error *err) must_check;

/* Take one. When it is done op->hold is it. A temporary one is seen by nobody: for clones of a VM. */
struct op *engine_snapshot(struct vm *vm, const struct snapshot_request *rq, bool temporary);

/* Make a VM of it, which holds it until the operation is over. `name` as in clone_request. */
struct op *engine_clone(const struct snapshot_hold *h, const struct clone_request *rq, const char *name);

/* Bring the VM back to it: its own disk and memory of now are lost. `h` is taken over. FCM_WRONG_STATE for one of another
 * VM, or that was imported. */
struct op *engine_restore(struct vm *vm, struct snapshot_hold *h, bool disk_only);
