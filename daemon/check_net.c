/*
 * Checks of the network: what fcm needs of it, and whose rules keep packets of VMs from passing.
 *
 * Other people's rules are never touched, and what lets VMs through is recognised in the form that our own words for it make. Docker
 * and ufw drop by the policy of the FORWARD chain of iptables, where an ACCEPT is final, so that of one of them is enough for
 * both. firewalld and other nftables have chains of their own: each of them must let a packet pass.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/core/fileio.h"
#include "daemon/check_internal.h"
#include "daemon/net/net.h"

enum { ROUTES_MAX = 1 << 20, DEFAULTS_MAX = 8 };

void doctor_nft(const struct host *h, struct check *c)
{
	struct fcm_error err;

	if (net_filter_check(&h->config->pool, &err) == 0) {
		say(c, CHECK_OK, "the kernel takes our table");
		return;
	}
	say(c, CHECK_FAIL, "%s", err.msg);
	mend(c, "sudo modprobe -a nf_tables nft_chain_nat nft_masq nft_ct nft_reject_inet");
}

void doctor_pool(const struct host *h, struct check *c)
{
	struct fcm_error err;

	if (net_pool_free(&h->config->pool, &err) == 0) {
		say(c, CHECK_OK, "%s/%u is free", ip_dotted(h->config->pool.addr).s, h->config->pool.prefix);
		return;
	}
	say(c, CHECK_FAIL, "%s", err.msg);
	mend(c, "%s", err.hint);
}

void doctor_address(const struct host *h, struct check *c)
{
	struct in_addr ip = h->config->public_ip;

	if (ip.s_addr || net_public_ip(&ip)) {
		say(c, CHECK_OK, "public address %s", ip_dotted(ip).s);
		return;
	}
	say(c, CHECK_WARN,
		ip.s_addr ? "%s is a private address: names below it work only where it is reached"
			  : "no address found: sites have no name",
		ip_dotted(ip).s);
	mend(c, "public_ip = ADDRESS in " CONFIG_FILE);
}

void doctor_dns(const struct host *h, struct check *c)
{
	_cleanup_(strv_done) struct strv dns = {0};

	strv_copy(&dns, &h->config->dns);
	if (dns.n == 0)
		net_resolvers(&dns);
	if (dns.n) {
		say(c, CHECK_OK, "guests ask %s", dns.v[0]);
		return;
	}
	say(c, CHECK_WARN, "no resolver but loopback ones is known: guests resolve no names");
	mend(c, "dns = ADDRESS in " CONFIG_FILE);
}

void port_holder(unsigned port, char *ret, size_t size)
{
	auto_free char *filter = xprintf("sport = :%u", port);
	const char *const argv[] = {"/usr/bin/ss", "-Hltnp", filter, NULL};
	_cleanup_(buf_done) struct buf out = {0};

	ret[0] = '\0';
	if (!look(argv, &out) || out.n == 0)
		return;
	const char *name = strstr(out.p, "((\"");
	(void)fcm_format(ret, size, "%.*s", name ? (int)strcspn(name + 3, "\"") : 1, name ? name + 3 : "?");
}

void doctor_api_port(const struct host *h, struct check *c)
{
	unsigned port = config_api_port(h->config);
	char holder[64] = "";

	if (port)
		port_holder(port, holder, sizeof holder);
	if (*holder == '\0' || strcmp(holder, "fcmd") == 0) {
		say(c, CHECK_OK, port ? "%s is %s" : "no TCP port is asked for", h->config->listen,
			*holder ? "fcmd's" : "free");
		return;
	}
	say(c, CHECK_FAIL, "%s is held by %s", h->config->listen,
		*holder == '?' ? "a program that only root sees" : holder);
	mend(c, "ss -ltnp sport = :%u shows it: end it, or listen = 127.0.0.1:7778 in " CONFIG_FILE, port);
}

void doctor_site_ports(const struct host *h, struct check *c)
{
	static const unsigned ports[] = {80, 443};
	char holder[64];

	(void)h;
	for (size_t i = 0; i < ARRAY_SIZE(ports); i++) {
		port_holder(ports[i], holder, sizeof holder);
		if (*holder == '\0' || strcmp(holder, "caddy") == 0)
			continue;
		say(c, CHECK_WARN, "port %u is held by %s: Caddy can't serve sites", ports[i], holder);
		if (*holder == '?')
			mend(c, "sudo ss -ltnp sport = :%u shows it: end it", ports[i]);
		else
			mend(c, "sudo systemctl disable --now %s", holder);
		return;
	}
	say(c, CHECK_OK, "80 and 443 are free, or Caddy's");
}

/* ---- forwarding, rp_filter ---- */

/* fcmd switches it on when it starts, when a route comes and when net.ipv4.ip_forward moves; not when somebody switches off one. */
void doctor_forwarding(const struct host *h, struct check *c)
{
	_cleanup_(strv_done) struct strv off = {0};
	struct fcm_error err;

	if (net_forwarding_off(&off, &err) < 0) {
		say(c, CHECK_WARN, "%s", err.msg);
		mend(c, "ip -4 route   shows what the kernel should have said");
	} else if (off.n == 0 || !h->serves) {
		say(c, CHECK_OK, off.n ? "off, until fcmd starts" : "on, where packets of VMs come by");
	} else {
		say(c, CHECK_FAIL, "somebody switched it off on %s: VMs have no internet", off.v[0]);
		mend(c,
			"sudo sysctl -w net/ipv4/conf/%s/forwarding=1   (grep -r forwarding /etc/sysctl.* "
			"shows who)",
			off.v[0]);
	}
}

static int read_rp_filter(const char *interface)
{
	auto_free char *path = xprintf("/proc/sys/net/ipv4/conf/%s/rp_filter", interface);
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error ignored;

	return file_read(AT_FDCWD, path, 16, &text, &ignored) == 0 && text.n ? text.p[0] - '0' : 0;
}

/* Interfaces with a default route, from proc_net_route: name, destination, gateway, flags, ... mask. */
static void default_routes(struct strv *ret)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error ignored;
	char name[32], destination[16], mask[16];

	if (file_read(AT_FDCWD, "/proc/net/route", ROUTES_MAX, &text, &ignored) < 0 || text.n == 0)
		return;
	char *rest = text.p;
	for (char *line; (line = strsep(&rest, "\n")) && ret->n < DEFAULTS_MAX;)
		if (sscanf(line, "%31s %15s %*s %*s %*s %*s %*s %15s", name, destination, mask) == 3 &&
			strcmp(destination, "00000000") == 0 && strcmp(mask, "00000000") == 0 &&
			!strv_has(ret, name))
			strv_add(ret, name);
}

/* With one way out answers come back by it. With two a strict filter (1; of `all` and the interface's own the larger counts) drops
 * those that come by the other. */
void doctor_rp_filter(const struct host *h, struct check *c)
{
	_cleanup_(strv_done) struct strv ways = {0};
	_cleanup_(buf_done) struct buf strict = {0};

	(void)h;
	default_routes(&ways);
	for (size_t i = 0; i < ways.n; i++)
		if (MAX(read_rp_filter("all"), read_rp_filter(ways.v[i])) == 1)
			buf_printf(&strict, " net/ipv4/conf/%s/rp_filter=2", ways.v[i]);
	if (ways.n < 2 || strict.n == 0) {
		say(c, CHECK_OK, "it drops no answers");
		return;
	}
	say(c, CHECK_WARN,
		"%zu interfaces have a default route, and it is strict: answers by another one are lost",
		ways.n);
	mend(c, "sudo sysctl -w%s", strict.p);
}

/* ---- other people's firewalls ---- */

static bool has(const struct host *h, const char *rule)
{
	return h->iptables.n && strstr(h->iptables.p, rule);
}

/* Does the FORWARD chain of iptables drop what comes from VMs? */
static bool iptables_drops(const struct host *h)
{
	const struct ip_net *pool = &h->config->pool;
	auto_free char *from = xprintf("-s %s/%u -j ACCEPT", ip_dotted(pool->addr).s, pool->prefix);
	auto_free char *to = xprintf("-d %s/%u -j ACCEPT", ip_dotted(pool->addr).s, pool->prefix);

	if (!has(h, "-P FORWARD DROP"))
		return false;
	return !(has(h, "--src-group 0xfc -j ACCEPT") && has(h, "--dst-group 0xfc -j ACCEPT")) &&
	       !(has(h, from) && has(h, to));
}

static bool has_docker(const struct host *h)
{
	return has(h, "-N DOCKER-USER");
}

void doctor_docker(const struct host *h, struct check *c)
{
	if (!has_docker(h) || !iptables_drops(h)) {
		say(c, CHECK_OK, has_docker(h) ? "it lets VMs through" : "it isn't here");
		return;
	}
	say(c, CHECK_WARN, "its FORWARD policy is DROP: VMs have no internet");
	mend(c, "for way in src dst; do sudo iptables -I DOCKER-USER -m devgroup --$way-group 252 -j ACCEPT; "
		"done");
}

static bool has_ufw(const struct host *h)
{
	return has(h, "-N ufw-user-forward");
}

void doctor_ufw(const struct host *h, struct check *c)
{
	const struct ip_net *pool = &h->config->pool;

	if (!has_ufw(h) || has_docker(h) || !iptables_drops(h)) {
		say(c, CHECK_OK, has_ufw(h) ? "it lets VMs through" : "it isn't on");
		return;
	}
	say(c, CHECK_WARN, "it drops what it routes: VMs have no internet");
	mend(c, "sudo ufw route allow from %s/%u && sudo ufw route allow to %s/%u", ip_dotted(pool->addr).s,
		pool->prefix, ip_dotted(pool->addr).s, pool->prefix);
}

void doctor_firewalld(const struct host *h, struct check *c)
{
	const struct ip_net *pool = &h->config->pool;
	auto_free char *source = xprintf("--query-source=%s/%u", ip_dotted(pool->addr).s, pool->prefix);
	const char *const state[] = {"/usr/bin/firewall-cmd", "--state", NULL};
	const char *const query[] = {"/usr/bin/firewall-cmd", "--zone=trusted", source, NULL};
	_cleanup_(buf_done) struct buf out = {0};

	if (!look(state, &out) || look(query, &out)) {
		say(c, CHECK_OK, strstr(out.n ? out.p : "", "yes") ? "it trusts VMs" : "it isn't on");
		return;
	}
	say(c, CHECK_WARN, "it rejects what VMs send: they have no internet");
	mend(c,
		"sudo firewall-cmd --permanent --zone=trusted --add-source=%s/%u && sudo firewall-cmd "
		"--reload",
		ip_dotted(pool->addr).s, pool->prefix);
}

/* What none of those three is: rules of the user's own. */
void doctor_forward(const struct host *h, struct check *c)
{
	_cleanup_(strv_done) struct strv chains = {0};
	struct fcm_error err;

	if (iptables_drops(h) && !has_docker(h) && !has_ufw(h)) {
		say(c, CHECK_WARN, "the FORWARD policy of iptables is DROP: VMs have no internet");
		mend(c, "for way in src dst; do sudo iptables -I FORWARD -m devgroup --$way-group 252 -j "
			"ACCEPT; "
			"done");
	} else if (net_forward_drops(&chains, &err) < 0) {
		say(c, CHECK_WARN, "%s", err.msg);
		mend(c, "sudo nft list ruleset   shows what is there");
	} else if (chains.n) {
		say(c, CHECK_WARN, "nftables' chain %s drops what VMs send: they have no internet",
			chains.v[0]);
		mend(c,
			"for way in iifgroup oifgroup; do sudo nft insert rule %s $way 252 accept; done   "
			"(and in "
			"/etc/nftables.conf)",
			chains.v[0]);
	} else {
		say(c, CHECK_OK, "nobody else drops forwarded packets");
	}
}
