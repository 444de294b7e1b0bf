/*
 * How it works. Two netlink sockets receive notifications: netfilter's of the tables, routing's of links and IPv4
 * routes. The callbacks of libnl only note what is suspect; when a socket is drained (or a batch is worked off), act()
 * looks at the kernel as it is then and repairs. So a message about something that is well again costs a look and no
 * more, a burst is repaired once, and our own changes, which are announced to us too, come to nothing:
 *
 * - table: any change of `inet fcm` that doesn't come from the port of firewall.c. Repairing means installing the whole
 *   table in one transaction. Somebody who flushes in a loop gets at most one repair every REPAIR_MS.
 * - TAP: one that should exist went away or down, or a route to a guest went. net_tap_down() forgets the TAP before it
 *   deletes it, so that isn't seen here.
 * - routes: an interface that forward.c hasn't seen got a route, or one that it has seen went away or got another name; the pool's route
 *   went; the host's own switch for forwarding moved (net.ipv4.ip_forward).
 *
 * ENOBUFS (libnl: NLE_NOMEM) means that messages were lost: then everything is suspect.
 *
 * A repair that fails is tried again after RETRY_MS.
 */
#include "daemon/net/watch.h"

#include <errno.h>
#include <linux/netconf.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/route/nexthop.h>
#include <netlink/route/route.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "daemon/loop.h"
#include "daemon/net/config.h"
#include "daemon/net/firewall.h"
#include "daemon/net/forward.h"
#include "daemon/net/link.h"
#include "daemon/net/tap.h"

enum {
	BATCH = 64,	  /* reads of a socket in one callback */
	RCVBUF = 1 << 20, /* a rebuild with 1,000 VMs announces itself in 400 KB */
	REPAIR_MS = 50,
	RETRY_MS = 1000,
};

static struct {
	struct nl_sock *nf, *rt;
	struct loop_source *nf_source, *rt_source, *timer;
	struct net_events events;
	struct loop *loop;

	/* what is suspect */
	bool table, routed, pool_route;
	bool moved;	       /* and the host's own switch was */
	struct net_vms taps;   /* went away or down, perhaps */
	struct net_vms routes; /* lost their route, perhaps */
	int64_t last_rebuild;
} watch;

static void tell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void tell(const char *fmt, ...)
{
	char *what;
	va_list ap;

	va_start(ap, fmt);
	int n = vasprintf(&what, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	watch.events.changed(watch.events.arg, what);
	free(what);
}

/* ---- what the messages say ---- */

/* Of all messages but NFT_MSG_NEWGEN, which has family AF_UNSPEC, the table's name is the first attribute. */
static int on_table_message(struct nl_msg *msg, void *arg)
{
	struct nlmsghdr *h = nlmsg_hdr(msg);
	struct nlattr *a[NFTA_TABLE_MAX + 1];

	(void)arg;
	if (NFNL_SUBSYS_ID(h->nlmsg_type) != NFNL_SUBSYS_NFTABLES || h->nlmsg_pid == firewall_port() ||
		!nlmsg_valid_hdr(h, sizeof(struct nfgenmsg)) ||
		((struct nfgenmsg *)nlmsg_data(h))->nfgen_family != NFPROTO_INET)
		return NL_OK;
	if (nlmsg_parse(h, sizeof(struct nfgenmsg), a, NFTA_TABLE_MAX, NULL) == 0 && a[NFTA_TABLE_NAME] &&
		nla_strcmp(a[NFTA_TABLE_NAME], "fcm") == 0)
		watch.table = true;
	return NL_OK;
}

static void on_link(struct nlmsghdr *h)
{
	struct ifinfomsg *link = nlmsg_data(h);
	struct nlattr *a[IFLA_MAX + 1];
	struct net_vm vm;

	if (!nlmsg_valid_hdr(h, sizeof *link) || link->ifi_family != AF_UNSPEC ||
		nlmsg_parse(h, sizeof *link, a, IFLA_MAX, NULL) < 0 || a[IFLA_IFNAME] == NULL)
		return;
	if (forward_knows(link->ifi_index, NULL) &&
		(h->nlmsg_type == RTM_DELLINK ||
			!forward_knows(link->ifi_index, nla_get_string(a[IFLA_IFNAME]))))
		watch.routed = true;
	if (h->nlmsg_type == RTM_NEWLINK && link->ifi_flags & IFF_UP &&
		(a[IFLA_GROUP] == NULL || nla_get_u32(a[IFLA_GROUP]) == NET_GROUP))
		return;
	if (tap_find(nla_get_string(a[IFLA_IFNAME]), (struct in_addr){0}, &vm))
		net_vms_put(&watch.taps, &vm);
}

static void on_nexthop(struct rtnl_nexthop *nh, void *arg)
{
	(void)arg;
	if (!forward_knows(rtnl_route_nh_get_ifindex(nh), NULL))
		watch.routed = true;
}

static bool route_dst(struct rtnl_route *r, struct in_addr *ret)
{
	struct nl_addr *dst = rtnl_route_get_dst(r);

	if (dst == NULL || nl_addr_get_len(dst) != sizeof *ret)
		return false; /* a default route has no bytes */
	memcpy(ret, nl_addr_get_binary_addr(dst), sizeof *ret);
	return true;
}

static void on_lost_route(struct rtnl_route *r, struct in_addr dst)
{
	struct net_vm vm;

	if (rtnl_route_get_type(r) == RTN_UNREACHABLE && dst.s_addr == net_config()->pool.addr.s_addr)
		watch.pool_route = true;
	if (rtnl_route_get_type(r) == RTN_UNICAST && tap_find(NULL, dst, &vm))
		net_vms_put(&watch.routes, &vm);
}

/* Routes within the pool are those of our TAPs: new ones need nothing. */
static void on_route(struct nlmsghdr *h)
{
	struct rtnl_route *r = NULL;
	struct in_addr dst = {0};

	if (rtnl_route_parse(h, &r) < 0)
		return;
	if (route_dst(r, &dst) && ip_net_has(&net_config()->pool, dst)) {
		if (h->nlmsg_type == RTM_DELROUTE)
			on_lost_route(r, dst);
	} else if (h->nlmsg_type == RTM_NEWROUTE && rtnl_route_get_type(r) == RTN_UNICAST &&
		   rtnl_route_get_table(r) != RT_TABLE_LOCAL) {
		rtnl_route_foreach_nexthop(r, on_nexthop, NULL);
	}
	rtnl_route_put(r);
}

static void suspect_taps(void)
{
	net_vms_done(&watch.routes);
	watch.routes = tap_known();
}

/* The host's own switch, which is every interface's: also those of VMs were switched. */
static void on_netconf(struct nlmsghdr *h)
{
	struct nlattr *a[NETCONFA_MAX + 1];

	if (nlmsg_parse(h, sizeof(struct netconfmsg), a, NETCONFA_MAX, NULL) < 0 ||
		a[NETCONFA_IFINDEX] == NULL || a[NETCONFA_FORWARDING] == NULL ||
		(int32_t)nla_get_u32(a[NETCONFA_IFINDEX]) != NETCONFA_IFINDEX_ALL)
		return;
	watch.routed = watch.moved = true;
	suspect_taps();
}

static int on_routing_message(struct nl_msg *msg, void *arg)
{
	struct nlmsghdr *h = nlmsg_hdr(msg);

	(void)arg;
	if (h->nlmsg_type == RTM_NEWLINK || h->nlmsg_type == RTM_DELLINK)
		on_link(h);
	else if (h->nlmsg_type == RTM_NEWROUTE || h->nlmsg_type == RTM_DELROUTE)
		on_route(h);
	else if (h->nlmsg_type == RTM_NEWNETCONF)
		on_netconf(h);
	return NL_OK;
}

/* ---- repairs: each returns -1 to be tried again ---- */

static int repair_table(struct fcm_error *err)
{
	int64_t begin = clock_ms();

	if (!watch.table)
		return 0;
	if (begin < watch.last_rebuild + REPAIR_MS) {
		loop_set_timer(watch.timer, watch.last_rebuild + REPAIR_MS);
		return 0;
	}
	watch.last_rebuild = begin;
	if (firewall_rebuild(err) < 0)
		return -1;
	watch.table = false;
	tell("nftables: table inet fcm rebuilt in %d ms", (int)(clock_ms() - begin));
	return 0;
}

static int check_taps(const struct net_vms *vms, bool force, struct fcm_error *err)
{
	enum tap_state state;
	size_t repaired = 0;

	for (size_t i = 0; i < vms->n; i++) {
		if (tap_check(&vms->v[i], force, &state, err) < 0)
			return -1;
		switch (state) {
		case TAP_FINE:
			break;
		case TAP_REPAIRED:
			repaired++;
			break;
		case TAP_GONE:
			tell("link: %s is gone, its VM has no network until it is restarted",
				net_tap_name(&vms->v[i].id).s);
			if (watch.events.tap_gone)
				watch.events.tap_gone(watch.events.arg, &vms->v[i].id);
			break;
		}
	}
	if (repaired == 1 && vms->n == 1)
		tell("link: %s set right again", net_tap_name(&vms->v[0].id).s);
	else if (repaired)
		tell("link: %zu TAPs set right again", repaired);
	return 0;
}

static int repair_taps(struct fcm_error *err)
{
	if (check_taps(&watch.taps, false, err) < 0)
		return -1;
	net_vms_done(&watch.taps);
	if (check_taps(&watch.routes, true, err) < 0)
		return -1;
	net_vms_done(&watch.routes);
	return 0;
}

static int repair_routes(struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv changed = {0};

	if (watch.pool_route) {
		if (link_pool_route(&net_config()->pool, true, err) < 0)
			return -1;
		watch.pool_route = false;
		tell("route: the unreachable route of the pool is back");
	}
	if (watch.routed) {
		if (forward_apply(net_run_dir(), watch.moved, &changed, err) < 0)
			return -1;
		watch.routed = watch.moved = false;
		for (size_t i = 0; i < changed.n; i++)
			tell("forwarding: on for %s, which has a route now", changed.v[i]);
	}
	return 0;
}

static void suspect_everything(void)
{
	watch.table = watch.routed = watch.pool_route = true;
	net_vms_done(&watch.taps);
	suspect_taps();
}

static void act(void)
{
	struct fcm_error err;

	if (repair_table(&err) == 0 && repair_taps(&err) == 0 && repair_routes(&err) == 0)
		return;
	tell("repair failed, next try in %d ms: %s", RETRY_MS, err.msg);
	loop_set_timer(watch.timer, clock_in(RETRY_MS));
}

static void on_timer(void *arg, uint32_t events)
{
	(void)arg;
	(void)events;
	act();
}

static void on_readable(void *arg, uint32_t events)
{
	struct nl_sock *sk = arg;

	(void)events;
	for (int i = 0; i < BATCH; i++) {
		int e = nl_recvmsgs_default(sk);
		if (e == -NLE_NOMEM) {
			suspect_everything();
			tell("netlink: notifications were lost, everything is checked");
		} else if (e < 0) {
			break;
		}
	}
	act();
}

/* SO_RCVBUFFORCE goes beyond net.core.rmem_max, for CAP_NET_ADMIN of the first user namespace only. */
static int set_buffer(struct nl_sock *sk)
{
	int size = RCVBUF;

	if (setsockopt(nl_socket_get_fd(sk), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) == 0)
		return 0;
	return nl_socket_set_buffer_size(sk, RCVBUF, 0);
}

static struct nl_sock *listen_to(
	int protocol, const int groups[3], nl_recvmsg_msg_cb_t fn, struct fcm_error *err)
{
	struct nl_sock *sk = nl_socket_alloc();
	int e = sk ? 0 : -NLE_NOMEM;

	if (sk) {
		nl_socket_disable_seq_check(sk);
		if ((e = nl_socket_modify_cb(sk, NL_CB_VALID, NL_CB_CUSTOM, fn, NULL)) < 0 ||
			(e = nl_connect(sk, protocol)) < 0 || (e = set_buffer(sk)) < 0 ||
			(e = nl_socket_set_nonblocking(sk)) < 0 ||
			(e = nl_socket_add_memberships(sk, groups[0], groups[1], groups[2], 0)) < 0)
			nl_socket_free(sk);
	}
	if (e == 0)
		return sk;
	fcm_fail(err, FCM_HOST, "netlink: watch: %s", nl_geterror(e));
	return NULL;
}

int watch_start(struct loop *loop, const struct net_events *events, struct fcm_error *err)
{
	static const int tables[3] = {NFNLGRP_NFTABLES},
			 links[3] = {RTNLGRP_LINK, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_NETCONF};

	watch.events = *events;
	watch.loop = loop;
	if ((watch.nf = listen_to(NETLINK_NETFILTER, tables, on_table_message, err)) == NULL ||
		(watch.rt = listen_to(NETLINK_ROUTE, links, on_routing_message, err)) == NULL ||
		loop_add_timer(loop, FCM_FOREVER, on_timer, NULL, &watch.timer, err) < 0 ||
		loop_add(loop, nl_socket_get_fd(watch.nf), EPOLLIN, on_readable, watch.nf, &watch.nf_source,
			err) < 0 ||
		loop_add(loop, nl_socket_get_fd(watch.rt), EPOLLIN, on_readable, watch.rt, &watch.rt_source,
			err) < 0) {
		watch_stop();
		return -1;
	}
	if (firewall_rebuild(err) < 0) /* a change between net_init() and now was announced to nobody */
		return -1;
	watch.routed = true;
	act();
	return 0;
}

struct loop *watch_loop(void)
{
	return watch.loop;
}

void watch_stop(void)
{
	loop_remove(watch.nf_source);
	loop_remove(watch.rt_source);
	loop_remove(watch.timer);
	nl_socket_free(watch.nf);
	nl_socket_free(watch.rt);
	net_vms_done(&watch.taps);
	net_vms_done(&watch.routes);
	memset(&watch, 0, sizeof watch);
}
