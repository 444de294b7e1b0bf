/*
 * What a running VM has of the host besides its VMM: elements in the nftables table, a TAP, a cgroup.
 */
#include <string.h>

#include "common/core/clock.h"
#include "daemon/engine/engine.h"
#include "daemon/net/net.h"
#include "daemon/proc/cgroup.h"

struct net_vm vm_net_part(const struct vm *vm)
{
	return (struct net_vm){.id = vm->id, .ip = vm->view.ip, .uid = vm->view.uid};
}

/* ---- filter: the VM's elements, before its device exists ---- */

static int filter_up(struct op *op, struct fcm_error *err)
{
	struct net_vm part = vm_net_part(op->vm);

	return net_filter_up(&part, err);
}

static int filter_down(struct op *op, struct fcm_error *err)
{
	struct net_vm part = vm_net_part(op->vm);

	return net_filter_down(&part, &op->receipt.nft_elements, err);
}

static void filter_describe(const struct op *op, bool undo, struct strv *ret)
{
	struct net_vm part = vm_net_part(op->vm);

	if (undo)
		strv_addf(ret, "nft delete the elements of %s, conntrack entries of %s",
			net_tap_name(&part.id).s, ip_dotted(part.ip).s);
	else
		net_describe_filter(&part, ret);
}

const struct step step_filter = {
	.name = "filter", .run = filter_up, .undo = filter_down, .describe = filter_describe};

/* ---- tap: the device ---- */

static int tap_up(struct op *op, struct fcm_error *err)
{
	struct net_vm part = vm_net_part(op->vm);

	return net_tap_up(&part, err);
}

static int tap_down(struct op *op, struct fcm_error *err)
{
	struct net_vm part = vm_net_part(op->vm);

	return net_tap_down(&part, &op->receipt.tap, err);
}

static void tap_describe(const struct op *op, bool undo, struct strv *ret)
{
	struct net_vm part = vm_net_part(op->vm);

	if (undo)
		strv_addf(ret, "netlink RTM_DELLINK %s", net_tap_name(&part.id).s);
	else
		net_describe_tap(&part, ret);
}

const struct step step_tap = {.name = "tap", .run = tap_up, .undo = tap_down, .describe = tap_describe};

/* A VMM holds a descriptor of its TAP, which leads nowhere once somebody has deleted the device, whatever is made anew. */
struct vm_reason vm_network(const struct vm *vm)
{
	struct vm_reason r = {0};

	if (net_tap_exists(&vm->id))
		return r;
	fcm_copy(r.code, sizeof r.code, "network_lost");
	fcm_format(r.message, sizeof r.message, "somebody deleted %s, its way to the network: fcm restart %s",
		net_tap_name(&vm->id).s, vm->view.name);
	r.time = clock_wall();
	return r;
}

/* ---- cgroup: limits, and the surest way to find what belongs to a VM ---- */

enum {
	VMM_OVERHEAD_MIB =
		192, /* a VMM's own memory: QEMU under TCG has about 60 MiB beside the guest's, more with its
			translation cache; the limit is there for a VMM that was taken over */
	VMM_PIDS = 128,
};

static int group_up(struct op *op, struct fcm_error *err)
{
	struct cgroup_limits limits = {
		.memory_max = (uint64_t)(op->vm->view.spec.mem_mib + VMM_OVERHEAD_MIB) << 20,
		.pids_max = VMM_PIDS + op->vm->view.spec.vcpus,
	};

	return cgroup_make(&op->vm->id, &limits, err);
}

static int group_down(struct op *op, struct fcm_error *err)
{
	return cgroup_remove(&op->vm->id, err);
}

static void group_describe(const struct op *op, bool undo, struct strv *ret)
{
	struct strv procs = {0};

	cgroup_procs(&op->vm->id, &procs);
	for (size_t i = 0; i < procs.n; i++) {
		auto_free char *group =
			xprintf("%.*s", (int)(strrchr(procs.v[i], '/') - procs.v[i]), procs.v[i]);
		strv_addf(ret, undo ? "kill what is in %s, rmdir it" : "mkdir %s", group);
	}
	if (!undo && procs.n)
		strv_addf(ret, "limit it to %u MiB and %u tasks",
			op->vm->view.spec.mem_mib + VMM_OVERHEAD_MIB, VMM_PIDS + op->vm->view.spec.vcpus);
	strv_done(&procs);
}

const struct step step_cgroup = {
	.name = "cgroup", .run = group_up, .undo = group_down, .describe = group_describe};
