/*
 * One cgroup a VM, on cgroup v2 or, where that is what the host has, v1 (cgroups(7)). Named after the VM's id below
 * one parent, so that it is found again without a journal.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/names.h"

/* Find out which hierarchy the host has and make the parent group `name`: "fcm", or another one for a daemon that
 * shares the host with a second one (on v1 it is below the group that the daemon is in; cgroup.c says why). Where no
 * hierarchy is usable VMs run without a group: then cgroup_why() says why and the functions below do nothing. Call it
 * once, before there are threads. */
void cgroup_init(const char *name);
const char *cgroup_why(void); /* "" when groups work */

struct cgroup_limits {
	uint64_t memory_max; /* bytes, and as many of swap; 0: none */
	unsigned pids_max;   /* 0: none */
};

/* Make the group of a VM and set its limits. Idempotent. */
int cgroup_make(const struct vm_id *id, const struct cgroup_limits *limits, struct fcm_error *err) must_check;

/* Paths of the files that a process of one thread writes "0" to in order to join: v2's cgroup.procs, or each v1 controller's
 * `tasks`, which moves that thread alone and so needn't hold up every fork on the host (an RCU grace period, 6 to 15 ms:
 * cgroup_procs_write_start() in kernel/cgroup/cgroup.c). */
void cgroup_procs(const struct vm_id *id, struct strv *ret);

/* Kill what is in the group, and remove it; with the last VM's the parent goes too, unless it is a
 * unit's. A missing one is fine. */
int cgroup_remove(const struct vm_id *id, struct fcm_error *err) must_check;

/* Ids of VMs for which a group exists. */
int cgroup_list(struct strv *ret, struct fcm_error *err) must_check;

/* CPU time in microseconds that all in the VM's group has used since the group was made: usage_usec of cpu.stat, which every
 * group of cgroup v2 has. -1 where that isn't known; v1 tells it only in the hierarchy of cpuacct, where we have no group. */
int64_t cgroup_cpu_us(const struct vm_id *id);
