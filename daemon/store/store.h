/*
 * The state directory: config.json of each VM, the runtime record of each running one, tokens. Everything is written
 * temp, fsync, rename, fsync(dir). One daemon at a time holds the lock.
 *
 *	<state>/<id>/config.json	the VM (common/model.h: vm_view_fields), schema 1
 *	<state>/<id>/hostkey		64 bytes: the guest's ed25519 host key, secret half (seed and public key)
 *	<state>/.token			the first token in the clear (0600), for root
 *	<state>/tokens.json		hashes of all tokens
 *	<run>/<id>.json			pids, start times, boot id: gone after a reboot
 */
#pragma once

#include "common/core/error.h"
#include "common/core/names.h"
#include "common/model.h"
#include "daemon/proc/proc.h"

/* Open both directories (made if missing, 0711 and 0755), take the lock. FCM_WRONG_STATE when another daemon has it. */
int store_init(const char *state_dir, const char *run_dir, struct fcm_error *err) must_check;
void store_done(void);

/* Descriptor of the state directory: borrowed. */
int store_dirfd(void);

/* Can the state directory be written now? */
bool store_writable(void);

/* Directory of a VM: make (0711, with jail/, jail/run owned by uid), open (caller's descriptor), remove with all in it. */
int store_vm_make(const struct vm_id *id, uid_t uid, struct fcm_error *err) must_check;
int store_vm_open(const struct vm_id *id, struct fcm_error *err) must_check;
int store_vm_remove(const struct vm_id *id, uint64_t *freed, struct fcm_error *err) must_check;

/* Ids of all VM directories (names of 8 [a-z0-9]). */
int store_vm_list(struct strv *ret, struct fcm_error *err) must_check;

/* Read and write config.json. Reading: FCM_NOT_FOUND without one, FCM_CONFIG when it is broken or of a newer schema. */
int store_vm_load(const struct vm_id *id, struct vm_view *ret, struct fcm_error *err) must_check;
int store_vm_save(const struct vm_view *vm, struct fcm_error *err) must_check;

/* The runtime record. */
struct vm_run {
	struct proc_id shim;
	struct proc_id vmm;
	char vmm_driver[16];
};
int store_run_load(const struct vm_id *id, struct vm_run *ret, struct fcm_error *err) must_check;
int store_run_save(const struct vm_id *id, const struct vm_run *run, struct fcm_error *err) must_check;
int store_run_remove(const struct vm_id *id, struct fcm_error *err) must_check;

/* How the VMM ended, as the shim wrote it to <id>/exit. */
struct vm_exit {
	int status; /* exit status, or -1 */
	int signal; /* or 0 */
};
int store_exit_load(const struct vm_id *id, struct vm_exit *ret, struct fcm_error *err) must_check;
