#include "daemon/net/pool.h"

#include "common/config.h"

static const struct pool_use *find_overlap(const struct ip_net *net, const struct pool_use *uses, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (uses[i].route && uses[i].net.prefix < 8)
			continue;
		if (ip_net_overlap(net, &uses[i].net))
			return &uses[i];
	}
	return NULL;
}

bool pool_suggest(const struct pool_use *uses, size_t n, struct ip_net *ret)
{
	static const struct {
		uint32_t base, step;
		unsigned count;
	} ranges[] = {
		{0xac100000, 1u << 16, 16},  /* 172.16.0.0 .. 172.31.0.0 */
		{0x0a000000, 1u << 16, 256}, /* 10.0.0.0 .. 10.255.0.0 */
		{0xc0a80000, 1u << 8, 256},  /* 192.168.0.0 .. 192.168.255.0 */
	};

	for (size_t r = 0; r < ARRAY_SIZE(ranges); r++) {
		for (unsigned i = 0; i < ranges[r].count; i++) {
			struct ip_net net = {{htonl(ranges[r].base + i * ranges[r].step)}, 24};
			if (find_overlap(&net, uses, n) == NULL) {
				*ret = net;
				return true;
			}
		}
	}
	return false;
}

int pool_check(const struct ip_net *pool, const struct pool_use *uses, size_t n, struct fcm_error *err)
{
	const struct pool_use *use = find_overlap(pool, uses, n);
	struct ip_net other;

	if (use == NULL)
		return 0;
	fcm_fail_field(err, FCM_CONFIG, "pool", "the pool %s/%u overlaps %s %s/%u of %s",
		ip_dotted(pool->addr).s, pool->prefix, use->route ? "the route" : "the address",
		ip_dotted(use->net.addr).s, use->net.prefix, use->dev);
	if (pool_suggest(uses, n, &other))
		fcm_hint(err, "set pool = %s/24 in " CONFIG_FILE ": it is free", ip_dotted(other.addr).s);
	return -1;
}
