/*
 * The rule set as text for nftables: model in, commands out. Pure.
 *
 * One table `inet fcm`. Each hook has one comparison for traffic that isn't ours, on the device group of the TAPs, and
 * jumps from there. A VM is one element of the set vm_src: TAP, MAC and address that belong together; what comes out of
 * a TAP otherwise is forged and dropped before conntrack sees it.
 */
#pragma once

#include "daemon/net/net.h"

/* A list of VMs, at most one of an id. */
struct net_vms {
	struct net_vm *v;
	size_t n;
};
struct net_vm *net_vms_find(const struct net_vms *vms, const char *id); /* NULL: none */
void net_vms_put(struct net_vms *vms, const struct net_vm *vm);		/* adds or replaces */
bool net_vms_drop(struct net_vms *vms, const char *id);			/* false: there was none */
void net_vms_done(struct net_vms *vms);

/* What VMs publish: a port of a VM each. */
struct net_port {
	struct vm_id id;
	struct in_addr ip; /* the VM's */
	struct publish p;
};
struct net_ports {
	struct net_port *v;
	size_t n;
};
void net_ports_put(
	struct net_ports *ports, const struct net_vm *vm, const struct publish_list *list); /* replaces */
void net_ports_done(struct net_ports *ports);

/* All that the table says. */
struct rules {
	struct ip_net pool;
	struct in_addr gateway;
	struct in_addr site; /* VMs reach TCP 80 and 443 of it; 0: closed */
	struct net_vms vms;
	struct net_ports ports;
	struct strv no_router; /* interfaces that forward for VMs only */
};

void rules_done(struct rules *rules); /* free its lists */

/* Append the commands, one transaction each: the whole table, replacing one that is there; its end, if it is there;
 * the element of a VM (adding one that is there is fine, deleting a missing one is an error of nft); the site. */
void rules_table(const struct rules *rules, struct buf *ret);
void rules_delete_table(struct buf *ret);
void rules_add_vm(const struct net_vm *vm, struct buf *ret);
void rules_delete_vm(const struct net_vm *vm, struct buf *ret);
void rules_site(struct in_addr site, struct buf *ret);

/* The interfaces that forward for VMs only, in place of those that are there. No name has a `"` or a `*`. */
void rules_no_router(const struct strv *names, struct buf *ret);

/* The ports of all VMs, in place of those that are there: one transaction as well. */
void rules_ports(const struct net_ports *ports, struct buf *ret);
