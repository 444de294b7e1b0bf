#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>

#include "common/core/fileio.h"
#include "daemon/net/foreign.h"
#include "daemon/net/forward.h"
#include "daemon/net/pool.h"
#include "daemon/net/resolv.h"
#include "daemon/net/rules.h"

static struct in_addr ip(const char *s)
{
	struct in_addr a;

	assert_int_equal(inet_pton(AF_INET, s, &a), 1);
	return a;
}

static struct net_vm vm(const char *id, const char *address)
{
	struct net_vm v = {.ip = ip(address), .uid = 64000};

	fcm_copy(v.id.s, sizeof v.id.s, id);
	return v;
}

/* ---- rules ---- */

static void assert_golden(const char *name, const char *text)
{
	auto_free char *dir = xstrdup(__FILE__);
	*strrchr(dir, '/') = '\0';
	auto_free char *path = xprintf("%s/golden/%s", dir, name);
	_cleanup_(buf_done) struct buf want = {0};
	struct fcm_error err;

	if (getenv("FCM_GOLDEN_UPDATE"))
		assert_int_equal(file_write_atomic(AT_FDCWD, path, 0644, text, strlen(text), &err), 0);
	assert_int_equal(file_read(AT_FDCWD, path, 1 << 20, &want, &err), 0);
	assert_string_equal(text, want.p);
}

static void table(void **state)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct net_vm vms[] = {vm("8i5agfx2", "172.16.0.50"), vm("zzzzzzz9", "172.16.0.254")};
	struct rules r = {.gateway = ip("172.16.0.1"), .site = ip("203.0.113.9"), .vms = {vms, 2}};
	struct publish_list ports = {0};
	struct fcm_error err;

	(void)state;
	assert_int_equal(publish_add(&ports, "0.0.0.0:8080:80", "p", &err), 0);
	assert_int_equal(publish_add(&ports, "203.0.113.9:53:5353/udp", "p", &err), 0);
	assert_int_equal(publish_add(&ports, "127.0.0.1:9000:90", "p", &err), 0);
	net_ports_put(&r.ports, &vms[0], &ports);
	strv_add(&r.no_router, "eth0");
	strv_add(&r.no_router, "wlan0");
	assert_true(ip_net_parse("172.16.0.0/24", &r.pool));
	rules_table(&r, &text);
	net_ports_done(&r.ports);
	strv_done(&r.no_router);
	assert_golden("rules.nft", text.p);
}

static void table_without_site_and_vms(void **state)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct rules r = {.gateway = ip("10.9.0.1")};

	(void)state;
	assert_true(ip_net_parse("10.9.0.0/16", &r.pool));
	rules_table(&r, &text);
	assert_null(strstr(text.p, "add element"));
	assert_null(strstr(text.p, "172.16"));
	assert_non_null(strstr(text.p, "ip saddr 10.9.0.0/16"));
}

static void elements(void **state)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct net_vm v = vm("8i5agfx2", "10.200.3.4");

	(void)state;
	rules_add_vm(&v, &text);
	rules_delete_vm(&v, &text);
	rules_site(ip("203.0.113.9"), &text);
	rules_site((struct in_addr){0}, &text);
	assert_string_equal(text.p,
		"add element inet fcm vm_src { \"tap_8i5agfx2\" . 02:fc:0a:c8:03:04 . 10.200.3.4 }\n"
		"delete element inet fcm vm_src { \"tap_8i5agfx2\" . 02:fc:0a:c8:03:04 . 10.200.3.4 }\n"
		"flush set inet fcm site\n"
		"add element inet fcm site { 203.0.113.9 }\n"
		"flush set inet fcm site\n");
}

static void list_of_vms(void **state)
{
	struct net_vms l = {0};
	struct net_vm a = vm("aaaaaaaa", "10.0.0.1"), b = vm("bbbbbbbb", "10.0.0.2"),
		      a2 = vm("aaaaaaaa", "10.0.0.3");

	(void)state;
	assert_false(net_vms_drop(&l, "aaaaaaaa"));
	net_vms_put(&l, &a);
	net_vms_put(&l, &b);
	net_vms_put(&l, &a2);
	assert_int_equal(l.n, 2);
	assert_int_equal(net_vms_find(&l, "aaaaaaaa")->ip.s_addr, a2.ip.s_addr);
	assert_true(net_vms_drop(&l, "aaaaaaaa"));
	assert_null(net_vms_find(&l, "aaaaaaaa"));
	assert_non_null(net_vms_find(&l, "bbbbbbbb"));
	net_vms_done(&l);
}

/* ---- pool ---- */

static struct pool_use use(const char *net, const char *dev, bool route)
{
	struct pool_use u = {.route = route};

	assert_true(ip_net_parse(net, &u.net));
	fcm_copy(u.dev, sizeof u.dev, dev);
	return u;
}

static void pool_overlap(void **state)
{
	static const struct {
		const char *pool, *net;
		bool route, refused;
	} rows[] = {
		{"172.16.0.0/24", "172.16.0.0/24", false, true},
		{"172.16.0.0/24", "172.16.0.128/25", false, true},
		{"172.16.0.0/24", "172.16.0.77/32", false, true},
		{"172.16.0.0/24", "172.16.0.0/12", true, true},
		{"172.16.0.0/24", "172.16.1.0/24", false, false},
		{"172.16.0.0/24", "172.15.255.0/24", true, false},
		{"172.16.0.0/24", "0.0.0.0/0", true, false},
		{"172.16.0.0/24", "128.0.0.0/1", true, false},
		{"10.1.0.0/16", "10.0.0.0/8", true, true},
		{"10.1.0.0/16", "10.1.255.255/32", true, true},
		{"10.1.0.0/16", "10.2.0.0/16", true, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct pool_use uses[] = {
			use("127.0.0.0/8", "lo", false), use(rows[i].net, "eth0", rows[i].route)};
		struct fcm_error err = {0};
		struct ip_net pool;
		assert_true(ip_net_parse(rows[i].pool, &pool));
		assert_int_equal(pool_check(&pool, uses, 2, &err), rows[i].refused ? -1 : 0);
		assert_int_equal(err.code, rows[i].refused ? FCM_CONFIG : FCM_OK);
	}
}

static void pool_message(void **state)
{
	struct pool_use uses[] = {use("172.16.0.0/24", "eth0", true), use("172.17.0.0/16", "docker0", false)};
	struct fcm_error err;

	(void)state;
	assert_int_equal(pool_check(&uses[0].net, uses, 2, &err), -1);
	assert_string_equal(err.field, "pool");
	assert_string_equal(err.msg, "the pool 172.16.0.0/24 overlaps the route 172.16.0.0/24 of eth0");
	assert_string_equal(err.hint, "set pool = 172.18.0.0/24 in /etc/fcm/fcmd.conf: it is free");
}

static void pool_suggestions(void **state)
{
	struct pool_use uses[3] = {use("172.16.0.0/12", "a", true)};
	struct ip_net net;

	(void)state;
	assert_true(pool_suggest(uses, 0, &net));
	assert_string_equal(ip_dotted(net.addr).s, "172.16.0.0");
	assert_true(pool_suggest(uses, 1, &net));
	assert_string_equal(ip_dotted(net.addr).s, "10.0.0.0");
	uses[1] = use("10.0.0.0/8", "b", true);
	assert_true(pool_suggest(uses, 2, &net));
	assert_string_equal(ip_dotted(net.addr).s, "192.168.0.0");
	uses[2] = use("192.168.0.0/16", "c", false);
	assert_false(pool_suggest(uses, 3, &net));
}

/* ---- resolvers and addresses ---- */

static bool not_denied(struct in_addr a)
{
	return !ip_is_denied(a);
}

static void assert_resolvers(const char *text, const char *want)
{
	_cleanup_(strv_done) struct strv l = {0};
	_cleanup_(buf_done) struct buf got = {0};

	resolv_parse(text, not_denied, &l);
	for (size_t i = 0; i < l.n; i++)
		buf_printf(&got, "%s ", l.v[i]);
	assert_string_equal(got.p ? got.p : "", want);
}

static void resolvers(void **state)
{
	(void)state;
	assert_resolvers("", "");
	assert_resolvers("nameserver 9.9.9.9", "9.9.9.9 ");
	assert_resolvers("# x\nsearch a b\nnameserver\t 1.1.1.1 \r\nnameserver 127.0.0.53\n", "1.1.1.1 ");
	assert_resolvers(
		"nameserver 127.0.0.1\nnameserver ::1\nnameserver 0.0.0.0\nnameserver 169.254.169.254\n", "");
	assert_resolvers("nameserver 2001:db8::1\nnameserver 1.1.1\nnameserver\nnameservers "
			 "1.1.1.1\n;nameserver 8.8.8.8\n",
		"");
	assert_resolvers("nameserver 1.1.1.1\nnameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver "
			 "3.3.3.3\nnameserver 4.4.4.4\n",
		"1.1.1.1 2.2.2.2 3.3.3.3 ");
}

static void addresses(void **state)
{
	static const char *const private[] = {"10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1",
		"100.64.0.1", "100.127.255.254", "127.0.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.1",
		"255.255.255.255"};
	static const char *const public[] = {"1.1.1.1", "172.15.255.255", "172.32.0.0", "100.63.255.255",
		"100.128.0.0", "192.167.255.255", "64.34.93.45", "223.255.255.255"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(private); i++)
		assert_true(ip_is_private(ip(private[i])));
	for (size_t i = 0; i < ARRAY_SIZE(public); i++)
		assert_false(ip_is_private(ip(public[i])));
	assert_false(ip_is_denied(ip("10.1.2.3")));
}

/* ---- forwarding ---- */

static void forwarding_file(void **state)
{
	_cleanup_(forward_file_done) struct forward_file f = {0}, other = {0};
	_cleanup_(buf_done) struct buf text = {0};

	(void)state;
	forward_parse("boot b1\nall 1\neth0 0 2\n\nwlan0 1 3\nrubbish\neth1 2 4\neth2 0 0\neth3 0 5 "
		      "6\naninterfacenamethatistoolong 0\neth0 1 2\nold0 0\n",
		"b1", &f);
	forward_format(&f, "b2", &text);
	assert_string_equal(text.p, "boot b2\nall 1\neth0 0 2\nwlan0 1 3\nold0 0 0\n");
	forward_parse(text.p, "b1", &other); /* another boot */
	assert_int_equal(other.n, 0);
	forward_parse("", "b1", &other);
	forward_parse("eth0 0\n", "b1", &other);
	assert_int_equal(other.n, 0);
}

/* Whoever moves the host's own switch says for each interface what it would be without us. */
static void forwarding_of_the_host(void **state)
{
	_cleanup_(forward_file_done) struct forward_file f = {0};
	_cleanup_(strv_done) struct strv ours = {0};
	_cleanup_(buf_done) struct buf text = {0};

	(void)state;
	forward_parse("boot b\neth0 0 2\n", "b", &f); /* from before the switch was noted */
	assert_true(forward_note_all(&f, false, false));
	assert_false(forward_note_all(&f, false, false));
	forward_ours(&f, &ours);
	assert_int_equal(ours.n, 1);
	assert_string_equal(ours.v[0], "eth0");
	strv_done(&ours);
	assert_true(forward_note_all(&f, true, false));
	forward_ours(&f, &ours);
	assert_int_equal(ours.n, 0);
	assert_true(forward_note_all(&f, false, true));
	forward_format(&f, "b", &text);
	assert_string_equal(text.p, "boot b\nall 0\neth0 0 2\n");
}

/* One that somebody made a router while an older fcm ran, or when we looked at the wrong moment. */
static void forwarding_that_was_missed(void **state)
{
	_cleanup_(forward_file_done) struct forward_file older = {0}, late = {0};
	_cleanup_(strv_done) struct strv ours = {0};

	(void)state;
	forward_parse("boot b\neth0 0\n", "b", &older);
	assert_true(forward_note_all(&older, true, false));
	forward_ours(&older, &ours);
	forward_parse("boot b\nall 1\nvirbr0 0 7\n", "b", &late);
	assert_false(forward_note_all(&late, true, false));
	assert_true(forward_note_all(&late, true, true));
	forward_ours(&late, &ours);
	assert_int_equal(ours.n, 0);
}

/* Who drops forwarded packets by policy: not ourselves, nor iptables, nor what VMs don't meet. */
static void foreign_chains(void **state)
{
	static const char chains[] =
		"table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy "
		"drop;\n"
		"\t}\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n"
		"table inet fcm {\n\tchain flt {\n\t\ttype filter hook forward priority 0; policy "
		"drop;\n\t}\n}\n"
		"table inet a {\n\tchain open {\n\t\ttype filter hook forward priority 0; policy "
		"accept;\n\t}\n"
		"\tchain plain {\n\t}\n"
		"\tchain shut {\n\t\ttype filter hook forward priority filter - 5; policy drop;\n\t}\n}\n"
		"table ip6 b {\n\tchain c {\n\t\ttype filter hook forward priority 0; policy drop;\n\t}\n}\n"
		"table ip b {\n\tchain c {\n\t\ttype filter hook forward priority 0; policy drop;\n\t}\n}\n";
	struct strv found = {0};

	(void)state;
	foreign_parse(chains, &found);
	assert_int_equal(found.n, 2);
	assert_string_equal(found.v[0], "inet a shut");
	assert_string_equal(found.v[1], "ip b c");
	strv_done(&found);
	foreign_parse("", &found);
	foreign_parse("table\nchain {\ntype filter hook forward ", &found);
	assert_int_equal(found.n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table),
		cmocka_unit_test(table_without_site_and_vms),
		cmocka_unit_test(elements),
		cmocka_unit_test(list_of_vms),
		cmocka_unit_test(pool_overlap),
		cmocka_unit_test(pool_message),
		cmocka_unit_test(pool_suggestions),
		cmocka_unit_test(resolvers),
		cmocka_unit_test(addresses),
		cmocka_unit_test(forwarding_file),
		cmocka_unit_test(forwarding_of_the_host),
		cmocka_unit_test(forwarding_that_was_missed),
		cmocka_unit_test(foreign_chains),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
