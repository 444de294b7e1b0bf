/*
 * Whether the pool is free on this host. Pure.
 */
#pragma once

#include <net/if.h>

#include "common/core/error.h"
#include "common/core/names.h"

/* A network that the host uses: by an address of an interface, or by a route through one. */
struct pool_use {
	struct ip_net net;
	char dev[IFNAMSIZ];
	bool route;
};

/* Check `pool` against the n networks in use. FCM_CONFIG, field "pool", names the one that it overlaps, and the hint a
 * free /24. Routes shorter than /8 count as default routes: VPNs cover everything with 0.0.0.0/1 and 128.0.0.0/1. */
int pool_check(
	const struct ip_net *pool, const struct pool_use *uses, size_t n, struct fcm_error *err) must_check;

/* The first free /24 of 172.16.0.0, 172.17.0.0 .. 172.31.0.0, then 10.x.0.0, then 192.168.x.0 (RFC 1918). False when
 * none is. */
bool pool_suggest(const struct pool_use *uses, size_t n, struct ip_net *ret);
