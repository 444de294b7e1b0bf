/*
 * TAP devices, and the memory of those that should exist, for watch.c.
 */
#pragma once

#include "daemon/net/rules.h"

/* Set the host's address on every TAP; before anything else here. */
void tap_set_gateway(struct in_addr gateway);

/* Remember those of the n VMs whose TAPs exist: for the ones that an earlier daemon made. */
int tap_adopt(const struct net_vm *vms, size_t n, struct fcm_error *err) must_check;

/* Delete all TAPs of ours, and forget. */
int tap_delete_all(struct fcm_error *err) must_check;

/* The VMs whose TAPs should exist, a copy: the caller's. */
struct net_vms tap_known(void);

/* The VM whose TAP is called `name` (if that isn't NULL), or whose guest has the address `ip`. False when no TAP that
 * should exist has. */
bool tap_find(const char *name, struct in_addr ip, struct net_vm *ret);

/* Look at the TAP of `vm`, which somebody else may have changed. One that is down, and with `force` any, is set right
 * again; one that is gone is forgotten. */
enum tap_state { TAP_FINE, TAP_REPAIRED, TAP_GONE };
int tap_check(const struct net_vm *vm, bool force, enum tap_state *ret, struct fcm_error *err) must_check;
