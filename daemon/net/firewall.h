/*
 * The table `inet fcm` in the kernel, and the memory of what it should hold. The one user of libnftables.
 *
 * One nft_ctx is kept behind a mutex: a change of an element takes 0.2 to 0.4 ms with it, and 6 ms with a fresh one.
 */
#pragma once

#include "daemon/net/rules.h"

/* Would the kernel take that table? As `nft --check` asks: nothing is changed, but modules are loaded. */
int firewall_check(const struct rules *rules, struct fcm_error *err) must_check;

/* Install the table, replacing one that is there, and remember the model (copied). */
int firewall_install(const struct rules *rules, struct fcm_error *err) must_check;

/* Install it again as it should be now. Without a firewall_install() before, or after firewall_remove(), nothing. */
int firewall_rebuild(struct fcm_error *err) must_check;

/* Remove the table, and forget. */
int firewall_remove(struct fcm_error *err) must_check;

/* The element of a VM; idempotent. A table that is missing is rebuilt on the way. */
int firewall_add_vm(const struct net_vm *vm, struct fcm_error *err) must_check;
int firewall_delete_vm(const struct net_vm *vm, unsigned *ret_elements, struct fcm_error *err) must_check;

/* The ports that a VM publishes, in place of those that it had. */
int firewall_publish(
	const struct net_vm *vm, const struct publish_list *ports, struct fcm_error *err) must_check;

/* Has it any? */
bool firewall_publishes(const struct vm_id *id);

/* Open TCP 80 and 443 of `site` for VMs; 0 closes them. */
int firewall_site(struct in_addr site, struct fcm_error *err) must_check;

/* The interfaces that forward for VMs only. */
int firewall_no_router(const struct strv *names, struct fcm_error *err) must_check;

/* Append what nft says to a command that only lists. */
int firewall_list(const char *command, struct buf *ret, struct fcm_error *err) must_check;

/* The netlink port that our changes come from: notifications of another one are of foreign changes. 0: none yet. */
uint32_t firewall_port(void);
