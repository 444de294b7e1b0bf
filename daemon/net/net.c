#include "daemon/net/net.h"

#include <string.h>

#include "daemon/net/config.h"
#include "daemon/net/firewall.h"
#include "daemon/net/forward.h"
#include "daemon/net/link.h"
#include "daemon/net/nfnl.h"
#include "daemon/net/tap.h"
#include "daemon/net/watch.h"

static struct {
	struct net_config config;
	char *run_dir;
} the;

const struct net_config *net_config(void)
{
	return &the.config;
}

const char *net_run_dir(void)
{
	return the.run_dir;
}

void net_mac(struct in_addr ip, uint8_t ret[6])
{
	ret[0] = 0x02; /* locally administered: IEEE 802, clause 8.2 */
	ret[1] = 0xfc;
	memcpy(ret + 2, &ip.s_addr, 4);
}

static void remember(const struct net_config *config, const char *run_dir)
{
	strv_done(&the.config.dns);
	the.config = *config;
	the.config.dns = (struct strv){0};
	strv_copy(&the.config.dns, &config->dns);
	free(the.run_dir);
	the.run_dir = xstrdup(run_dir);
	tap_set_gateway(config->gateway);
}

int net_pool_free(const struct ip_net *pool, struct fcm_error *err)
{
	auto_free struct pool_use *uses = NULL;
	size_t n = 0;

	return link_pool_uses(&uses, &n, err) < 0 ? -1 : pool_check(pool, uses, n, err);
}

int net_filter_check(const struct ip_net *pool, struct fcm_error *err)
{
	const struct rules rules = {.pool = *pool, .gateway = pool->addr};

	return firewall_check(&rules, err);
}

static int check_config(const struct net_config *config, struct fcm_error *err)
{
	if (!ip_net_has(&config->pool, config->gateway))
		return fcm_fail_field(err, FCM_CONFIG, "gateway", "the gateway %s isn't in the pool %s/%u",
			ip_dotted(config->gateway).s, ip_dotted(config->pool.addr).s, config->pool.prefix);
	return net_pool_free(&config->pool, err);
}

/* The table comes first, with what we switched on earlier: an interface never forwards for us without it. */
int net_init(const struct net_config *config, const char *run_dir, const struct net_vm *vms, size_t n,
	struct fcm_error *err)
{
	struct rules rules = {.pool = config->pool, .gateway = config->gateway};
	int r = -1;

	if (check_config(config, err) < 0)
		return -1;
	remember(config, run_dir);
	for (size_t i = 0; i < n; i++)
		net_vms_put(&rules.vms, &vms[i]);
	if (forward_for_vms(run_dir, &rules.no_router, err) == 0 && firewall_install(&rules, err) == 0 &&
		link_pool_route(&config->pool, true, err) == 0 &&
		forward_apply(run_dir, false, NULL, err) == 0 && tap_adopt(vms, n, err) == 0)
		r = 0;
	rules_done(&rules);
	return r;
}

int net_watch(struct loop *loop, const struct net_events *events, struct fcm_error *err)
{
	return watch_start(loop, events, err);
}

/* The reverse order of net_init(). */
int net_down(struct fcm_error *err)
{
	watch_stop();
	if (the.run_dir == NULL)
		return fcm_fail(err, FCM_INTERNAL, "the network isn't up: net_init() comes first");
	return tap_delete_all(err) < 0 || forward_restore(the.run_dir, err) < 0 ||
			       link_pool_route(&the.config.pool, false, err) < 0
		       ? -1
		       : firewall_remove(err);
}

int net_filter_up(const struct net_vm *vm, struct fcm_error *err)
{
	return firewall_add_vm(vm, err);
}

int net_filter_down(const struct net_vm *vm, unsigned *ret_elements, struct fcm_error *err)
{
	unsigned elements = 0;

	if (firewall_delete_vm(vm, &elements, err) < 0)
		return -1;
	if (ret_elements)
		*ret_elements = elements;
	return nfnl_forget_flows(vm->ip, err);
}

int net_sites(bool any, struct fcm_error *err)
{
	struct in_addr ip = {0};

	if (any)
		net_public_ip(&ip);
	return firewall_site(ip, err);
}

void net_describe_filter(const struct net_vm *vm, struct strv *ret)
{
	_cleanup_(buf_done) struct buf text = {0};

	rules_add_vm(vm, &text);
	strv_addf(ret, "nft %.*s", (int)strcspn(text.p, "\n"), text.p);
}
