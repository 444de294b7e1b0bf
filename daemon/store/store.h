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

enum { STORE_SCHEMA = 1, STORE_HOSTKEY = 64 };

/* Open both directories (made if missing, 0711 and 0755), take the lock (flock on the state directory itself, so that a
 * read-only one works as well), sweep temporary files of a daemon that was killed. FCM_WRONG_STATE when another daemon has
 * the lock: nothing was touched then. FCM_CONFIG when a directory isn't ours. */
int store_init(const char *state_dir, const char *run_dir, struct fcm_error *err) must_check;
void store_done(void);

/* Descriptor of the state directory: borrowed. */
int store_dirfd(void);

/* Can the state directory be written now? Tries it, with a file that never gets a name. */
bool store_writable(void);

/* Directory of a VM: make (root's, 0711, with jail/ of root's, 0755, and jail/run, 0700, of the VM's uid and the gid of the
 * same number; what is there already is put right), open (caller's descriptor; FCM_NOT_FOUND), remove with all in it (a
 * missing one is fine; *freed may be NULL, else the bytes on the disk are added). */
int store_vm_make(const struct vm_id *id, uid_t uid, struct fcm_error *err) must_check;
int store_vm_open(const struct vm_id *id, struct fcm_error *err) must_check;
int store_vm_remove(const struct vm_id *id, uint64_t *freed, struct fcm_error *err) must_check;

/* Ids of all VM directories (names of 8 [a-z0-9]), sorted. */
int store_vm_list(struct strv *ret, struct fcm_error *err) must_check;

/* Read and write config.json. Reading: FCM_NOT_FOUND without one, FCM_CONFIG when it is broken, of a newer schema, another
 * VM's, a link, or names no address or uid; *ret is written only on success. Writing sets the schema. */
int store_vm_load(const struct vm_id *id, struct vm_view *ret, struct fcm_error *err) must_check;
int store_vm_save(const struct vm_view *vm, struct fcm_error *err) must_check;

/* The guest's ed25519 host key: seed and public key. Loading: FCM_NOT_FOUND, FCM_CONFIG when it isn't 64 bytes. */
int store_hostkey_load(const struct vm_id *id, uint8_t ret[STORE_HOSTKEY], struct fcm_error *err) must_check;
int store_hostkey_save(
	const struct vm_id *id, const uint8_t key[STORE_HOSTKEY], struct fcm_error *err) must_check;

/* A guest that goes on from a saved machine, and hasn't taken its setup since. */
enum vm_loaded {
	LOADED_NOT,
	LOADED_SAME,  /* it is the VM that was saved */
	LOADED_CLONE, /* it is another one */
};

/* The runtime record. Loading: FCM_NOT_FOUND, FCM_CONFIG when it is broken. Removing a missing one is fine. */
struct vm_run {
	struct proc_id shim;
	struct proc_id vmm;
	char vmm_driver[16];
	bool booted;		      /* its CPUs were let run */
	uint32_t loaded;	      /* enum vm_loaded: what the guest must still learn */
	char was_id[9], was_name[64]; /* whose machine it was that it goes on as */
	struct in_addr was_ip;
	int64_t console; /* bytes that earlier runs had written to the console: where this one's begin */
};
int store_run_load(const struct vm_id *id, struct vm_run *ret, struct fcm_error *err) must_check;
int store_run_save(const struct vm_id *id, const struct vm_run *run, struct fcm_error *err) must_check;
int store_run_remove(const struct vm_id *id, struct fcm_error *err) must_check;

/* How the VMM ended, as the shim wrote it to <id>/exit (daemon/shim/plan.h). FCM_NOT_FOUND while it runs, and when the
 * shim was killed. */
struct vm_exit {
	int status; /* exit status, or -1 */
	int signal; /* or 0 */
};
int store_exit_load(const struct vm_id *id, struct vm_exit *ret, struct fcm_error *err) must_check;
