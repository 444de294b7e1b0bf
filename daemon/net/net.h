/*
 * The network of the VMs: routed TAPs, no bridge; one nftables table `inet fcm` in which a VM is a few elements; a host
 * that stays closed to them. docs/ARCHITECTURE.md tells why; the order of operations stands at the head of link.c.
 *
 * The functions of this header may be called from any thread. nftables is behind one leaf lock, held for milliseconds
 * and taken last; each netlink call has a socket of its own, so that the slow deletion of a TAP delays nobody.
 */
#pragma once

#include <net/if.h>
#include <netinet/in.h>
#include <sys/types.h>

#include "common/core/error.h"
#include "common/core/names.h"
#include "common/core/publish.h"
#include "common/core/util.h"

struct loop;

enum { NET_GROUP = 252 }; /* the device group of every TAP of ours: rules match on it */

/* The host MAC, the same on all TAPs: a restored guest's ARP entry stays valid. */
#define NET_HOST_MAC "02:fc:00:00:00:01"

struct net_config {
	struct ip_net pool;	  /* "172.16.0.0/24" */
	struct in_addr gateway;	  /* "172.16.0.1": the host's address on every TAP */
	struct strv dns;	  /* resolvers for guests from the config; empty: the host's real ones */
	struct in_addr public_ip; /* where sites are served, from the config; 0: ask the kernel */
	uint16_t api_port;	  /* that nobody may publish; 0: none */
};

/* One VM's part. */
struct net_vm {
	struct vm_id id;
	struct in_addr ip;
	uid_t uid;			  /* owner of the TAP */
	const struct publish_list *ports; /* of net_init(): what it publishes; NULL: nothing */
};

/* The MAC of the guest with that address: 02:fc: and the four bytes of the address. */
void net_mac(struct in_addr ip, uint8_t ret[6]);

/* The name of a VM's TAP, "tap_<id>". */
struct net_tap {
	char s[IFNAMSIZ];
};
struct net_tap net_tap_name(const struct vm_id *id);

/* Check that the pool overlaps no address or route of the host (FCM_CONFIG, field "pool", naming a free /24; nothing was
 * changed then), then bring up the host's part: the table with the elements of the n `vms`, in one transaction that
 * loses no packet of theirs, published ports included; the unreachable route of the pool; forwarding on each interface with a route (old values
 * are kept in `run_dir`/forwarding, an existing directory whose files a reboot may take, and put back by net_down()). Copies what it needs. */
int net_init(const struct net_config *config, const char *run_dir, const struct net_vm *vms, size_t n,
	struct fcm_error *err) must_check;

/* What net_watch() tells, on the loop's thread, without a lock. */
struct net_events {
	void (*changed)(void *arg, const char *what);	     /* a line for the log */
	void (*tap_gone)(void *arg, const struct vm_id *id); /* somebody deleted it; may be NULL */
	void *arg;
};

/* Register with the loop. A foreign change of the table, of a TAP's flags or route, of the pool's route is repaired at
 * once from what net_init(), net_filter_up() and net_tap_up() were told; an interface that gets a route gets forwarding.
 * Afterwards it is told. A TAP that somebody deleted is only reported: its VMM holds a descriptor that no longer leads
 * anywhere. */
int net_watch(struct loop *loop, const struct net_events *events, struct fcm_error *err) must_check;

/* Take down all that net_init() made and every TAP of ours, and stop watching: only for uninstalling and for tests; VMs
 * keep running when the daemon ends. Not to be called on the loop's thread from `changed`. */
int net_down(struct fcm_error *err) must_check;

/* The two halves of a VM's network, each idempotent, each with its undo, which takes a missing one for done.
 * filter: the elements of the VM in the table, before the device exists.
 * tap: the device, its address, its permanent neighbour. A device with this name that isn't ours (a TAP in our group)
 * is FCM_HOST to net_tap_up() and missing to net_tap_down(); it is never touched. net_tap_down() takes 12 to 20 ms in
 * the kernel. net_filter_down() also deletes the VM's conntrack entries; *ret_elements and *ret_existed say what was
 * there and may be NULL. */
int net_filter_up(const struct net_vm *vm, struct fcm_error *err) must_check;
int net_filter_down(const struct net_vm *vm, unsigned *ret_elements, struct fcm_error *err) must_check;
int net_tap_up(const struct net_vm *vm, struct fcm_error *err) must_check;
int net_tap_down(const struct net_vm *vm, bool *ret_existed, struct fcm_error *err) must_check;

/* Is the VM's TAP there? True when the kernel can't be asked. */
bool net_tap_exists(const struct vm_id *id);

/* A descriptor attached to the VM's TAP (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR), for QEMU; the caller's. -1 on failure. */
int net_tap_open(const struct vm_id *id, struct fcm_error *err) must_check;

/* Make `ports` all that the VM publishes, a free port chosen where host_port is 0; an empty list ends it. A socket is held for
 * each, so that no other program takes it and connections to 127.0.0.1 lead into the VM, too; everything else gets there by
 * rules. Flows to ports that are no longer published are cut. On failure everything is as before. FCM_PORT_TAKEN names the
 * owner: another VM, this host (`reserved`), or another program. `name` is the VM's, for such messages. */
int net_publish(const struct net_vm *vm, const char *name, struct publish_list *ports,
	struct fcm_error *err) must_check;

/* What rules it takes, a line each, for --dry-run. */
void net_describe_publish(const struct net_vm *vm, const struct publish_list *ports, struct strv *ret);

/* Tell whether sites exist: opens or closes TCP 80 and 443 of the host's public address (net_public_ip()) for VMs. */
int net_sites(bool any, struct fcm_error *err) must_check;

/* The calls that the two halves make, one line each, for --dry-run: "netlink RTM_NEWLINK ...", "nft add element ...". */
void net_describe_filter(const struct net_vm *vm, struct strv *ret);
void net_describe_tap(const struct net_vm *vm, struct strv *ret);

/* Ids of the VMs for which a TAP of ours exists (name tap_<8> and our group). */
int net_list_taps(struct strv *ret, struct fcm_error *err) must_check;

/* Bytes that each VM's guest has received and sent since its TAP was made. All TAPs in one dump; the caller frees *ret. */
struct net_traffic {
	struct vm_id id;
	uint64_t received, sent;
};
int net_traffic(struct net_traffic **ret, size_t *ret_n, struct fcm_error *err) must_check;

/* Is the pool free on this host, as net_init() would find it? FCM_CONFIG, field "pool", with a free /24 in the hint. Looks
 * only. */
int net_pool_free(const struct ip_net *pool, struct fcm_error *err) must_check;

/* Would the kernel take our table of rules? Looks only. */
int net_filter_check(const struct ip_net *pool, struct fcm_error *err) must_check;

/* Chains of other people's nftables that drop forwarded packets of VMs, "inet filter forward" each, unless they let our device group
 * through both ways. Looks only. */
int net_forward_drops(struct strv *ret, struct fcm_error *err) must_check;

/* Interfaces that carry a route and don't forward. Looks only. */
int net_forwarding_off(struct strv *ret, struct fcm_error *err) must_check;

/* Resolvers for guests: config, else the host's IPv4 ones (/run/systemd/resolve/resolv.conf, then /etc/resolv.conf), at
 * most 3, never one that the rules keep from VMs: loopback, link-local, an address of this host. May be empty. */
void net_resolvers(struct strv *ret);

/* The host's public address: config, else that of the socket of a UDP connect(2) (nothing is sent). False when only a
 * private, shared (RFC 6598) or loopback one is found; *ret is that one then, or 0. */
bool net_public_ip(struct in_addr *ret);
