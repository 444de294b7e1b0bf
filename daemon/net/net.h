/*
 * The network of the VMs: routed TAPs, no bridge; one nftables table `inet fcm` in which a VM is a few elements; a host
 * that stays closed to them. docs/ARCHITECTURE.md tells why; the order of operations stands at the head of link.c.
 *
 * The functions of this header may be called from any thread. They serialise on two leaf locks (netlink, nftables),
 * held for milliseconds and taken last.
 */
#pragma once

#include <netinet/in.h>
#include <net/if.h>
#include <sys/types.h>

#include "common/core/error.h"
#include "common/core/names.h"
#include "common/core/util.h"

struct loop;

enum { NET_GROUP = 252 }; /* the device group of every TAP of ours: rules match on it */

/* The host MAC, the same on all TAPs: a restored guest's ARP entry stays valid. */
#define NET_HOST_MAC "02:fc:00:00:00:01"

struct net_config {
	struct ip_net pool;	  /* "172.16.0.0/24" */
	struct in_addr gateway;	  /* "172.16.0.1": the host's address on every TAP */
	struct strv dns;	  /* resolvers for guests from the config; empty: the host's real ones */
	struct in_addr public_ip; /* where sites are served: VMs reach 80 and 443 of it while one exists; 0: unknown */
};

/* One VM's part. */
struct net_vm {
	struct vm_id id;
	struct in_addr ip;
	uid_t uid; /* owner of the TAP */
};

/* The MAC of the guest with that address: 02:fc: and the four bytes of the address. */
void net_mac(struct in_addr ip, uint8_t ret[6]);

/* The name of a VM's TAP, "tap_<id>". */
struct net_tap {
	char s[IFNAMSIZ];
};
struct net_tap net_tap_name(const struct vm_id *id);

/* Check that the pool overlaps no address or route of the host (FCM_CONFIG naming a free /24; nothing was changed then),
 * then bring up the host's part: the table with the elements of `vms`, the unreachable route of the pool, forwarding on
 * each interface with a route (old values are kept in `state_dir`/forwarding and put back by net_down()). */
int net_init(const struct net_config *config, const char *state_dir, struct fcm_error *err) must_check;

/* Register with the loop: a foreign change of the table, the links or the default route is repaired at once from what
 * net_vm_up() was told; `changed(arg, what)` is called on the loop's thread afterwards. */
int net_watch(struct loop *loop, void (*changed)(void *arg, const char *what), void *arg, struct fcm_error *err) must_check;

/* Take down all that net_init() made: only for uninstalling and for tests; VMs keep running when the daemon ends. */
int net_down(struct fcm_error *err) must_check;

/* The two halves of a VM's network, each idempotent, each with its undo, which takes a missing one for done.
 * filter: the elements of the VM in the table, before the device exists.
 * tap: the device, its address, its permanent neighbour. A TAP with this name that isn't ours (group) is FCM_HOST and
 * is never touched. Removing a filter also deletes the VM's conntrack entries. */
int net_filter_up(const struct net_vm *vm, struct fcm_error *err) must_check;
int net_filter_down(const struct net_vm *vm, unsigned *ret_elements, struct fcm_error *err) must_check;
int net_tap_up(const struct net_vm *vm, struct fcm_error *err) must_check;
int net_tap_down(const struct net_vm *vm, bool *ret_existed, struct fcm_error *err) must_check;

/* A descriptor attached to the VM's TAP (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR), for QEMU; the caller's. -1 on failure. */
int net_tap_open(const struct vm_id *id, struct fcm_error *err) must_check;

/* Tell whether sites exist: opens or closes 80 and 443 of the public address for VMs. */
int net_sites(bool any, struct fcm_error *err) must_check;

/* The calls that the two halves make, one line each, for --dry-run: "netlink RTM_NEWLINK ...", "nft add element ...". */
void net_describe_filter(const struct net_vm *vm, struct strv *ret);
void net_describe_tap(const struct net_vm *vm, struct strv *ret);

/* Ids of the VMs for which a TAP of ours exists (name tap_<8> and our group). */
int net_list_taps(struct strv *ret, struct fcm_error *err) must_check;

/* Resolvers for guests: config, else the host's (/run/systemd/resolve/resolv.conf, /etc/resolv.conf), never a loopback
 * address. May be empty. */
void net_resolvers(struct strv *ret);

/* The host's public address: config, else that of the socket of a UDP connect(2) (nothing is sent). False when only a
 * private, shared (RFC 6598) or loopback one is found; *ret is that one then, or 0. */
bool net_public_ip(struct in_addr *ret);
