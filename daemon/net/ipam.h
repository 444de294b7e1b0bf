/*
 * Which address a VM gets. Pure.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/names.h"

/* Addresses first..last (host parts counted from the pool's base, such as 50 and 254) of `pool`. The caller has checked
 * that both lie within it: at most 65,536 addresses, for the pools of the config are /16 or smaller. */
struct ipam {
	struct ip_net pool;
	uint32_t first, last;
};

/* The lowest free address, given the n that are taken (any order, doubles and addresses outside of the range don't
 * count). FCM_POOL_EXHAUSTED with the number in use. */
int ipam_pick(const struct ipam *ipam, const struct in_addr *taken, size_t n, struct in_addr *ret,
	struct fcm_error *err) must_check;
