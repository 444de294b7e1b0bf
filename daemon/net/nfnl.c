#include "daemon/net/nfnl.h"

#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <string.h>

/* What names one entry in IPCTNL_MSG_CT_DELETE, as it stands in the dump. */
struct flow {
	uint32_t id;	    /* CTA_ID */
	uint16_t zone;	    /* CTA_ZONE, 0: none */
	uint16_t n;	    /* of `tuple` */
	uint8_t tuple[128]; /* the contents of CTA_TUPLE_ORIG: 52 bytes for IPv4 */
};

struct flows {
	struct in_addr ip;
	const struct publish *port; /* or NULL: all */
	struct flow *v;
	size_t n;
};

static void sock_freep(struct nl_sock **sk)
{
	nl_socket_free(*sk);
}

static void msg_freep(struct nl_msg **m)
{
	nlmsg_free(*m);
}

static int fail_nl(struct fcm_error *err, int code, const char *what)
{
	return fcm_fail(err, code == -NLE_NOMEM ? FCM_UNAVAILABLE : FCM_HOST, "conntrack: %s: %s", what,
		nl_geterror(code));
}

static bool tuple_has(struct nlattr *tuple, struct in_addr ip)
{
	struct nlattr *t[CTA_TUPLE_MAX + 1], *a[CTA_IP_MAX + 1];

	if (tuple == NULL || nla_parse_nested(t, CTA_TUPLE_MAX, tuple, NULL) < 0 || t[CTA_TUPLE_IP] == NULL ||
		nla_parse_nested(a, CTA_IP_MAX, t[CTA_TUPLE_IP], NULL) < 0)
		return false;
	for (int i = CTA_IP_V4_SRC; i <= CTA_IP_V4_DST; i++)
		if (a[i] && nla_len(a[i]) == sizeof ip && memcmp(nla_data(a[i]), &ip, sizeof ip) == 0)
			return true;
	return false;
}

/* Was it first sent to that port, whoever it was passed on to? */
static bool came_to(struct nlattr *tuple, const struct publish *port)
{
	struct nlattr *t[CTA_TUPLE_MAX + 1], *a[CTA_PROTO_MAX + 1];

	return nla_parse_nested(t, CTA_TUPLE_MAX, tuple, NULL) == 0 && t[CTA_TUPLE_PROTO] &&
	       nla_parse_nested(a, CTA_PROTO_MAX, t[CTA_TUPLE_PROTO], NULL) == 0 && a[CTA_PROTO_NUM] &&
	       a[CTA_PROTO_DST_PORT] &&
	       nla_get_u8(a[CTA_PROTO_NUM]) == (port->udp ? IPPROTO_UDP : IPPROTO_TCP) &&
	       nla_get_u16(a[CTA_PROTO_DST_PORT]) == htons(port->host_port);
}

static int collect(struct nl_msg *msg, void *arg)
{
	struct flows *flows = arg;
	struct nlattr *a[CTA_MAX + 1];

	if (nlmsg_parse(nlmsg_hdr(msg), sizeof(struct nfgenmsg), a, CTA_MAX, NULL) < 0 ||
		a[CTA_TUPLE_ORIG] == NULL)
		return NL_OK;
	if (!tuple_has(a[CTA_TUPLE_ORIG], flows->ip) && !tuple_has(a[CTA_TUPLE_REPLY], flows->ip))
		return NL_OK;
	if (flows->port && !came_to(a[CTA_TUPLE_ORIG], flows->port))
		return NL_OK;
	struct flow f = {.n = (uint16_t)nla_len(a[CTA_TUPLE_ORIG])};
	if (f.n > sizeof f.tuple)
		return NL_OK;
	memcpy(f.tuple, nla_data(a[CTA_TUPLE_ORIG]), f.n);
	if (a[CTA_ID])
		f.id = nla_get_u32(a[CTA_ID]);
	if (a[CTA_ZONE])
		f.zone = nla_get_u16(a[CTA_ZONE]);
	flows->v = xrealloc(flows->v, (flows->n + 1) * sizeof f);
	flows->v[flows->n++] = f;
	return NL_OK;
}

static struct nl_msg *request(int type, int flags)
{
	struct nfgenmsg head = {.nfgen_family = AF_INET, .version = NFNETLINK_V0};
	struct nl_msg *m = nlmsg_alloc_simple(NFNL_SUBSYS_CTNETLINK << 8 | type, NLM_F_REQUEST | flags);

	if (m && nlmsg_append(m, &head, sizeof head, NLMSG_ALIGNTO) < 0) {
		nlmsg_free(m);
		return NULL;
	}
	return m;
}

static int dump(struct nl_sock *sk, struct flows *flows)
{
	_cleanup_(msg_freep) struct nl_msg *m = request(IPCTNL_MSG_CT_GET, NLM_F_DUMP);
	int e;

	if (m == NULL)
		return -NLE_NOMEM;
	if ((e = nl_socket_modify_cb(sk, NL_CB_VALID, NL_CB_CUSTOM, collect, flows)) < 0 ||
		(e = nl_send_auto(sk, m)) < 0)
		return e;
	return nl_recvmsgs_default(sk);
}

/* An entry that ended by itself since the dump is fine. */
static int delete_flow(struct nl_sock *sk, const struct flow *f)
{
	struct nl_msg *m = request(IPCTNL_MSG_CT_DELETE, NLM_F_ACK);

	if (m == NULL)
		return -NLE_NOMEM;
	if (nla_put(m, CTA_TUPLE_ORIG | NLA_F_NESTED, f->n, f->tuple) < 0 ||
		nla_put_u32(m, CTA_ID, f->id) < 0 || (f->zone && nla_put_u16(m, CTA_ZONE, f->zone) < 0)) {
		nlmsg_free(m);
		return -NLE_NOMEM;
	}
	int e = nl_send_sync(sk, m); /* frees m */
	return e == -NLE_OBJ_NOTFOUND ? 0 : e;
}

static int forget(struct in_addr ip, const struct publish *port, struct fcm_error *err)
{
	_cleanup_(sock_freep) struct nl_sock *sk = nl_socket_alloc();
	struct flows flows = {.ip = ip, .port = port};
	int e = sk ? nl_connect(sk, NETLINK_NETFILTER) : -NLE_NOMEM;

	if (e < 0)
		return fail_nl(err, e, "open a socket");
	e = dump(sk, &flows);
	if (e < 0)
		fail_nl(err, e, "list the entries");
	for (size_t i = 0; e >= 0 && i < flows.n; i++)
		if ((e = delete_flow(sk, &flows.v[i])) < 0)
			fail_nl(err, e, "delete an entry");
	free(flows.v);
	return e < 0 ? -1 : 0;
}

int nfnl_forget_flows(struct in_addr ip, struct fcm_error *err)
{
	return forget(ip, NULL, err);
}

int nfnl_forget_port(struct in_addr ip, const struct publish *port, struct fcm_error *err)
{
	return forget(ip, port, err);
}
