/*
 * Connection tracking, by netlink messages of our own through libnl-3 (nfnetlink_conntrack.h; libnl-nf-3 isn't one of
 * our libraries).
 */
#pragma once

#include <netinet/in.h>

#include "common/core/error.h"
#include "common/core/publish.h"
#include "common/core/util.h"

/* Delete every conntrack entry that has `ip` at either end: flows of a VM that is gone go on otherwise, and the next
 * owner of the address would inherit them. */
int nfnl_forget_flows(struct in_addr ip, struct fcm_error *err) must_check;

/* Of these only those that came to that port of the host. */
int nfnl_forget_port(struct in_addr ip, const struct publish *port, struct fcm_error *err) must_check;
