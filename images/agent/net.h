/*
 * The guest's address: one IPv4 address on eth0, a default route, a host name. All by ioctl (netdevice(7)):
 * it is the same few calls in every kernel, and setting what is set already changes nothing, so `net` may be
 * repeated.
 */
#pragma once

#include <netinet/in.h>
#include <stddef.h>

#include "common/core/error.h"
#include "common/core/util.h"

struct guest_net {
	struct in_addr address, mask;
	struct in_addr gateway; /* 0: no default route */
	char hostname[64];	/* "": leave it */
};

/* Read the arguments of `net` (docs/AGENT.md) from a kv list. -1 with FCM_INVALID naming the field. */
int net_parse(const void *kv, size_t n, struct guest_net *ret, struct fcm_error *err) must_check;

/* Bring up lo and eth0 and set it all. */
int net_apply(const struct guest_net *net, struct fcm_error *err) must_check;
