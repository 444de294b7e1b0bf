/*
 * What VMs use: on the host as the kernel counts it, in the guest as its agent says.
 */
#pragma once

#include "daemon/engine/vm.h"
#include "daemon/guest/stats.h"

/* -1 in a number: unknown, as all of them are while the VM doesn't run. */
struct vm_stats {
	struct vm_id id;
	char name[64];
	enum vm_state state;
	uint32_t vcpus, mem_mib;
	int64_t pid;				   /* of the VMM */
	int64_t at_us;				   /* when cpu_us was read, on CLOCK_BOOTTIME */
	int64_t cpu_us;				   /* cgroup_cpu_us(), or else that of the VMM's process */
	int64_t up_ms;				   /* since the VMM was started */
	int64_t threads;			   /* of the VMM */
	int64_t rss, pss, disk_read, disk_written; /* daemon/proc/usage.h */
	int64_t net_received, net_sent;		   /* bytes, as the guest sees it */
	struct guest_stats guest;
};

/* Sample the n VMs at once, into ret[n]. Waits at most GUEST_STATS_MS for all their guests. */
void engine_stats(struct vm *const *vms, size_t n, struct vm_stats *ret);

/* The same of all VMs; the caller's array. */
struct vm_stats *engine_stats_all(const char *only, size_t *ret_n);
