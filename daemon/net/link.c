/*
 * The order of operations for a TAP, and why (tap.c calls them):
 *
 *  1. nft element of the VM: keyed by name, so the device needn't exist; there is no moment without it
 *  2. TUNSETIFF, TUNSETOWNER: the device exists, not persistent, so it goes when we die
 *  3. forwarding, proxy ARP, reverse path filter, redirects, proxy delay, IPv6: before it is up
 *  4. one RTM_NEWLINK with MTU, group and IFF_UP: it is never up without its group, which the rules match on
 *  5. one RTM_NEWADDR "gateway peer guest/32": address and route
 *  6. the guest's MAC as permanent neighbour: nobody else can claim it by ARP
 *  7. TUNSETPERSIST: now it outlives us
 *
 * libnl is shared by this file (routing), nfnl.c (netfilter) and watch.c (notifications).
 */
#include "daemon/net/link.h"

#include <errno.h>
#include <linux/if_addr.h>
#include <linux/ip.h>
#include <linux/rtnetlink.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/link/inet.h>
#include <netlink/route/neighbour.h>
#include <netlink/route/nexthop.h>
#include <netlink/route/route.h>
#include <string.h>

#include "common/core/fileio.h"

enum {
	TAP_MTU = 1500,
	POOL_METRIC = 4096,	   /* behind every route that somebody else may have for the same network */
	POOL_PROTOCOL = NET_GROUP, /* marks the route as ours; unassigned in rtnetlink(7) */
};

static void sock_freep(struct nl_sock **sk)
{
	nl_socket_free(*sk); /* takes NULL */
}

static void cache_freep(struct nl_cache **c)
{
	nl_cache_free(*c);
}

static void link_putp(struct rtnl_link **l)
{
	rtnl_link_put(*l);
}

static void addr_putp(struct rtnl_addr **a)
{
	rtnl_addr_put(*a);
}

static void neigh_putp(struct rtnl_neigh **n)
{
	rtnl_neigh_put(*n);
}

static void route_putp(struct rtnl_route **r)
{
	rtnl_route_put(*r);
}

static void nl_addr_putp(struct nl_addr **a)
{
	nl_addr_put(*a);
}

#define auto_sock _cleanup_(sock_freep) struct nl_sock *
#define auto_cache _cleanup_(cache_freep) struct nl_cache *
#define auto_link _cleanup_(link_putp) struct rtnl_link *
#define auto_nl_addr _cleanup_(nl_addr_putp) struct nl_addr *

static int fail_nl(struct fcm_error *err, int code, const char *what)
{
	return fcm_fail(err, code == -NLE_NOMEM ? FCM_UNAVAILABLE : FCM_HOST, "netlink: %s: %s", what,
		nl_geterror(code));
}

static struct nl_sock *sock_open(struct fcm_error *err)
{
	struct nl_sock *sk = nl_socket_alloc();
	int e = sk ? nl_connect(sk, NETLINK_ROUTE) : -NLE_NOMEM;

	if (e < 0) {
		fail_nl(err, e, "open a socket");
		nl_socket_free(sk);
		return NULL;
	}
	return sk;
}

static struct nl_addr *make_addr(struct in_addr ip, unsigned prefix)
{
	struct nl_addr *a = nl_addr_build(AF_INET, &ip, sizeof ip);

	if (a)
		nl_addr_set_prefixlen(a, (int)prefix);
	return a;
}

static bool is_ours(struct rtnl_link *l)
{
	const char *kind = rtnl_link_get_type(l);

	return rtnl_link_get_group(l) == NET_GROUP && kind && strcmp(kind, "tun") == 0;
}

static bool missing(int code)
{
	return code == -NLE_OBJ_NOTFOUND || code == -NLE_NODEV;
}

int link_find(const char *name, struct link *ret, struct fcm_error *err)
{
	auto_sock sk = sock_open(err);
	auto_link l = NULL;

	if (sk == NULL)
		return -1;
	int e = rtnl_link_get_kernel(sk, 0, name, &l);
	if (e < 0 && !missing(e))
		return fail_nl(err, e, name);
	*ret = (struct link){.owner = LINK_NONE};
	if (e == 0)
		*ret = (struct link){is_ours(l) ? LINK_OURS : LINK_FOREIGN, rtnl_link_get_ifindex(l),
			rtnl_link_get_flags(l) & IFF_UP};
	return 0;
}

static int change_link(struct nl_sock *sk, int index, struct rtnl_link *change)
{
	auto_link orig = rtnl_link_alloc();

	if (orig == NULL)
		return -NLE_NOMEM;
	rtnl_link_set_ifindex(orig, index);
	return rtnl_link_change(sk, orig, change, 0);
}

/* The MAC and the IPv4 sysctls. */
static int set_conf(struct nl_sock *sk, int index)
{
	static const struct {
		unsigned key, value;
	} conf[] = {
		{IPV4_DEVCONF_FORWARDING, 1},
		{IPV4_DEVCONF_PROXY_ARP, 1},
		{IPV4_DEVCONF_RP_FILTER, 1},
		{IPV4_DEVCONF_SEND_REDIRECTS, 0},
		{IPV4_DEVCONF_ACCEPT_REDIRECTS, 0},
		{IPV4_DEVCONF_ROUTE_LOCALNET, 0},
	};
	auto_link change = rtnl_link_alloc();
	auto_nl_addr mac = NULL;

	if (change == NULL || nl_addr_parse(NET_HOST_MAC, AF_LLC, &mac) < 0)
		return -NLE_NOMEM;
	rtnl_link_set_addr(change, mac);
	for (size_t i = 0; i < ARRAY_SIZE(conf); i++)
		rtnl_link_inet_set_conf(change, conf[i].key, conf[i].value);
	return change_link(sk, index, change);
}

static int set_up(struct nl_sock *sk, int index)
{
	auto_link change = rtnl_link_alloc();

	if (change == NULL)
		return -NLE_NOMEM;
	rtnl_link_set_mtu(change, TAP_MTU);
	rtnl_link_set_group(change, NET_GROUP);
	rtnl_link_set_flags(change, IFF_UP);
	return change_link(sk, index, change);
}

/* What netlink has no attribute for. A kernel without IPv6 has no file for it. */
static int set_sysctls(const char *name, struct fcm_error *err)
{
	char path[96];

	fcm_format(path, sizeof path, "/proc/sys/net/ipv4/neigh/%s/proxy_delay", name);
	if (file_poke(path, "0", err) < 0)
		return -1;
	fcm_format(path, sizeof path, "/proc/sys/net/ipv6/conf/%s/disable_ipv6", name);
	return access(path, F_OK) < 0 ? 0 : file_poke(path, "1", err);
}

static int add_address(struct nl_sock *sk, int index, struct in_addr gateway, struct in_addr guest)
{
	_cleanup_(addr_putp) struct rtnl_addr *a = rtnl_addr_alloc();
	auto_nl_addr local = make_addr(gateway, 32);
	auto_nl_addr peer = make_addr(guest, 32);

	if (a == NULL || local == NULL || peer == NULL)
		return -NLE_NOMEM;
	rtnl_addr_set_ifindex(a, index);
	rtnl_addr_set_local(a, local);
	rtnl_addr_set_peer(a, peer);
	return rtnl_addr_add(sk, a, NLM_F_CREATE | NLM_F_REPLACE);
}

static int add_neighbour(struct nl_sock *sk, int index, struct in_addr guest)
{
	uint8_t mac[6];
	net_mac(guest, mac);
	_cleanup_(neigh_putp) struct rtnl_neigh *n = rtnl_neigh_alloc();
	auto_nl_addr dst = make_addr(guest, 32);
	auto_nl_addr lladdr = nl_addr_build(AF_LLC, mac, sizeof mac);

	if (n == NULL || dst == NULL || lladdr == NULL)
		return -NLE_NOMEM;
	rtnl_neigh_set_ifindex(n, index);
	rtnl_neigh_set_dst(n, dst);
	rtnl_neigh_set_lladdr(n, lladdr);
	rtnl_neigh_set_state(n, NUD_PERMANENT);
	return rtnl_neigh_add(sk, n, NLM_F_CREATE | NLM_F_REPLACE);
}

int link_make_tap(
	int index, const char *name, const struct net_vm *vm, struct in_addr gateway, struct fcm_error *err)
{
	auto_sock sk = sock_open(err);
	int e;

	if (sk == NULL)
		return -1;
	if ((e = set_conf(sk, index)) < 0)
		return fail_nl(err, e, "set the TAP's MAC and sysctls");
	if (set_sysctls(name, err) < 0)
		return -1;
	if ((e = set_up(sk, index)) < 0)
		return fail_nl(err, e, "bring the TAP up");
	if ((e = add_address(sk, index, gateway, vm->ip)) < 0)
		return fail_nl(err, e, "give the TAP its address");
	if ((e = add_neighbour(sk, index, vm->ip)) < 0)
		return fail_nl(err, e, "add the guest's neighbour entry");
	return 0;
}

/* The same as what comes with the address, for a later deletion of that takes this route along. */
int link_mend_route(int index, const struct net_vm *vm, struct in_addr gateway, struct fcm_error *err)
{
	auto_sock sk = sock_open(err);
	_cleanup_(route_putp) struct rtnl_route *r = rtnl_route_alloc();
	struct rtnl_nexthop *nh = rtnl_route_nh_alloc();
	auto_nl_addr dst = make_addr(vm->ip, 32);
	auto_nl_addr src = make_addr(gateway, 32);

	if (sk == NULL || r == NULL || nh == NULL || dst == NULL || src == NULL) {
		rtnl_route_nh_free(nh);
		return sk ? fail_nl(err, -NLE_NOMEM, "the guest's route") : -1;
	}
	rtnl_route_set_family(r, AF_INET);
	rtnl_route_set_dst(r, dst);
	rtnl_route_set_pref_src(r, src);
	rtnl_route_set_type(r, RTN_UNICAST);
	rtnl_route_set_table(r, RT_TABLE_MAIN);
	rtnl_route_set_scope(r, RT_SCOPE_LINK);
	rtnl_route_set_protocol(r, RTPROT_KERNEL);
	rtnl_route_nh_set_ifindex(nh, index);
	rtnl_route_add_nexthop(r, nh); /* owns it now */
	int e = rtnl_route_add(sk, r, NLM_F_CREATE | NLM_F_REPLACE);
	return e < 0 ? fail_nl(err, e, "add the guest's route") : 0;
}

int link_delete(int index, struct fcm_error *err)
{
	auto_sock sk = sock_open(err);
	auto_link l = rtnl_link_alloc();

	if (sk == NULL)
		return -1;
	if (l == NULL)
		return fail_nl(err, -NLE_NOMEM, "delete a TAP");
	rtnl_link_set_ifindex(l, index);
	int e = rtnl_link_delete(sk, l);
	return e < 0 && !missing(e) ? fail_nl(err, e, "delete a TAP") : 0;
}

static struct nl_cache *get_links(struct nl_sock *sk, struct fcm_error *err)
{
	struct nl_cache *c = NULL;
	int e = rtnl_link_alloc_cache(sk, AF_UNSPEC, &c);

	if (e < 0)
		fail_nl(err, e, "list the links");
	return e < 0 ? NULL : c;
}

static struct nl_cache *get_routes(struct nl_sock *sk, struct fcm_error *err)
{
	struct nl_cache *c = NULL;
	int e = rtnl_route_alloc_cache(sk, AF_INET, 0, &c);

	if (e < 0)
		fail_nl(err, e, "list the routes");
	return e < 0 ? NULL : c;
}

int link_list_ours(struct strv *ret, struct fcm_error *err)
{
	auto_sock sk = sock_open(err);
	auto_cache links = sk ? get_links(sk, err) : NULL;

	if (links == NULL)
		return -1;
	for (struct nl_object *o = nl_cache_get_first(links); o; o = nl_cache_get_next(o))
		if (is_ours((struct rtnl_link *)o))
			strv_add(ret, rtnl_link_get_name((struct rtnl_link *)o));
	return 0;
}

int link_list_bytes(struct link_bytes **ret, size_t *ret_n, struct fcm_error *err)
{
	auto_sock sk = sock_open(err);
	auto_cache links = sk ? get_links(sk, err) : NULL;
	size_t n = 0;

	if (links == NULL)
		return -1;
	struct link_bytes *list = xalloc(((size_t)nl_cache_nitems(links) + 1) * sizeof *list);
	for (struct nl_object *o = nl_cache_get_first(links); o; o = nl_cache_get_next(o)) {
		struct rtnl_link *l = (struct rtnl_link *)o;
		if (!is_ours(l))
			continue;
		list[n] = (struct link_bytes){.sent = rtnl_link_get_stat(l, RTNL_LINK_TX_BYTES),
			.received = rtnl_link_get_stat(l, RTNL_LINK_RX_BYTES)};
		fcm_copy(list[n++].name, sizeof list->name, rtnl_link_get_name(l));
	}
	*ret = list;
	*ret_n = n;
	return 0;
}

/* ---- what the host uses ---- */

static struct nl_cache *get_addresses(struct nl_sock *sk, struct fcm_error *err)
{
	struct nl_cache *c = NULL;
	int e = rtnl_addr_alloc_cache(sk, &c);

	if (e < 0)
		fail_nl(err, e, "list the addresses");
	return e < 0 ? NULL : c;
}

/* Asked of the routing table alone: a list of addresses has those of all TAPs. */
bool link_has_address(struct in_addr ip)
{
	struct fcm_error ignored;
	auto_sock sk = sock_open(&ignored);
	auto_nl_addr dst = make_addr(ip, 32);
	_cleanup_(route_putp) struct rtnl_route *r = NULL;

	return sk && dst && rtnl_route_lookup(sk, dst, &r) == 0 && rtnl_route_get_type(r) == RTN_LOCAL;
}

struct uses {
	struct pool_use *v;
	size_t n;
	struct nl_cache *links;
};

static void add_use(struct uses *uses, struct nl_addr *dst, int index, bool route)
{
	auto_link l = rtnl_link_get(uses->links, index);
	struct pool_use use = {.route = route, .dev = "?"};

	if (l && is_ours(l))
		return;
	if (l)
		fcm_copy(use.dev, sizeof use.dev, rtnl_link_get_name(l));
	use.net.prefix = nl_addr_get_prefixlen(dst);
	if (nl_addr_get_len(dst) == sizeof use.net.addr)
		memcpy(&use.net.addr, nl_addr_get_binary_addr(dst), sizeof use.net.addr);
	use.net.addr.s_addr &= use.net.prefix ? htonl(~0u << (32 - use.net.prefix)) : 0;
	uses->v = xrealloc(uses->v, (uses->n + 1) * sizeof use);
	uses->v[uses->n++] = use;
}

static void add_address_use(struct nl_object *o, void *arg)
{
	struct rtnl_addr *a = (struct rtnl_addr *)o;
	struct nl_addr *peer = rtnl_addr_get_peer(a), *local = rtnl_addr_get_local(a);

	if (rtnl_addr_get_family(a) != AF_INET || local == NULL)
		return;
	add_use(arg, local, rtnl_addr_get_ifindex(a), false);
	if (peer)
		add_use(arg, peer, rtnl_addr_get_ifindex(a), false);
}

/* A unicast route outside of the table `local`: what addresses bring along by themselves is there. */
static bool counts(struct rtnl_route *r)
{
	return rtnl_route_get_type(r) == RTN_UNICAST && rtnl_route_get_table(r) != RT_TABLE_LOCAL;
}

static void add_route_use(struct nl_object *o, void *arg)
{
	struct rtnl_route *r = (struct rtnl_route *)o;

	if (counts(r) && rtnl_route_get_nnexthops(r) > 0)
		add_use(arg, rtnl_route_get_dst(r), rtnl_route_nh_get_ifindex(rtnl_route_nexthop_n(r, 0)),
			true);
}

int link_pool_uses(struct pool_use **ret, size_t *ret_n, struct fcm_error *err)
{
	auto_sock sk = sock_open(err);
	auto_cache routes = sk ? get_routes(sk, err) : NULL;
	auto_cache links = routes ? get_links(sk, err) : NULL;
	auto_cache addresses = links ? get_addresses(sk, err) : NULL;
	struct uses uses = {.links = links};

	if (addresses == NULL)
		return -1;
	nl_cache_foreach(addresses, add_address_use, &uses);
	nl_cache_foreach(routes, add_route_use, &uses);
	*ret = uses.v;
	*ret_n = uses.n;
	return 0;
}

int link_pool_route(const struct ip_net *pool, bool present, struct fcm_error *err)
{
	auto_sock sk = sock_open(err);
	_cleanup_(route_putp) struct rtnl_route *r = rtnl_route_alloc();
	auto_nl_addr dst = make_addr(pool->addr, pool->prefix);

	if (sk == NULL)
		return -1;
	if (r == NULL || dst == NULL)
		return fail_nl(err, -NLE_NOMEM, "the pool's route");
	rtnl_route_set_family(r, AF_INET);
	rtnl_route_set_dst(r, dst);
	rtnl_route_set_type(r, RTN_UNREACHABLE);
	rtnl_route_set_table(r, RT_TABLE_MAIN);
	rtnl_route_set_scope(r, RT_SCOPE_UNIVERSE);
	rtnl_route_set_priority(r, POOL_METRIC);
	rtnl_route_set_protocol(r, POOL_PROTOCOL);
	int e = present ? rtnl_route_add(sk, r, NLM_F_CREATE | NLM_F_REPLACE) : rtnl_route_delete(sk, r, 0);
	if (e < 0 && (present || !(missing(e) || e == -NLE_FAILURE)))
		return fail_nl(err, e, present ? "add the pool's route" : "delete the pool's route");
	return 0;
}

/* ---- forwarding ---- */

struct routed {
	struct link_routed *v;
	size_t n;
	struct nl_cache *links;
};

static bool have_routed(const struct routed *list, int index)
{
	for (size_t i = 0; i < list->n; i++)
		if (list->v[i].index == index)
			return true;
	return false;
}

static void add_nexthop(struct rtnl_nexthop *nh, void *arg)
{
	struct routed *list = arg;
	int index = rtnl_route_nh_get_ifindex(nh);

	if (have_routed(list, index))
		return;
	auto_link l = rtnl_link_get(list->links, index);
	if (l == NULL || rtnl_link_get_group(l) == NET_GROUP || rtnl_link_get_flags(l) & IFF_LOOPBACK)
		return;
	uint32_t on = 0;
	rtnl_link_inet_get_conf(l, IPV4_DEVCONF_FORWARDING, &on);
	list->v = xrealloc(list->v, (list->n + 1) * sizeof *list->v);
	struct link_routed *new = &list->v[list->n++];
	*new = (struct link_routed){.index = index, .forwarding = on};
	fcm_copy(new->name, sizeof new->name, rtnl_link_get_name(l));
}

static void add_routed(struct nl_object *o, void *arg)
{
	if (counts((struct rtnl_route *)o))
		rtnl_route_foreach_nexthop((struct rtnl_route *)o, add_nexthop, arg);
}

/* Routes first: the TAP of a route that is in the list then is in the list of links with its group. */
int link_list_routed(struct link_routed **ret, size_t *ret_n, struct fcm_error *err)
{
	auto_sock sk = sock_open(err);
	auto_cache routes = sk ? get_routes(sk, err) : NULL;
	auto_cache links = routes ? get_links(sk, err) : NULL;
	struct routed list = {.links = links};

	if (links == NULL)
		return -1;
	nl_cache_foreach(routes, add_routed, &list);
	*ret = list.v;
	*ret_n = list.n;
	return 0;
}

int link_set_forwarding(int index, bool on, struct fcm_error *err)
{
	auto_sock sk = sock_open(err);
	auto_link change = rtnl_link_alloc();

	if (sk == NULL)
		return -1;
	int e = -NLE_NOMEM;
	if (change) {
		rtnl_link_inet_set_conf(change, IPV4_DEVCONF_FORWARDING, on);
		e = change_link(sk, index, change);
	}
	return e < 0 ? fail_nl(err, e, "set forwarding") : 0;
}
