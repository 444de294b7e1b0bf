#include "images/agent/netlink.h"

#include <assert.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>

enum {
	ANSWER_MAX = 32768
}; /* what the kernel fills at most of a buffer: net/netlink/af_netlink.c, netlink_dump() */

int netlink_open(int protocol, struct fcm_error *err)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);

	return fd < 0 ? fcm_fail_errno(err, "open a netlink socket") : fd;
}

void netlink_begin(union netlink_request *rq, int type, int flags, const void *head, size_t n)
{
	assert(NLMSG_SPACE(n) <= sizeof *rq);
	memset(rq, 0, sizeof *rq);
	rq->head = (struct nlmsghdr){.nlmsg_len = (uint32_t)NLMSG_LENGTH(n),
		.nlmsg_type = (uint16_t)type,
		.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags)};
	memcpy(NLMSG_DATA(&rq->head), head, n);
}

void netlink_add(union netlink_request *rq, int type, const void *p, size_t n)
{
	size_t at = NLMSG_ALIGN(rq->head.nlmsg_len);
	const struct rtattr head = {.rta_len = (uint16_t)RTA_LENGTH(n), .rta_type = (uint16_t)type};

	assert(at + RTA_SPACE(n) <= sizeof *rq);
	memcpy(rq->bytes + at, &head, sizeof head);
	memcpy(rq->bytes + at + RTA_LENGTH(0), p, n);
	rq->head.nlmsg_len = (uint32_t)(at + RTA_LENGTH(n));
}

static int send_request(int fd, union netlink_request *rq, int flags)
{
	static uint32_t number;

	rq->head.nlmsg_flags |= (uint16_t)flags;
	rq->head.nlmsg_seq = ++number;
	return send(fd, rq, rq->head.nlmsg_len, 0) < 0 ? -1 : 0;
}

static ssize_t receive(int fd, void *p, size_t size)
{
	ssize_t n;

	while ((n = recv(fd, p, size, 0)) < 0 && errno == EINTR)
		;
	return n;
}

/* What NLMSG_ERROR and NLMSG_DONE say: 0, or -1 with errno. */
static int status_of(const struct nlmsghdr *m)
{
	const int *status = netlink_head(m, sizeof *status);

	errno = status == NULL ? EPROTO : -*status;
	return status && *status == 0 ? 0 : -1;
}

int netlink_ask(int fd, union netlink_request *rq)
{
	union {
		struct nlmsghdr head;
		char bytes[ANSWER_MAX];
	} answer;

	if (send_request(fd, rq, NLM_F_ACK) < 0)
		return -1;
	for (;;) {
		ssize_t n = receive(fd, &answer, sizeof answer);
		if (n < 0)
			return -1;
		if (NLMSG_OK(&answer.head, (size_t)n) && answer.head.nlmsg_seq == rq->head.nlmsg_seq &&
			answer.head.nlmsg_type == NLMSG_ERROR)
			return status_of(&answer.head);
	}
}

/* Not NLMSG_NEXT(), which reckons below zero behind a last message that isn't padded. */
static size_t step_of(const struct nlmsghdr *m, size_t left)
{
	return MIN((size_t)NLMSG_ALIGN(m->nlmsg_len), left);
}

int netlink_dump(
	int fd, union netlink_request *rq, bool (*take)(void *arg, const struct nlmsghdr *m), void *arg)
{
	union {
		struct nlmsghdr head;
		char bytes[ANSWER_MAX];
	} answer;

	if (send_request(fd, rq, NLM_F_DUMP) < 0)
		return -1;
	for (;;) {
		ssize_t n = receive(fd, &answer, sizeof answer);
		if (n < 0)
			return -1;
		size_t at = 0, left = (size_t)n;
		for (const struct nlmsghdr *m = &answer.head; NLMSG_OK(m, left);
			m = (const void *)(answer.bytes + at)) {
			at += step_of(m, left);
			left = (size_t)n - at;
			if (m->nlmsg_seq != rq->head.nlmsg_seq)
				continue;
			if (m->nlmsg_type == NLMSG_ERROR || m->nlmsg_type == NLMSG_DONE)
				return status_of(m);
			if (!take(arg, m))
				return -1;
		}
	}
}

const void *netlink_head(const struct nlmsghdr *m, size_t n)
{
	return m->nlmsg_len >= NLMSG_LENGTH(n) ? NLMSG_DATA(m) : NULL;
}

const void *netlink_find(const struct nlmsghdr *m, size_t n, int type, size_t size)
{
	if (netlink_head(m, n) == NULL)
		return NULL;
	for (size_t at = NLMSG_SPACE(n); at + sizeof(struct rtattr) <= m->nlmsg_len;) {
		const struct rtattr *a = (const void *)((const char *)m + at);
		if (a->rta_len < sizeof *a || a->rta_len > m->nlmsg_len - at)
			return NULL;
		if (a->rta_type == type && RTA_PAYLOAD(a) >= size)
			return RTA_DATA(a);
		at += RTA_ALIGN(a->rta_len);
	}
	return NULL;
}
