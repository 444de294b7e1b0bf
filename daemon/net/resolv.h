/*
 * The text of resolv.conf(5), and what kind of address one is. Pure.
 */
#pragma once

#include <netinet/in.h>

#include "common/core/util.h"

enum { RESOLVERS_MAX = 3 }; /* MAXNS of resolv.conf(5) */

/* Add the IPv4 addresses of the `nameserver` lines, up to RESOLVERS_MAX in `ret` and each once, for which `usable` is
 * true. */
void resolv_parse(const char *text, bool (*usable)(struct in_addr ip), struct strv *ret);

/* An address that the rules never let a VM reach: this network, loopback, link-local, multicast, reserved. */
bool ip_is_denied(struct in_addr ip);

/* An address that the internet doesn't route: those above, private (RFC 1918) and shared (RFC 6598) ones. */
bool ip_is_private(struct in_addr ip);
