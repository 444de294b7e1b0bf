#include "daemon/net/rules.h"

#include <string.h>

/*
 * Why the chains are as they are:
 * - pre_raw runs before conntrack: forged packets make no entries.
 * - deny4: metadata services (169.254.169.254; Alibaba Cloud's 100.100.100.200), the host's loopback, multicast, broadcast,
 *   reserved. Azure's WireServer (168.63.129.16) is its resolver, too, so there two ports are.
 * - vm_to_host lets in the answers to what the host opened and errors about it. `related` is bound to ICMP so that a
 *   conntrack helper can't open ports. vm_ping comes before it: all requests of one ping are one flow, which is
 *   established from its first answer on.
 * - no_router has the interfaces that forward only because we switched it on: what comes in there and isn't for a VM isn't
 *   passed on, so the host becomes no router between its networks. What leaves by the same interface is left alone: with
 *   br_netfilter that is what a bridge passes between its own ports. Of IPv6 and of multicast we switch nothing on.
 * - from_vm rejects VM to VM with an answer, so that clients fail at once; to_vm drops, for it faces the outside.
 * - published: a port of this host that a VM publishes leads to the VM, from outside, from VMs (nat_pre) and from this host
 *   (nat_out). pub_at has those at one address, pub_any those at all. Loopback is left to the daemon's sockets, since
 *   DNAT of it needs route_localnet, which opens the host's loopback to the network.
 * - vm_self: a VM that reaches its own published port would answer itself past the NAT, so it sees the host instead. All
 *   other clients keep their address.
 * - both clamp the MSS of a SYN to the path's MTU: the uplink may be a tunnel or a VPN with less than 1500.
 */
static const char head[] = "table inet fcm\n"
			   "delete table inet fcm\n"
			   "table inet fcm {\n"
			   "\tcomment \"owned by fcmd: it repairs what others change here\"\n"
			   "\tset deny4 {\n"
			   "\t\ttype ipv4_addr\n"
			   "\t\tflags interval\n"
			   "\t\telements = { 0.0.0.0/8, 100.100.100.200, 127.0.0.0/8, 169.254.0.0/16, "
			   "224.0.0.0/3 }\n"
			   "\t}\n"
			   "\tset vm_src {\n"
			   "\t\ttype ifname . ether_addr . ipv4_addr\n"
			   "\t\tsize 65536\n"
			   "\t}\n"
			   "\tset vm_self {\n"
			   "\t\ttype ipv4_addr . ipv4_addr\n"
			   "\t\tsize 65536\n"
			   "\t}\n"
			   "\tmap pub_any {\n"
			   "\t\ttype inet_proto . inet_service : ipv4_addr . inet_service\n"
			   "\t\tsize 65536\n"
			   "\t}\n"
			   "\tmap pub_at {\n"
			   "\t\ttype ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service\n"
			   "\t\tsize 65536\n"
			   "\t}\n"
			   "\tset site {\n"
			   "\t\ttype ipv4_addr\n"
			   "\t\tsize 16\n"
			   "\t}\n";

/* Its arguments: group, pool, pool, group, group, group, group, gateway, group. */
static const char chains[] =
	"\tchain pre_raw {\n"
	"\t\ttype filter hook prerouting priority raw; policy accept;\n"
	"\t\tiifgroup %d goto vm_guard\n"
	"\t\tip saddr %s iif != \"lo\" counter drop comment \"outside pretending to be a VM\"\n"
	"\t}\n"
	"\tchain vm_guard {\n"
	"\t\tmeta nfproto ipv6 counter drop\n"
	"\t\tiifname . ether saddr . ip saddr != @vm_src counter drop comment \"anti-spoof\"\n"
	"\t\tip daddr @deny4 counter drop comment \"metadata, loopback, multicast\"\n"
	"\t\tip daddr 168.63.129.16 tcp dport { 80, 32526 } counter drop comment \"WireServer\"\n"
	"\t}\n"
	"\tchain nat_pre {\n"
	"\t\ttype nat hook prerouting priority dstnat; policy accept;\n"
	"\t\tfib daddr type local goto published\n"
	"\t}\n"
	"\tchain nat_out {\n"
	"\t\ttype nat hook output priority -100; policy accept;\n"
	"\t\tfib daddr type local goto published\n"
	"\t}\n"
	"\tchain published {\n"
	"\t\tip daddr 127.0.0.0/8 return\n"
	"\t\tmeta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport map @pub_at\n"
	"\t\tmeta l4proto { tcp, udp } dnat ip to meta l4proto . th dport map @pub_any\n"
	"\t}\n"
	"\tchain nat_post {\n"
	"\t\ttype nat hook postrouting priority srcnat; policy accept;\n"
	"\t\tip saddr . ip daddr @vm_self masquerade\n"
	"\t\tip saddr %s oifgroup != %d oif != \"lo\" masquerade\n"
	"\t}\n"
	"\tchain flt_fwd {\n"
	"\t\ttype filter hook forward priority filter; policy accept;\n"
	"\t\tiifgroup %d goto from_vm\n"
	"\t\toifgroup %d goto to_vm\n"
	"\t\tip daddr != 224.0.0.0/4 jump no_router\n"
	"\t}\n"
	"\tchain no_router {\n"
	"\t}\n"
	"\tchain from_vm {\n"
	"\t\ttcp flags syn / syn,rst tcp option maxseg size set rt mtu\n"
	"\t\tct state vmap { established : accept, related : accept, invalid : drop }\n"
	"\t\tct status dnat accept comment \"a published port\"\n"
	"\t\toifgroup %d counter reject with icmpx admin-prohibited\n"
	"\t}\n"
	"\tchain to_vm {\n"
	"\t\ttcp flags syn / syn,rst tcp option maxseg size set rt mtu\n"
	"\t\tct state { established, related } accept\n"
	"\t\tct status dnat accept comment \"a published port\"\n"
	"\t\tcounter drop comment \"inbound is off\"\n"
	"\t}\n"
	"\tchain vm_ping {\n"
	"\t\tip daddr %s limit rate 50/second accept\n"
	"\t\tcounter drop\n"
	"\t}\n"
	"\tchain flt_in {\n"
	"\t\ttype filter hook input priority filter; policy accept;\n"
	"\t\tiifgroup %d goto vm_to_host\n"
	"\t}\n"
	"\tchain vm_to_host {\n"
	"\t\ticmp type echo-request goto vm_ping\n"
	"\t\tct state established accept\n"
	"\t\tct state related meta l4proto icmp accept\n"
	"\t\tip daddr @site tcp dport { 80, 443 } accept\n"
	"\t\tcounter drop comment \"no service of the host\"\n"
	"\t}\n"
	"}\n";

struct net_vm *net_vms_find(const struct net_vms *vms, const char *id)
{
	for (size_t i = 0; i < vms->n; i++)
		if (strcmp(vms->v[i].id.s, id) == 0)
			return &vms->v[i];
	return NULL;
}

void net_vms_put(struct net_vms *vms, const struct net_vm *vm)
{
	struct net_vm *old = net_vms_find(vms, vm->id.s);

	if (old) {
		*old = *vm;
		return;
	}
	vms->v = xrealloc(vms->v, (vms->n + 1) * sizeof *vms->v);
	vms->v[vms->n++] = *vm;
}

bool net_vms_drop(struct net_vms *vms, const char *id)
{
	struct net_vm *old = net_vms_find(vms, id);

	if (old)
		*old = vms->v[--vms->n];
	return old != NULL;
}

void net_vms_done(struct net_vms *vms)
{
	free(vms->v);
	*vms = (struct net_vms){0};
}

void rules_done(struct rules *rules)
{
	net_vms_done(&rules->vms);
	net_ports_done(&rules->ports);
	strv_done(&rules->no_router);
}

static void element(const char *verb, const struct net_vm *vm, struct buf *ret)
{
	uint8_t m[6];

	net_mac(vm->ip, m);
	buf_printf(ret, "%s element inet fcm vm_src { \"%s\" . %02x:%02x:%02x:%02x:%02x:%02x . %s }\n", verb,
		net_tap_name(&vm->id).s, m[0], m[1], m[2], m[3], m[4], m[5], ip_dotted(vm->ip).s);
}

void rules_add_vm(const struct net_vm *vm, struct buf *ret)
{
	element("add", vm, ret);
}

void rules_delete_vm(const struct net_vm *vm, struct buf *ret)
{
	element("delete", vm, ret);
}

void rules_site(struct in_addr site, struct buf *ret)
{
	buf_str(ret, "flush set inet fcm site\n");
	if (site.s_addr)
		buf_printf(ret, "add element inet fcm site { %s }\n", ip_dotted(site).s);
}

void rules_no_router(const struct strv *names, struct buf *ret)
{
	buf_str(ret, "flush chain inet fcm no_router\n");
	for (size_t i = 0; i < names->n; i++)
		buf_printf(ret, "add rule inet fcm no_router iifname \"%s\" oifname != \"%s\" counter drop\n",
			names->v[i], names->v[i]);
}

void net_ports_put(struct net_ports *ports, const struct net_vm *vm, const struct publish_list *list)
{
	size_t kept = 0;

	for (size_t i = 0; i < ports->n; i++)
		if (strcmp(ports->v[i].id.s, vm->id.s) != 0)
			ports->v[kept++] = ports->v[i];
	ports->v = xrealloc(ports->v, (kept + list->n + 1) * sizeof *ports->v);
	for (size_t i = 0; i < list->n; i++)
		ports->v[kept++] = (struct net_port){vm->id, vm->ip, list->v[i]};
	ports->n = kept;
}

void net_ports_done(struct net_ports *ports)
{
	free(ports->v);
	*ports = (struct net_ports){0};
}

/* One of 127.0.0.1 has no rule: the daemon's socket is all of it. */
static void add_port(const struct net_port *port, struct buf *ret)
{
	const struct publish *p = &port->p;
	const char *protocol = p->udp ? "udp" : "tcp";

	if (ntohl(p->host.s_addr) >> 24 == IN_LOOPBACKNET)
		return;
	buf_printf(ret, "add element inet fcm vm_self { %s . %s }\n", ip_dotted(port->ip).s,
		ip_dotted(port->ip).s);
	if (p->host.s_addr == INADDR_ANY)
		buf_printf(ret, "add element inet fcm pub_any { %s . %u : %s . %u }\n", protocol,
			p->host_port, ip_dotted(port->ip).s, p->port);
	else
		buf_printf(ret, "add element inet fcm pub_at { %s . %s . %u : %s . %u }\n",
			ip_dotted(p->host).s, protocol, p->host_port, ip_dotted(port->ip).s, p->port);
}

void rules_ports(const struct net_ports *ports, struct buf *ret)
{
	buf_str(ret, "flush set inet fcm vm_self\nflush map inet fcm pub_any\nflush map inet fcm pub_at\n");
	for (size_t i = 0; i < ports->n; i++)
		add_port(&ports->v[i], ret);
}

void rules_delete_table(struct buf *ret)
{
	buf_str(ret, "table inet fcm\ndelete table inet fcm\n");
}

void rules_table(const struct rules *rules, struct buf *ret)
{
	char pool[24];

	fcm_format(pool, sizeof pool, "%s/%u", ip_dotted(rules->pool.addr).s, rules->pool.prefix);
	buf_str(ret, head);
	buf_printf(ret, chains, NET_GROUP, pool, pool, NET_GROUP, NET_GROUP, NET_GROUP, NET_GROUP,
		ip_dotted(rules->gateway).s, NET_GROUP);
	for (size_t i = 0; i < rules->vms.n; i++)
		rules_add_vm(&rules->vms.v[i], ret);
	if (rules->ports.n)
		rules_ports(&rules->ports, ret);
	if (rules->site.s_addr)
		rules_site(rules->site, ret);
	if (rules->no_router.n)
		rules_no_router(&rules->no_router, ret);
}
