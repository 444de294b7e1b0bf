#include "daemon/engine/stats.h"

#include <string.h>
#include <time.h>

#include "common/core/clock.h"
#include "daemon/net/net.h"
#include "daemon/proc/cgroup.h"
#include "daemon/proc/usage.h"

static int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* The VM's own data, and who its VMM is; false when it has none. While the state says
 * `running` or `paused` vm->run.vmm is written only with the lock held. */
static bool look(struct vm *vm, struct vm_stats *ret, struct proc_id *ret_vmm)
{
	registry_lock();
	const struct vm_view *v = &vm->view;
	*ret = (struct vm_stats){.id = vm->id,
		.state = v->state,
		.vcpus = v->spec.vcpus,
		.mem_mib = v->spec.mem_mib,
		.pid = -1,
		.at_us = -1,
		.cpu_us = -1,
		.up_ms = -1,
		.threads = -1,
		.rss = -1,
		.pss = -1,
		.disk_read = -1,
		.disk_written = -1,
		.net_received = -1,
		.net_sent = -1};
	fcm_copy(ret->name, sizeof ret->name, v->name);
	bool runs = v->state == VM_RUNNING || v->state == VM_PAUSED;
	if (runs)
		*ret_vmm = vm->run.vmm;
	registry_unlock();
	return runs;
}

static void measure(struct vm *vm, struct vm_stats *ret)
{
	struct proc_id vmm;
	struct proc_usage use;

	if (!look(vm, ret, &vmm) || !proc_usage_read(&vmm, &use))
		return;
	int64_t cpu_us = cgroup_cpu_us(&vm->id);
	ret->at_us = now_us();
	ret->pid = vmm.pid;
	ret->cpu_us = cpu_us >= 0 ? cpu_us : use.cpu_us;
	ret->up_ms = use.age_ms;
	ret->threads = use.threads;
	ret->rss = use.rss;
	ret->pss = use.pss;
	ret->disk_read = use.disk_read;
	ret->disk_written = use.disk_written;
}

static void add_traffic(struct vm_stats *stats, size_t n)
{
	auto_free struct net_traffic *traffic = NULL;
	struct fcm_error unknown;
	size_t ntraffic;

	if (net_traffic(&traffic, &ntraffic, &unknown) < 0)
		return;
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < ntraffic && stats[i].pid >= 0; j++)
			if (strcmp(stats[i].id.s, traffic[j].id.s) == 0) {
				stats[i].net_received = (int64_t)traffic[j].received;
				stats[i].net_sent = (int64_t)traffic[j].sent;
			}
}

static void ask_guests(struct vm *const *vms, struct vm_stats *stats, size_t n)
{
	auto_free struct guest **guests = xalloc((n + 1) * sizeof(struct guest *));
	auto_free struct guest_stats *said = xalloc((n + 1) * sizeof *said);

	for (size_t i = 0; i < n; i++)
		guests[i] = stats[i].pid >= 0 && stats[i].state == VM_RUNNING ? vm_guest(vms[i]) : NULL;
	guest_stats_ask(guests, n, clock_in(GUEST_STATS_MS), said);
	for (size_t i = 0; i < n; i++) {
		stats[i].guest = said[i];
		guest_unref(guests[i]);
	}
}

void engine_stats(struct vm *const *vms, size_t n, struct vm_stats *ret)
{
	for (size_t i = 0; i < n; i++)
		measure(vms[i], &ret[i]);
	add_traffic(ret, n);
	ask_guests(vms, ret, n);
}

struct vm_stats *engine_stats_all(const char *only, size_t *ret_n)
{
	struct vm **vms;
	size_t n = registry_seen(only, &vms);
	struct vm_stats *stats = xalloc((n + 1) * sizeof *stats);

	engine_stats(vms, n, stats);
	registry_all_done(vms, n);
	*ret_n = n;
	return stats;
}
