#include "images/agent/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>

#include "common/core/kv.h"
#include "images/agent/netlink.h"

#define DEVICE "eth0"

enum {
	LOOPBACK = 1, /* its index, in each network namespace: kernel, net/core/dev.c, LOOPBACK_IFINDEX */
	ADDRESSES_MAX = 64, /* of the guest's user, in our subnet */
};

static struct in_addr mask_of(unsigned prefix)
{
	return (struct in_addr){htonl(prefix ? UINT32_MAX << (32 - prefix) : 0)};
}

static int parse_ip(const void *kv, size_t n, const char *key, struct in_addr *ret, struct fcm_error *err)
{
	const char *s = kv_get(kv, n, key);

	if (s == NULL || inet_pton(AF_INET, s, ret) != 1)
		return fcm_fail_field(err, FCM_INVALID, key, "%s: not an IPv4 address", key);
	return 0;
}

int net_parse(const void *kv, size_t n, struct guest_net *ret, struct fcm_error *err)
{
	struct guest_net net = {0};
	int64_t prefix = kv_i64(kv, n, "prefix", 1, 32, 0);
	const char *hostname = kv_get(kv, n, "hostname");

	if (parse_ip(kv, n, "address", &net.address, err) < 0)
		return -1;
	if (kv_get(kv, n, "gateway") && parse_ip(kv, n, "gateway", &net.gateway, err) < 0)
		return -1;
	if (prefix == 0)
		return fcm_fail_field(err, FCM_INVALID, "prefix", "prefix: not in 1..32");
	if (hostname && !fcm_copy(net.hostname, sizeof net.hostname, hostname))
		return fcm_fail_field(err, FCM_INVALID, "hostname", "hostname: longer than 63 bytes");
	net.mask = mask_of((unsigned)prefix);
	*ret = net;
	return 0;
}

/* ---- requests ---- */

/* A netlink socket, and the index of eth0. */
struct wire {
	int fd;
	int index;
};

static void close_wire(struct wire *w)
{
	fcm_closep(&w->fd);
}

static int open_wire(struct wire *w, struct fcm_error *err)
{
	w->index = (int)if_nametoindex(DEVICE);
	if (w->index == 0)
		return fcm_fail_errno(err, "interface %s", DEVICE);
	return (w->fd = netlink_open(NETLINK_ROUTE, err)) < 0 ? -1 : 0;
}

static int bring_up(const struct wire *w, int index, const char *device, struct fcm_error *err)
{
	const struct ifinfomsg link = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
	union netlink_request rq;

	netlink_begin(&rq, RTM_NEWLINK, 0, &link, sizeof link);
	return netlink_ask(w->fd, &rq) < 0 ? fcm_fail_errno(err, "bring up %s", device) : 0;
}

static unsigned prefix_of(struct in_addr mask)
{
	return (unsigned)__builtin_popcount(mask.s_addr);
}

static void address_request(
	union netlink_request *rq, int type, int flags, const struct wire *w, const struct guest_net *net)
{
	const struct ifaddrmsg head = {.ifa_family = AF_INET,
		.ifa_prefixlen = (uint8_t)prefix_of(net->mask),
		.ifa_index = (uint32_t)w->index};
	const struct in_addr broadcast = {net->address.s_addr | ~net->mask.s_addr};

	netlink_begin(rq, type, flags, &head, sizeof head);
	netlink_add(rq, IFA_LOCAL, &net->address, sizeof net->address);
	netlink_add(rq, IFA_ADDRESS, &net->address, sizeof net->address);
	if (head.ifa_prefixlen < 31) /* RFC 3021: there is none in these */
		netlink_add(rq, IFA_BROADCAST, &broadcast, sizeof broadcast);
}

static void route_request(
	union netlink_request *rq, int type, int flags, const struct wire *w, const struct guest_net *net)
{
	const struct rtmsg head = {.rtm_family = AF_INET,
		.rtm_table = RT_TABLE_MAIN,
		.rtm_protocol = type == RTM_NEWROUTE ? RTPROT_BOOT : RTPROT_UNSPEC,
		.rtm_scope = type == RTM_NEWROUTE ? RT_SCOPE_UNIVERSE : RT_SCOPE_NOWHERE,
		.rtm_type = type == RTM_NEWROUTE ? RTN_UNICAST : RTN_UNSPEC};

	netlink_begin(rq, type, flags, &head, sizeof head);
	netlink_add(rq, RTA_GATEWAY, &net->gateway, sizeof net->gateway);
	netlink_add(rq, RTA_OIF, &w->index, sizeof w->index);
}

/* ---- addresses of the guest's user ---- */

/* Those that are in the subnet of one of `nets`. */
struct others {
	int index;
	const struct guest_net *nets[2]; /* or NULL */
	union netlink_request rq[ADDRESSES_MAX];
	size_t n;
};

static bool shares_subnet(const struct guest_net *net, struct in_addr address, struct in_addr mask)
{
	return net && net->address.s_addr && net->mask.s_addr == mask.s_addr &&
	       ((net->address.s_addr ^ address.s_addr) & mask.s_addr) == 0;
}

static bool take_other(void *arg, const struct nlmsghdr *m)
{
	struct others *o = arg;
	const struct ifaddrmsg *head = netlink_head(m, sizeof *head);
	const struct in_addr *address = netlink_find(m, sizeof *head, IFA_LOCAL, sizeof *address);
	bool shares = false;

	if (address == NULL || head->ifa_family != AF_INET || head->ifa_index != (uint32_t)o->index ||
		m->nlmsg_len > sizeof o->rq[0])
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(o->nets); i++) {
		const struct guest_net *net = o->nets[i];
		if (!shares_subnet(net, *address, mask_of(head->ifa_prefixlen)))
			continue;
		if (net->address.s_addr == address->s_addr)
			return true;
		shares = true;
	}
	if (!shares)
		return true;
	if (o->n == ADDRESSES_MAX) {
		errno = E2BIG;
		return false;
	}
	memcpy(&o->rq[o->n++], m, m->nlmsg_len);
	return true;
}

/* Those of all devices, of that family. */
static int each_address(const struct wire *w, uint8_t family,
	bool (*take)(void *arg, const struct nlmsghdr *m), void *arg, struct fcm_error *err)
{
	const struct ifaddrmsg all = {.ifa_family = family};
	union netlink_request rq;

	netlink_begin(&rq, RTM_GETADDR, 0, &all, sizeof all);
	return netlink_dump(w->fd, &rq, take, arg) < 0
		       ? fcm_fail_errno(err, "read the addresses of %s", DEVICE)
		       : 0;
}

/* What the kernel said of them is what it takes. */
static int put_others(
	const struct wire *w, struct others *o, int type, int flags, int ignored, struct fcm_error *err)
{
	for (size_t i = 0; i < o->n; i++) {
		o->rq[i].head.nlmsg_type = (uint16_t)type;
		o->rq[i].head.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
		if (netlink_ask(w->fd, &o->rq[i]) < 0 && errno != ignored)
			return fcm_fail_errno(err, "keep the other addresses of %s", DEVICE);
	}
	return 0;
}

/* ---- what is set ---- */

static int remove_address(const struct wire *w, const struct guest_net *net, struct fcm_error *err)
{
	union netlink_request rq;

	if (net->address.s_addr == 0)
		return 0;
	address_request(&rq, RTM_DELADDR, 0, w, net);
	if (netlink_ask(w->fd, &rq) < 0 && errno != EADDRNOTAVAIL)
		return fcm_fail_errno(err, "remove the address of %s", DEVICE);
	return 0;
}

static int add_address(const struct wire *w, const struct guest_net *net, struct fcm_error *err)
{
	union netlink_request rq;

	address_request(&rq, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, w, net);
	if (netlink_ask(w->fd, &rq) < 0 && errno != EEXIST)
		return fcm_fail_errno(err, "set the address of %s", DEVICE);
	return 0;
}

static int swap_address(const struct wire *w, const struct guest_net *have, const struct guest_net *want,
	struct fcm_error *err)
{
	return remove_address(w, have, err) < 0 || (want && add_address(w, want, err) < 0) ? -1 : 0;
}

/* `want`: NULL for none. The user's come back whatever happens in between. */
static int change_address(const struct wire *w, const struct guest_net *have, const struct guest_net *want,
	struct fcm_error *err)
{
	auto_free struct others *o = xalloc(sizeof *o);
	struct fcm_error ignored;

	*o = (struct others){.index = w->index, .nets = {have, want}};
	if (each_address(w, AF_INET, take_other, o, err) < 0)
		return -1;
	int rc = put_others(w, o, RTM_DELADDR, 0, EADDRNOTAVAIL, err) < 0 ||
		 swap_address(w, have, want, err) < 0;
	if (put_others(w, o, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, EEXIST, rc ? &ignored : err) < 0)
		rc = 1;
	return rc ? -1 : 0;
}

/* The one that we have set. With the last address of a device its routes go anyway. */
static int remove_route(const struct wire *w, const struct guest_net *net, struct fcm_error *err)
{
	union netlink_request rq;

	if (net->gateway.s_addr == 0)
		return 0;
	route_request(&rq, RTM_DELROUTE, 0, w, net);
	if (netlink_ask(w->fd, &rq) < 0 && errno != ESRCH)
		return fcm_fail_errno(err, "remove the default route");
	return 0;
}

/* A default route of the guest's user stays. */
static int add_route(const struct wire *w, const struct guest_net *net, struct fcm_error *err)
{
	union netlink_request rq;

	if (net->gateway.s_addr == 0)
		return 0;
	route_request(&rq, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, w, net);
	netlink_add(&rq, RTA_PREFSRC, &net->address, sizeof net->address);
	if (netlink_ask(w->fd, &rq) < 0 && errno != EEXIST)
		return fcm_fail_errno(err, "add the default route");
	return 0;
}

struct neighbours {
	int index, fd;
};

static bool forget_neighbour(void *arg, const struct nlmsghdr *m)
{
	const struct neighbours *ns = arg;
	const struct ndmsg *head = netlink_head(m, sizeof *head);
	const struct in_addr *address = netlink_find(m, sizeof *head, NDA_DST, sizeof *address);
	union netlink_request rq;

	if (address == NULL || head->ndm_family != AF_INET || head->ndm_ifindex != ns->index ||
		head->ndm_state & (NUD_PERMANENT | NUD_NOARP))
		return true;
	netlink_begin(&rq, RTM_DELNEIGH, 0, head, sizeof *head);
	netlink_add(&rq, NDA_DST, address, sizeof *address);
	return netlink_ask(ns->fd, &rq) == 0 || errno == ENOENT;
}

static int forget_neighbours(const struct wire *w, struct fcm_error *err)
{
	const struct ndmsg all = {.ndm_family = AF_INET};
	auto_close int fd = netlink_open(NETLINK_ROUTE, err);
	struct neighbours ns = {.index = w->index, .fd = fd};
	union netlink_request rq;

	if (fd < 0)
		return -1;
	netlink_begin(&rq, RTM_GETNEIGH, 0, &all, sizeof all);
	return netlink_dump(w->fd, &rq, forget_neighbour, &ns) < 0
		       ? fcm_fail_errno(err, "forget the neighbours")
		       : 0;
}

static int leave(
	const struct wire *w, struct guest_net *have, const struct guest_net *want, struct fcm_error *err)
{
	if (remove_route(w, have, err) < 0 || change_address(w, have, want, err) < 0 ||
		forget_neighbours(w, err) < 0)
		return -1;
	*have = want ? *want : (struct guest_net){0};
	return 0;
}

static bool same(const struct guest_net *a, const struct guest_net *b)
{
	return a->address.s_addr == b->address.s_addr && a->mask.s_addr == b->mask.s_addr &&
	       a->gateway.s_addr == b->gateway.s_addr;
}

int net_apply(struct guest_net *have, const struct guest_net *want, struct fcm_error *err)
{
	_cleanup_(close_wire) struct wire w = {.fd = -1};

	if (want->hostname[0] && sethostname(want->hostname, strlen(want->hostname)) < 0)
		return fcm_fail_errno(err, "set the host name");
	if (open_wire(&w, err) < 0 || bring_up(&w, LOOPBACK, "lo", err) < 0 ||
		bring_up(&w, w.index, DEVICE, err) < 0)
		return -1;
	if (same(have, want) ? add_address(&w, want, err) < 0 : leave(&w, have, want, err) < 0)
		return -1;
	return add_route(&w, want, err);
}

int net_leave(struct guest_net *have, struct fcm_error *err)
{
	_cleanup_(close_wire) struct wire w = {.fd = -1};

	return open_wire(&w, err) < 0 ? -1 : leave(&w, have, NULL, err);
}

/* ---- the MAC ---- */

/* The last eight bytes of the link-local address that the kernel makes of a MAC: RFC 4291, appendix A. */
static struct in6_addr link_local(const uint8_t mac[NET_MAC_BYTES])
{
	return (struct in6_addr){.s6_addr = {0xfe, 0x80, [8] = mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3],
					 mac[4], mac[5]}};
}

static void link_local_request(
	union netlink_request *rq, int type, int flags, int index, const struct in6_addr *address)
{
	const struct ifaddrmsg head = {.ifa_family = AF_INET6,
		.ifa_prefixlen = 64,
		.ifa_scope = RT_SCOPE_LINK,
		.ifa_index = (uint32_t)index};

	netlink_begin(rq, type, flags, &head, sizeof head);
	netlink_add(rq, IFA_ADDRESS, address, sizeof *address);
}

struct link_locals {
	int index, fd;
	bool gone; /* one was there */
};

/* One that was made of a MAC goes; those of the guest's user stay. */
static bool drop_link_local(void *arg, const struct nlmsghdr *m)
{
	struct link_locals *l = arg;
	const struct ifaddrmsg *head = netlink_head(m, sizeof *head);
	const struct in6_addr *address = netlink_find(m, sizeof *head, IFA_ADDRESS, sizeof *address);
	union netlink_request rq;

	if (address == NULL || head->ifa_family != AF_INET6 || head->ifa_index != (uint32_t)l->index ||
		!IN6_IS_ADDR_LINKLOCAL(address) || address->s6_addr[11] != 0xff ||
		address->s6_addr[12] != 0xfe)
		return true;
	l->gone = true;
	link_local_request(&rq, RTM_DELADDR, 0, l->index, address);
	return netlink_ask(l->fd, &rq) == 0 || errno == EADDRNOTAVAIL;
}

/* The kernel makes one when the device comes up, and leaves it when the MAC changes. */
static int renew_link_local(const struct wire *w, const uint8_t mac[NET_MAC_BYTES], struct fcm_error *err)
{
	const struct in6_addr address = link_local(mac);
	auto_close int fd = netlink_open(NETLINK_ROUTE, err);
	struct link_locals l = {.index = w->index, .fd = fd};
	union netlink_request rq;

	if (fd < 0 || each_address(w, AF_INET6, drop_link_local, &l, err) < 0)
		return -1;
	if (!l.gone)
		return 0;
	link_local_request(&rq, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, w->index, &address);
	return netlink_ask(w->fd, &rq) < 0 && errno != EEXIST
		       ? fcm_fail_errno(err, "set the link-local address")
		       : 0;
}

int net_set_mac(const uint8_t mac[NET_MAC_BYTES], struct fcm_error *err)
{
	_cleanup_(close_wire) struct wire w = {.fd = -1};
	union netlink_request rq;

	if (open_wire(&w, err) < 0)
		return -1;
	const struct ifinfomsg link = {.ifi_index = w.index};
	netlink_begin(&rq, RTM_NEWLINK, 0, &link, sizeof link);
	netlink_add(&rq, IFLA_ADDRESS, mac, NET_MAC_BYTES);
	if (netlink_ask(w.fd, &rq) < 0)
		return fcm_fail_errno(err, "set the MAC of %s", DEVICE);
	return renew_link_local(&w, mac, err);
}
