/*
 * Links, addresses, routes and neighbours of the kernel, by libnl-route-3. No state: each call has a netlink socket of
 * its own (20 us), so calls of several threads don't wait for each other.
 */
#pragma once

#include "daemon/net/net.h"
#include "daemon/net/pool.h"

/* What has a name: nothing, a TAP of ours (kind "tun", our group), or a device of somebody else. */
enum link_owner { LINK_NONE, LINK_OURS, LINK_FOREIGN };

struct link {
	enum link_owner owner;
	int index;
	bool up;
};

/* Look up a device by name. A missing one is no error: LINK_NONE. */
int link_find(const char *name, struct link *ret, struct fcm_error *err) must_check;

/* Make the device `index` (called `name`) the TAP of `vm`, whatever part of that is there already: forwarding, proxy
 * ARP, reverse path filter, no redirects, no IPv6; MTU 1500, our group and up in one message; the address `gateway` with
 * the guest as peer, which also is the route; the guest's MAC as permanent neighbour. */
int link_make_tap(int index, const char *name, const struct net_vm *vm, struct in_addr gateway,
	struct fcm_error *err) must_check;

/* Put back the route to the guest of a TAP that has its address: the kernel made it with the address and doesn't again. */
int link_mend_route(
	int index, const struct net_vm *vm, struct in_addr gateway, struct fcm_error *err) must_check;

/* Delete a device; a missing one is fine. 12 to 20 ms. */
int link_delete(int index, struct fcm_error *err) must_check;

/* Names of all TAPs of ours. */
int link_list_ours(struct strv *ret, struct fcm_error *err) must_check;

/* Bytes that the host has sent to and received from each TAP of ours. The caller frees. */
struct link_bytes {
	char name[IFNAMSIZ];
	uint64_t sent, received;
};
int link_list_bytes(struct link_bytes **ret, size_t *ret_n, struct fcm_error *err) must_check;

/* Is it an address of this host? When the kernel doesn't say: no. */
bool link_has_address(struct in_addr ip);

/* Every network that the host uses by an address or a unicast route, but for those of our TAPs. The caller frees. */
int link_pool_uses(struct pool_use **ret, size_t *ret_n, struct fcm_error *err) must_check;

/* Add or delete the unreachable route of the pool, so that packets to a VM that isn't there get an answer and never
 * leave by the default route. Both are idempotent. */
int link_pool_route(const struct ip_net *pool, bool present, struct fcm_error *err) must_check;

/* An interface that isn't ours and carries an IPv4 route. */
struct link_routed {
	int index;
	char name[IFNAMSIZ];
	bool forwarding;
};
int link_list_routed(struct link_routed **ret, size_t *ret_n, struct fcm_error *err) must_check;

/* Set net.ipv4.conf.<interface>.forwarding. */
int link_set_forwarding(int index, bool on, struct fcm_error *err) must_check;
