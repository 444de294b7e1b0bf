/*
 * The engine: the one part that knows VMs as a whole. It claims a VM, runs tables of steps over the leaves
 * (net, disk, image, vmm, guest, caddy, store), keeps what the user wants true after crashes, and tells the
 * API what there is.
 */
#pragma once

#include "common/config.h"
#include "daemon/engine/op.h"
#include "daemon/engine/vm.h"
#include "daemon/net/ipam.h"

struct loop;

struct engine {
	const struct fcmd_config *config;
	struct loop *loop;
	struct ipam ipam;
	const struct vmm_driver *driver; /* for new VMs; NULL when none is usable */
	struct vmm_probe probe;		 /* why this one */
	uint64_t tsc_khz;
	gid_t kvm_gid;
	int templates; /* directory of empty disks */
};

/* The one engine of this process. */
const struct engine *engine(void);

/* Load all VMs, bring the host's network up with those that live, and begin to mend what differs from the
 * wish: adopt running VMs, roll back half-made ones, start what should run. Returns when the API may be
 * served; the mending goes on on operation threads. */
int engine_init(const struct fcmd_config *config, struct loop *loop, struct fcm_error *err) must_check;

/* Begin to stop: operations in progress finish, or leave their VM for the next daemon. Waits for them until the deadline; the
 * loop must run meanwhile. */
void engine_drain(int64_t deadline);

/* When the loop has ended: let go of all VMs, which run on. False when an operation still is in progress. */
bool engine_stop(int64_t deadline) must_check;
bool engine_stopping(void);

/* The uid of the VM with that address: config uid_base plus its place in the pool. */
uid_t engine_uid(struct in_addr ip);

/* Guests that boot, or go on from memory, together on few processors starve each other until every one is late. */
unsigned engine_starts_at_once(void);

/* "<name>.<domain of the config>" or "<name>.<dashed public ip>.sslip.io". */
void engine_domain(const char *name, char *ret, size_t size);

/* Is there more room in the state directory than disk_reserve_mib, which is left for running VMs? FCM_NO_SPACE. */
int engine_has_room(struct fcm_error *err) must_check;

/* What the VM publishes, with the config's address where none is given. */
int publish_of(const struct vm *vm, struct publish_list *ret, struct fcm_error *err) must_check;

/* Whatever the name of its image will mean later, the VM keeps the one that it means now. FCM_NO_IMAGE. By the holder of the
 * busy slot, or before the VM is listed. */
int engine_pin_image(struct vm *vm, struct fcm_error *err) must_check;

/* Path below the state directory, the caller's. */
char *engine_path(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ---- operations (each gives an op that isn't started yet, with one reference) ---- */

/* Create a VM from a checked request. With a snapshot to be saved op->hold is it when it is done. */
struct op *engine_create(const struct vm_create *rq);
struct op *engine_start(struct vm *vm, const struct ready_spec *ready); /* an empty one: the VM's own */
struct op *engine_stop_vm(struct vm *vm, int64_t grace_ms);		/* 0: kill */
struct op *engine_pause(struct vm *vm);
struct op *engine_resume(struct vm *vm);
struct op *engine_suspend(struct vm *vm);
struct op *engine_restart(struct vm *vm, int64_t grace_ms);
struct op *engine_destroy(struct vm *vm, bool force);
struct op *engine_expose(struct vm *vm, uint16_t port, const char *domain);    /* port 0: unexpose */
struct op *engine_publish(struct vm *vm, const struct strv *ports, bool away); /* away: unpublish */
struct op *engine_update(struct vm *vm, const struct update_request *update);
struct op *engine_add_keys(struct vm *vm, const struct strv *keys);

/* The host goes down: end all VMs that run, at one time and as gently as engine_stop_vm() does, but leave `desired` as it
 * is. The next daemon starts those whose policy brings them back after a reboot (reconcile.h). Waits until it is done. */
struct park_result {
	unsigned parked, forced, failed; /* forced ones are among the parked */
};
void engine_park(int64_t grace_ms, struct park_result *ret);

/* What create would do, a line each; nothing is done. */
int engine_describe_create(const struct vm_create *rq, struct strv *ret, struct fcm_error *err) must_check;
void engine_describe_destroy(struct vm *vm, struct strv *ret);
