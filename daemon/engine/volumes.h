/*
 * Volumes and their VMs: what is made, given, mounted and removed, and for whom. The files are daemon/disk/volume.h's, who
 * has one is the registry's.
 */
#pragma once

#include "common/core/volume.h"
#include "daemon/disk/volume.h"
#include "daemon/engine/op.h"

/* Give those without a name one of this VM's own (<id>.0, <id>.1), and sort all by path: so what lies in another comes behind
 * it, and each keeps its place among the guest's drives. Entries that are none are left out. Memory only. */
void volumes_choose(struct strv *volumes, const struct vm_id *id);

/* Does this one go with the VM? */
bool volumes_is_own(const struct vm *vm, const struct volume_ref *ref);

/* The entries, checked; returns how many. */
size_t volumes_parse(const struct strv *volumes, struct volume_ref ret[VM_MAX_VOLUMES]);

/* Make a volume; `vm` is the id of the VM that it goes with, or "". FCM_NAME_TAKEN, FCM_NO_SPACE, FCM_INSUFFICIENT. */
int volumes_make(
	const struct asset_name *name, const char *vm, uint32_t mib, struct fcm_error *err) must_check;

/* None of the VM's volumes is being removed: FCM_BUSY. Call with the registry's lock held. */
int volumes_staying(const struct vm *vm, struct fcm_error *err) must_check;

/* Promise the VM its volumes, until registry_drop(): not while another VM that runs or is about to writes one of them, or has
 * one that this one would write. FCM_WRONG_STATE naming that VM. */
int volumes_take(struct vm *vm, struct fcm_error *err) must_check;

/* Names of the VMs that have the volume, running or not. */
void volumes_users(const char *volume, struct strv *ret);

/* The volume is about to be removed: if no VM has it (*ret_users) and nobody else removes it, no VM gets it until
 * volumes_gone(). */
bool volumes_going(const char *volume, struct strv *ret_users);
void volumes_gone(const char *volume);

/* Mount them in the guest (docs/AGENT.md), each new one filled with what the image has at its place. */
int volumes_mount(struct op *op, struct fcm_error *err) must_check;

/* Make a volume. One that is there is fine unless another size is asked for (FCM_NAME_TAKEN): *ret_made is false then. */
int engine_volume_create(const struct volume_request *request, struct volume_info *ret, bool *ret_made,
	struct fcm_error *err) must_check;

/* Remove it. FCM_NOT_FOUND; FCM_WRONG_STATE, naming a VM that has it, running or not. */
int engine_volume_remove(
	const struct asset_name *name, uint64_t *ret_freed, struct fcm_error *err) must_check;
