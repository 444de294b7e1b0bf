/*
 * The daemon's side of fcm-shim: start one, read its console ring.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/names.h"
#include "common/core/util.h"
#include "daemon/proc/proc.h"
#include "daemon/shim/plan.h"
#include "daemon/vmm/vmm.h"

struct shim_spec {
	struct vm_id id;
	const char *shim; /* path of the fcm-shim program */
	const char *jail; /* path of <id>/jail */
	int vm_dirfd;	  /* <id> */
	int ring_fd;
	int tap_fd; /* or -1 */
	uid_t uid;
	gid_t kvm_gid;		    /* 0: none */
	const struct strv *cgroups; /* files to join by: cgroup_procs() */
	const struct vmm_plan *plan;
	int64_t deadline; /* for the shim's "ready" */
};

/* Start the shim and wait until its VMM runs: 0 and both identities. The shim is our child; proc_wait() on a
 * pidfd of it (proc_open()) reaps it. When it fails nothing is left running; the message is the shim's
 * reason, or the last line that the VMM printed. */
int shim_start(const struct shim_spec *spec, struct proc_id *ret_shim, struct proc_id *ret_vmm,
	struct fcm_error *err) must_check;

/* How the VMM ended, from <id>/exit. False when there is no record: it runs, never ran, or its shim was
 * killed. */
struct shim_exit {
	int status; /* of exit(3), 0 when a signal ended it */
	int signal; /* or 0 */
};
bool shim_exit_read(int vm_dirfd, struct shim_exit *ret);

/* Make <id>/console.ring (allocated, so that writing through the mapping never finds the disk full). Returns
 * a descriptor. An existing one is kept: the console of the last run stays readable. */
int shim_ring_make(int vm_dirfd, struct fcm_error *err) must_check;

/* Read up to `max` bytes that end at the newest one. *ret_total is the count of all bytes ever written, for
 * following: shim_ring_since() gives what came after that count. */
int shim_ring_tail(
	int vm_dirfd, size_t max, struct buf *ret, uint64_t *ret_total, struct fcm_error *err) must_check;
int shim_ring_since(
	int vm_dirfd, uint64_t since, struct buf *ret, uint64_t *ret_total, struct fcm_error *err) must_check;

/* The marks of when the console had its bytes, in order of their bytes; *ret is the caller's. 0 where there are none, as
 * an older shim made none. */
size_t shim_ring_marks(int vm_dirfd, struct shim_mark **ret);

/* The plan that shim_start() sends, for --dry-run, a line each. */
void shim_describe(const struct shim_spec *spec, struct strv *ret);
