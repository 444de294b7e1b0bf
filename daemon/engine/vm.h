/*
 * One VM in memory, and the registry of all of them.
 *
 * Lock order: there is one engine lock (registry_lock). It guards the list, the reference counts, `busy`, and
 * every vm->view against readers. It is held for memory operations only, never across I/O, and no other lock
 * is taken under it. A VM's fields are *written* only by the operation that holds its busy slot, with the
 * lock held; so that operation may read them without it, everybody else reads with it.
 */
#pragma once

#include "common/core/names.h"
#include "common/model.h"
#include "daemon/engine/filter.h"
#include "daemon/guest/guest.h"
#include "daemon/store/store.h"
#include "daemon/vmm/vmm.h"

struct loop_source;
struct op;

/* What events.c has told of a VM. */
struct vm_told {
	bool listed;
	char name[64];
	enum vm_state state;
	enum health health;
	int site;
};

struct vm {
	struct vm_id id;
	struct vm_view view; /* what the API shows and config.json keeps */
	struct vm_run run;   /* who runs it: /run/fcm/<id>.json */

	/* Handles of a running VM; only the holder of the busy slot touches them. */
	int dirfd;	/* <state>/<id>, or -1 */
	int shim_pidfd; /* or -1 */
	const struct vmm_driver *driver;
	struct vmm *vmm;
	struct guest *guest;	   /* changed by vm_set_guest() */
	struct loop_source *watch; /* tells supervise.c that the shim has ended */

	_Atomic bool set_up;	   /* the guest has taken its setup from this daemon */
	bool frozen;		   /* its agent holds all programs still */
	bool paused;		   /* and its virtual CPUs don't run */
	bool loading;		   /* it begins with the machine in <id>/saved */
	char sshd[16];		   /* which ssh server the guest has: openssh, dropbear, none */
	char hostname[64];	   /* that the guest was given */
	bool facts_late;	   /* what it knows of itself has changed while it stood still */
	_Atomic int intent;	   /* enum guest_power: the agent's last word, set on the loop's thread */
	struct mainlog *mainlog;   /* collects what its main process prints (mainlog.h), or NULL */
	_Atomic bool main_over;	   /* that is all there */
	_Atomic int main_exit;	   /* how it ended, as the agent says; -1: not yet */
	_Atomic bool offered;	   /* who waits for its end knows it: one that is auto_remove may go */
	struct loop_source *timer; /* the next restart after a crash */
	unsigned crashes;	   /* in a row, and reboots of runs that were short (supervise.h) */
	_Atomic bool reconnecting; /* another try is planned; who sets this may write the next two */
	unsigned tries;		   /* to set the guest up, in a row */
	int64_t tried_at;

	struct op *busy;	 /* the operation that owns this VM now, or NULL */
	unsigned waiting;	 /* operations that wait for it */
	_Atomic unsigned urgent; /* those among them that will kill it: what waits for its guest gives way */
	bool admitted;		 /* its memory is promised to `busy` */
	bool has_volumes;	 /* and so are its volumes */
	unsigned refs;
	bool broken;		/* config.json can't be read: it can be looked at and destroyed, no more */
	struct in_addr held_ip; /* its address then, as its disk's owner tells; nobody else gets it */
	bool listed;		/* in the registry: visible to the API */
	char *text;		/* cached JSON, or NULL */
	struct vm_told told;

	struct checks *checks; /* of its health, or NULL (health.h) */
	struct vm_health
		health; /* what they found: written by them, with the lock, and read by everybody with it */
};

/* A VM that is in no list yet, with one reference. */
struct vm *vm_new(void);

/* Take and drop a reference. */
struct vm *vm_ref(struct vm *vm);
void vm_unref(struct vm *vm); /* NULL-safe */

/* The channel to its agent, held for the caller (guest_unref), or NULL. Any thread. */
struct guest *vm_guest(struct vm *vm);

/* Enter a new one, or NULL; the one before is closed. */
void vm_set_guest(struct vm *vm, struct guest *guest);

/* The engine lock. */
void registry_lock(void);
void registry_unlock(void);

/* Wait until the VM is free and claim it for `op`. FCM_NOT_FOUND when it was destroyed meanwhile, FCM_BUSY
 * when `deadline` came first, or when many requests wait already. registry_drop() gives it back. */
int registry_claim(struct vm *vm, struct op *op, int64_t deadline, struct fcm_error *err) must_check;
void registry_drop(struct vm *vm);

/* Choose what the request left open (id, name, address, uid, MAC, domain) and check that nothing is taken.
 * With `enter` also put the VM in the list, in the same breath, claimed by `op`. */
int registry_choose(struct vm *vm, struct op *op, bool enter, struct fcm_error *err) must_check;

/* Give it another name. FCM_NAME_TAKEN. By the holder of the busy slot. */
int registry_rename(struct vm *vm, const char *name, struct fcm_error *err) must_check;

/* Enter a VM that was loaded from disk. */
void registry_add(struct vm *vm);

/* Take it off the list. Idempotent. */
void registry_remove(struct vm *vm);

/* Resolve {vm}: exact name, exact id, else (unless `exact`) a unique id prefix of 4 or more; among those that have the label
 * `only`, unless that is NULL: the others don't exist. Holds a reference. FCM_NOT_FOUND, or FCM_INVALID when a prefix fits
 * several. */
struct vm *registry_find(const char *text, bool exact, const char *only, struct fcm_error *err);

/* Is this VM still in the list? */
bool registry_listed(struct vm *vm);

/* Descriptor of its directory, -1 before it has one; good as long as the VM is held, also when the directory is gone. */
int registry_dirfd(struct vm *vm);

/* All VMs, each with a reference, in order of creation; *ret is the caller's array. The second: those that have the label,
 * unless it is NULL. */
size_t registry_all(struct vm ***ret);
size_t registry_seen(const char *only, struct vm ***ret);
void registry_all_done(struct vm **all, size_t n);

/* The list itself. Call with the lock held; it is good as long. */
struct vm *const *registry_locked(size_t *ret_n);

/* May `self` have that domain? FCM_DOMAIN_TAKEN when it is another VM's or the API's. Call with the lock held. */
int registry_domain_free(const char *domain, const struct vm *self, struct fcm_error *err) must_check;

/* Change a VM's view under the lock and drop its cached text: VM_SET(vm, view->state = VM_RUNNING). */
#define VM_SET(vm_, change)                                                                                  \
	do {                                                                                                 \
		registry_lock();                                                                             \
		struct vm_view *view = &(vm_)->view;                                                         \
		change;                                                                                      \
		registry_changed(vm_);                                                                       \
		registry_unlock();                                                                           \
	} while (0)

/* What the API shows of this VM (or of the list) has changed: its cached text is out of date, it may be an event, and
 * registry_wait() wakes. Call with the lock held. */
void registry_changed(struct vm *vm);

/* JSON text of one VM; the caller's. */
char *registry_vm_text(struct vm *vm);

/* Append {"vms":[...]}: those that the filter fits. */
void registry_list_text(const struct vm_filter *filter, struct buf *ret);

/* Wait at most until `deadline` for any change; returns at once when `*seen` isn't the newest count, and sets
 * it. */
void registry_wait(uint64_t *seen, int64_t deadline);

/* Let everybody who waits look again. */
void registry_wake(void);

/* Number of VMs and of those that run, among those with the label, unless it is NULL. */
void registry_count(const char *only, size_t *ret_total, size_t *ret_running);

/* Promise the VM its memory, until registry_drop(), if it and all others that run or are about to fit in `usable` MiB.
 * *ret_used is what the others have. */
bool registry_admit(struct vm *vm, uint64_t usable, uint64_t *ret_used);

/* Put how its main process ended, or the last line of its console, behind the message of a failed wait: it usually says why. The hint
 * is to look there, where the VM stays. Returns -1. */
int op_last_words(const struct op *op, struct fcm_error *err);

/* What the guest of a VMM that ended meant by it: its agent's last word, on the channel or, when nobody listened there, on
 * the console; or the kernel's own, where the agent wasn't asked. */
enum guest_power vm_last_wish(const struct vm *vm);

/* How the main process of a VM that ended did so, likewise: 0 to 255, or -1. */
int vm_main_exit(const struct vm *vm);

/* Its part of the network, without its ports. */
struct net_vm vm_net_part(const struct vm *vm);

/* What a running VM's `reason` says of its network: nothing, or that its TAP is gone. */
struct vm_reason vm_network(const struct vm *vm);

/* Tell the guest the time, as well as a busy host can (steps_guest.c). Called by the holder of the busy slot. */
void guest_set_clock(struct vm *vm);

/* Write the VM's authorized keys into its running guest (steps_guest.c). Called by the holder of the busy
 * slot. */
int guest_put_keys(struct vm *vm, struct fcm_error *err) must_check;

/* Start the main process, if the VM has one, in a guest that is set up otherwise; what runs already runs on. Likewise. */
int guest_start_main(struct vm *vm, struct fcm_error *err) must_check;

/* Its name or labels have changed: write /run/fcm/instance.json anew. A guest that stands still gets it when it goes on. Likewise. */
void guest_renew_facts(struct vm *vm);
