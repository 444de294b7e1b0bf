/* op=net of fcm-agent, in a network namespace with a TAP that is called eth0. Needs root. */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <cmocka.h>

#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "images/agent/net.h"

static struct fcm_error err;

/* ---- the network ---- */

static int tap = -1;

static bool make_eth0(void)
{
	struct ifreq r = {.ifr_name = "eth0", .ifr_flags = IFF_TAP | IFF_NO_PI};

	tap = unshare(CLONE_NEWNET) < 0 ? -1 : open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	return tap >= 0 && ioctl(tap, TUNSETIFF, &r) == 0;
}

/* Each test has a namespace of its own. */
static int net_setup(void **state)
{
	*state = make_eth0() ? &tap : NULL;
	return 0;
}

static int net_teardown(void **state)
{
	(void)state;
	fcm_closep(&tap);
	return 0;
}

#define NEED_NET(state)                                                                                      \
	if (*(state) == NULL)                                                                                \
	skip()

/* What a program prints, without the spaces at its end. */
static const char *said(const char *command)
{
	static char text[4096];
	FILE *f = popen(command, "re");

	assert_non_null(f);
	size_t n = fread(text, 1, sizeof text - 1, f);
	pclose(f);
	while (n > 0 && strchr(" \n", text[n - 1]))
		n--;
	text[n] = '\0';
	return text;
}

#define ADDRESSES "ip -4 -o addr show dev eth0 | awk '{print $4}' | tr '\\n' ' '"
#define ROUTES "ip -4 route show dev eth0 | tr '\\n' ';' | tr -s ' '"

static void net(struct guest_net *have, const char *address, const char *prefix, const char *gateway)
{
	_cleanup_(buf_done) struct buf rq = {0};
	struct guest_net want;

	kv_add(&rq, "address", address);
	kv_add(&rq, "prefix", prefix);
	if (gateway)
		kv_add(&rq, "gateway", gateway);
	if (net_parse(rq.p, rq.n, &want, &err) < 0 || net_apply(have, &want, &err) < 0)
		fail_msg("%s", err.msg);
}

static void an_address(void **state)
{
	struct guest_net have = {0};

	NEED_NET(state);
	net(&have, "172.16.0.50", "24", "172.16.0.1");
	for (int i = 0; i < 2; i++) { /* again changes nothing */
		assert_string_equal(said(ADDRESSES), "172.16.0.50/24");
		assert_string_equal(said(ROUTES), "default via 172.16.0.1 src 172.16.0.50 ;"
						  "172.16.0.0/24 proto kernel scope link src 172.16.0.50 ;");
		assert_string_equal(said("ip -4 -o addr show dev lo | awk '{print $4}'"), "127.0.0.1/8");
		assert_non_null(strstr(said("ip addr show dev eth0"), "brd 172.16.0.255"));
		net(&have, "172.16.0.50", "24", "172.16.0.1");
	}
}

static void another_address(void **state)
{
	struct guest_net have = {0};

	NEED_NET(state);
	net(&have, "172.16.0.50", "24", "172.16.0.1");
	said("ip addr add 192.0.2.1/32 dev eth0"); /* the last to go would take all with it, as the kernel has it */
	said("ip neigh add 172.16.0.1 lladdr 02:00:00:00:00:01 nud reachable dev eth0");
	said("ip neigh add 172.16.0.9 lladdr 02:00:00:00:00:09 nud permanent dev eth0");
	net(&have, "172.16.0.51", "24", "172.16.0.1");
	assert_string_equal(said(ADDRESSES), "192.0.2.1/32 172.16.0.51/24");
	assert_string_equal(said("ip route show default"), "default via 172.16.0.1 dev eth0 src 172.16.0.51");
	assert_string_equal(said("ip neigh show dev eth0 | cut -d' ' -f1"), "172.16.0.9");
	said("ip addr del 192.0.2.1/32 dev eth0");
	net(&have, "10.1.2.3", "16", "10.1.0.1");
	assert_string_equal(said(ADDRESSES), "10.1.2.3/16");
	assert_string_equal(said("ip route show default"), "default via 10.1.0.1 dev eth0 src 10.1.2.3");
	net(&have, "10.1.2.3", "16", NULL);
	assert_string_equal(said("ip route show default"), "");
	assert_int_equal(net_leave(&have, &err), 0);
	assert_string_equal(said(ADDRESSES), "");
	assert_int_equal(have.address.s_addr, 0);
	assert_int_equal(net_leave(&have, &err), 0);
	net(&have, "10.1.2.4", "16", "10.1.0.1");
	assert_string_equal(said(ADDRESSES), "10.1.2.4/16");
}

/* Those of the guest's user stay, and ours stands before those of its subnet, also where the kernel would promote one of them. */
static void more_addresses(void **state)
{
	static const char *const promote[] = {"0", "1"};

	NEED_NET(state);
	for (size_t i = 0; i < ARRAY_SIZE(promote); i++) {
		struct guest_net have = {0};
		assert_int_equal(
			file_poke("/proc/sys/net/ipv4/conf/all/promote_secondaries", promote[i], &err), 0);
		net(&have, "172.16.0.50", "24", "172.16.0.1");
		said("ip addr add 172.16.0.60/24 dev eth0; ip addr add 172.16.0.61/24 dev eth0 label eth0:x;"
		     "ip addr add 192.168.7.7/24 dev eth0; ip route add 192.0.2.0/24 via 192.168.7.1");
		net(&have, "172.16.0.51", "24", "172.16.0.1");
		assert_string_equal(
			said("ip -4 -o addr show dev eth0 primary | awk '{print $4}' | sort | tr '\\n' ' '"),
			"172.16.0.51/24 192.168.7.7/24");
		assert_string_equal(
			said("ip -4 -o addr show dev eth0 secondary | awk '{print $4,$NF}' | tr '\\n' ' '"),
			"172.16.0.60/24 forever 172.16.0.61/24 forever");
		assert_string_equal(
			said("ip -4 -o addr show label eth0:x | awk '{print $4}'"), "172.16.0.61/24");
		assert_string_equal(said("ip route get 198.51.100.1 | sed 's/.*src \\([^ ]*\\).*/\\1/;q'"),
			"172.16.0.51");
		assert_string_equal(said("ip route show 192.0.2.0/24 | tr -s ' '"),
			"192.0.2.0/24 via 192.168.7.1 dev eth0");
		assert_int_equal(net_leave(&have, &err), 0);
		assert_string_equal(
			said("ip -4 -o addr show dev eth0 | awk '{print $4}' | sort | tr '\\n' ' '"),
			"172.16.0.60/24 172.16.0.61/24 192.168.7.7/24");
		assert_string_equal(said("ip route show default"), "");
		net(&have, "172.16.0.52", "24", "172.16.0.1");
		assert_string_equal(
			said("ip -4 -o addr show dev eth0 primary | awk '{print $4}' | sort | tr '\\n' ' '"),
			"172.16.0.52/24 192.168.7.7/24");
		assert_int_equal(net_leave(&have, &err), 0);
		said("ip addr flush dev eth0");
	}
}

/* A default route that the guest's user has put in the place of ours is theirs. */
static void their_route(void **state)
{
	struct guest_net have = {0};

	NEED_NET(state);
	net(&have, "172.16.0.50", "24", "172.16.0.1");
	said("ip route replace default via 172.16.0.77");
	net(&have, "172.16.0.50", "24", "172.16.0.1");
	assert_string_equal(said("ip route show default"), "default via 172.16.0.77 dev eth0");
}

static void a_mac(void **state)
{
	static const uint8_t mac[NET_MAC_BYTES] = {2, 0xfc, 0xac, 0x10, 0, 0x33};
	struct guest_net have = {0};

	NEED_NET(state);
	net(&have, "172.16.0.50", "24", "172.16.0.1");
	assert_int_equal(net_set_mac(mac, &err), 0);
	assert_string_equal(
		said("ip -o link show eth0 | sed 's/.*ether \\([^ ]*\\).*/\\1/'"), "02:fc:ac:10:00:33");
	assert_non_null(strstr(said("ip -o link show eth0"), ",UP"));
	assert_string_equal(said(ADDRESSES), "172.16.0.50/24");
	assert_string_equal(said("ip route show default"), "default via 172.16.0.1 dev eth0 src 172.16.0.50");
}

static void no_eth0(void **state)
{
	struct guest_net have = {0}, want = {0};

	NEED_NET(state);
	fcm_closep(&tap);
	assert_int_equal(net_apply(&have, &want, &err), -1);
	assert_string_equal(err.msg, "interface eth0: No such device");
}

int main(void)
{
#define NET(f) cmocka_unit_test_setup_teardown(f, net_setup, net_teardown)
	const struct CMUnitTest tests[] = {
		NET(an_address),
		NET(another_address),
		NET(more_addresses),
		NET(their_route),
		NET(a_mac),
		NET(no_eth0),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
