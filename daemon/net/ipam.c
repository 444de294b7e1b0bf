#include "daemon/net/ipam.h"

static uint32_t base(const struct ipam *ipam)
{
	return ntohl(ipam->pool.addr.s_addr);
}

int ipam_pick(const struct ipam *ipam, const struct in_addr *taken, size_t n, struct in_addr *ret,
	struct fcm_error *err)
{
	size_t total = ipam->last >= ipam->first ? (size_t)ipam->last - ipam->first + 1 : 0, used = 0;
	auto_free bool *seen = xalloc(total);

	for (size_t i = 0; i < n; i++) {
		uint32_t host = ntohl(taken[i].s_addr) - base(ipam);
		if (host < ipam->first || host > ipam->last || seen[host - ipam->first])
			continue;
		seen[host - ipam->first] = true;
		used++;
	}
	for (size_t i = 0; i < total; i++) {
		if (seen[i])
			continue;
		ret->s_addr = htonl(base(ipam) + ipam->first + (uint32_t)i);
		return 0;
	}
	return fcm_fail(err, FCM_POOL_EXHAUSTED, "all %zu addresses of the pool %s/%u are in use", used,
		ip_dotted(ipam->pool.addr).s, ipam->pool.prefix);
}
