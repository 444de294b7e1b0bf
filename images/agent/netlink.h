/*
 * Requests to the kernel by netlink(7): rtnetlink(7) and sock_diag(7). A static program has libc only, and these few calls.
 * Answers come at once, from the call that sends the request.
 */
#pragma once

#include <linux/netlink.h>
#include <stddef.h>
#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum { NETLINK_REQUEST_MAX = 512 };

/* A request that is being made. */
union netlink_request {
	struct nlmsghdr head;
	char bytes[NETLINK_REQUEST_MAX];
};

/* A socket for `protocol` (NETLINK_ROUTE, NETLINK_SOCK_DIAG). -1 with *err. */
int netlink_open(int protocol, struct fcm_error *err) must_check;

/* Begin a request of that type with the n bytes of its fixed head; `flags` besides NLM_F_REQUEST. */
void netlink_begin(union netlink_request *rq, int type, int flags, const void *head, size_t n);

/* Add an attribute. What doesn't fit is a bug of the caller (asserted). */
void netlink_add(union netlink_request *rq, int type, const void *p, size_t n);

/* Send it and wait for its acknowledgement. Returns 0, or -1 with errno as the kernel has it. */
int netlink_ask(int fd, union netlink_request *rq) must_check;

/* Send it with NLM_F_DUMP, and give each message of the answer to `take`, which may make requests on another socket. Returns 0,
 * or -1 with errno; so it does when `take` returns false. */
int netlink_dump(int fd, union netlink_request *rq, bool (*take)(void *arg, const struct nlmsghdr *m),
	void *arg) must_check;

/* The fixed head of a message, or NULL when it is shorter than that; and the first attribute `type` behind one of n bytes, or
 * NULL when there is none with `size` bytes. */
const void *netlink_head(const struct nlmsghdr *m, size_t n);
const void *netlink_find(const struct nlmsghdr *m, size_t n, int type, size_t size);
