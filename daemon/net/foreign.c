#include "daemon/net/foreign.h"

#include <stdio.h>
#include <string.h>

#include "daemon/net/firewall.h"
#include "daemon/net/net.h"

enum { WORD = 64 };

/* Do packets of VMs come there, and is it neither ours nor iptables'? */
static bool counts(const char *family, const char *table, const char *chain)
{
	if (strcmp(family, "inet") == 0)
		return strcmp(table, "fcm") != 0;
	return strcmp(family, "ip") == 0 && !(strcmp(table, "filter") == 0 && strcmp(chain, "FORWARD") == 0);
}

void foreign_parse(const char *chains, struct strv *ret)
{
	auto_free char *copy = xstrdup(chains);
	char family[WORD] = "", table[WORD] = "", chain[WORD] = "";
	char *rest = copy;

	for (char *line; (line = strsep(&rest, "\n"));) {
		line += strspn(line, " \t");
		if (sscanf(line, "table %63s %63s {", family, table) == 2 ||
			sscanf(line, "chain %63s {", chain) == 1)
			continue;
		if (strncmp(line, "type filter hook forward ", 25) == 0 && strstr(line, "policy drop;") &&
			counts(family, table, chain))
			strv_addf(ret, "%s %s %s", family, table, chain);
	}
}

/* Both ways, as doctor's own words make it. */
static bool lets_through(const char *rules)
{
	return strstr(rules, "iifgroup 252 accept") && strstr(rules, "oifgroup 252 accept");
}

int net_forward_drops(struct strv *ret, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv chains = {0};
	_cleanup_(buf_done) struct buf all = {0};

	if (firewall_list("list chains", &all, err) < 0)
		return -1;
	foreign_parse(all.n ? all.p : "", &chains);
	for (size_t i = 0; i < chains.n; i++) {
		_cleanup_(buf_done) struct buf rules = {0};
		auto_free char *command = xprintf("list chain %s", chains.v[i]);
		if (firewall_list(command, &rules, err) < 0)
			return -1;
		if (!lets_through(rules.n ? rules.p : ""))
			strv_add(ret, chains.v[i]);
	}
	return 0;
}
