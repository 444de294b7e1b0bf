/*
 * The guest's address: one IPv4 address on eth0, a default route, a host name, and in a clone another MAC. By rtnetlink(7), since
 * ioctls replace whatever address stands first, and the guest's user may have added some.
 *
 * The address is the first of its subnet, so that the kernel sends from it: those of the user that share the subnet are taken
 * away for that moment, and put back behind it.
 */
#pragma once

#include <netinet/in.h>
#include <stddef.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum { NET_MAC_BYTES = 6 };

struct guest_net {
	struct in_addr address, mask; /* 0: none */
	struct in_addr gateway;	      /* 0: no default route */
	char hostname[64];	      /* "": leave it */
};

/* Read the arguments of `net` (docs/AGENT.md) from a kv list. -1 with FCM_INVALID naming the field. */
int net_parse(const void *kv, size_t n, struct guest_net *ret, struct fcm_error *err) must_check;

/* Bring up lo and eth0 and set it all. *have is what was set before, which goes where it differs, and becomes what is set now.
 * Setting what is set already changes nothing, and after an error it may be tried again. */
int net_apply(struct guest_net *have, const struct guest_net *want, struct fcm_error *err) must_check;

/* Take away what was set before, its address and routes, and all neighbours. *have becomes nothing. */
int net_leave(struct guest_net *have, struct fcm_error *err) must_check;

/* Give eth0 another MAC, and in place of the IPv6 link-local address that was made of the old one its own. It may be up: virtio_net
 * takes one at any time (IFF_LIVE_ADDR_CHANGE). */
int net_set_mac(const uint8_t mac[NET_MAC_BYTES], struct fcm_error *err) must_check;
