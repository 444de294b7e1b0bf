/*
 * Connections of the machine to the outside are closed: in a clone they are those of another one.
 *
 * By sock_diag(7), as `ss -K` does: it needs a kernel with CONFIG_INET_DIAG_DESTROY and, where they aren't built in, the modules
 * inet_diag, tcp_diag and udp_diag. A process finds its socket closed (ECONNABORTED). The kernel would tell the other side so
 * (RST), which listens to the machine that we were: whoever calls this takes the address away before, so that nothing can be sent.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"

enum { SOCKETS_CLOSE_MS = 5000 }; /* for all of them; it is the guest that says how many there are */

/* Close each TCP connection of this network namespace but those from loopback to loopback, and each UDP socket that is connected
 * to something else than loopback. What listens stays. Returns how many, or -1: those that are left are then open. */
int sockets_close(struct fcm_error *err) must_check;

/* Is it 127.0.0.0/8, ::1, or the former as an IPv6 address (::ffff:127.0.0.1)? `family`, and in network byte order `a`: 1 word of
 * AF_INET, 4 of AF_INET6. */
bool sockets_is_loopback(int family, const uint32_t *a);
