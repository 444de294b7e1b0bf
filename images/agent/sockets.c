#include "images/agent/sockets.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "images/agent/netlink.h"

/* Those of kernel, include/net/tcp_states.h. Who is in TIME_WAIT has no socket any more. */
#define CONNECTED                                                                                            \
	(1u << TCP_ESTABLISHED | 1u << TCP_SYN_SENT | 1u << TCP_SYN_RECV | 1u << TCP_FIN_WAIT1 |             \
		1u << TCP_FIN_WAIT2 | 1u << TCP_CLOSE_WAIT | 1u << TCP_LAST_ACK | 1u << TCP_CLOSING)

static const struct kind {
	uint8_t family, protocol;
	uint32_t states;
	const char *name;
} kinds[] = {
	{AF_INET, IPPROTO_TCP, CONNECTED, "TCP"},
	{AF_INET6, IPPROTO_TCP, CONNECTED, "TCP"},
	{AF_INET, IPPROTO_UDP, 1u << TCP_ESTABLISHED, "UDP"},
	{AF_INET6, IPPROTO_UDP, 1u << TCP_ESTABLISHED, "UDP"},
};

/* One dump, and the socket that closes what it finds. */
struct closing {
	const struct kind *kind;
	int fd;
	int64_t deadline;
	int count;
};

bool sockets_is_loopback(int family, const uint32_t *a)
{
	const struct in6_addr *six = (const void *)a;

	if (family == AF_INET)
		return ntohl(a[0]) >> 24 == IN_LOOPBACKNET;
	return IN6_IS_ADDR_LOOPBACK(six) ||
	       (IN6_IS_ADDR_V4MAPPED(six) && ntohl(six->s6_addr32[3]) >> 24 == IN_LOOPBACKNET);
}

/* A datagram socket may send from any address. */
static bool stays(const struct kind *k, const struct inet_diag_msg *m)
{
	return sockets_is_loopback(m->idiag_family, m->id.idiag_dst) &&
	       (k->protocol == IPPROTO_UDP || sockets_is_loopback(m->idiag_family, m->id.idiag_src));
}

/* It may have ended by itself, or shares its addresses with another, which is found first. What waits in FIN_WAIT2 without a socket, Linux before 6.5 can't close: it answers, and sends
 * nothing. */
static bool is_gone(const struct inet_diag_msg *m)
{
	return errno == ENOENT || errno == ESTALE || (errno == EOPNOTSUPP && m->idiag_state == TCP_FIN_WAIT2);
}

static bool close_one(void *arg, const struct nlmsghdr *h)
{
	struct closing *c = arg;
	const struct inet_diag_msg *m = netlink_head(h, sizeof *m);
	struct inet_diag_req_v2 rq = {.sdiag_family = c->kind->family, .sdiag_protocol = c->kind->protocol};
	union netlink_request request;

	if (m == NULL || stays(c->kind, m))
		return true;
	rq.id = m->id; /* with its cookie: where it is gone the kernel would find who listens at its port */
	netlink_begin(&request, SOCK_DESTROY, 0, &rq, sizeof rq);
	if (netlink_ask(c->fd, &request) == 0)
		c->count++;
	else if (!is_gone(m))
		return false;
	errno = ETIMEDOUT;
	return clock_left(c->deadline) > 0;
}

static int close_kind(struct closing *c, struct fcm_error *err)
{
	const struct inet_diag_req_v2 all = {.sdiag_family = c->kind->family,
		.sdiag_protocol = c->kind->protocol,
		.idiag_states = c->kind->states};
	auto_close int fd = netlink_open(NETLINK_SOCK_DIAG, err);
	union netlink_request rq;

	if (fd < 0)
		return -1;
	netlink_begin(&rq, SOCK_DIAG_BY_FAMILY, 0, &all, sizeof all);
	if (netlink_dump(fd, &rq, close_one, c) == 0)
		return 0;
	if (errno == ENOENT || errno == EOPNOTSUPP)
		return fcm_fail(err, FCM_HOST, "this kernel can't close connections of %s", c->kind->name);
	return fcm_fail_errno(err, "close the connections of %s", c->kind->name);
}

/* Again until none is closed: what goes while the kernel counts, it miscounts, and passes others over. */
static int close_all(struct closing *c, struct fcm_error *err)
{
	int before;

	do {
		before = c->count;
		if (close_kind(c, err) < 0)
			return -1;
	} while (c->count > before);
	return 0;
}

int sockets_close(struct fcm_error *err)
{
	auto_close int fd = netlink_open(NETLINK_SOCK_DIAG, err);
	struct closing c = {.fd = fd, .deadline = clock_in(SOCKETS_CLOSE_MS)};

	if (fd < 0)
		return -1;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		c.kind = &kinds[i];
		if (close_all(&c, err) < 0)
			return -1;
	}
	return c.count;
}
