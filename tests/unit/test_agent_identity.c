/* What makes a clone of a guest another machine: net, connections, machine id of fcm-agent, in a network namespace with a
 * TAP that is called eth0. Needs root. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "images/agent/identity.h"
#include "images/agent/sockets.h"

static struct fcm_error err;

/* ---- the request ---- */

#define HEX32 "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define ID32 "0123456789abcdef0123456789abcdef"
#define PARSE(text, ret) identity_parse(text, sizeof(text), ret, &err)

static void arguments(void **state)
{
	static const struct {
		const char *kv;
		size_t n;
		const char *field;
	} bad[] = {
#define BAD(kv, field) {kv, sizeof(kv), field}
		BAD("mac=52:54:00:12:34:56", "entropy"),
		BAD("entropy=", "entropy"),
		BAD("entropy=0011", "entropy"),
		BAD("entropy=" HEX32 "0", "entropy"),
		BAD("entropy=" HEX32 "0G", "entropy"),
		BAD("entropy=" HEX32 "\0mac=", "mac"),
		BAD("entropy=" HEX32 "\0mac=52:54:00:12:34", "mac"),
		BAD("entropy=" HEX32 "\0mac=52:54:00:12:34:56:78", "mac"),
		BAD("entropy=" HEX32 "\0mac=52-54-00-12-34-56", "mac"),
		BAD("entropy=" HEX32 "\0mac=53:54:00:12:34:56", "mac"), /* a group's */
		BAD("entropy=" HEX32 "\0mac=00:00:00:00:00:00", "mac"),
		BAD("entropy=" HEX32 "\0machine_id=0123", "machine_id"),
		BAD("entropy=" HEX32 "\0machine_id=" ID32 "00", "machine_id"),
		BAD("entropy=" HEX32 "\0machine_id=0123456789ABCDEF0123456789abcdef", "machine_id"),
	};
	struct identity id;
	char most[8 + 2 * IDENTITY_ENTROPY_MAX + 3] = "entropy=";

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(identity_parse(bad[i].kv, bad[i].n, &id, &err), -1);
		assert_string_equal(err.field, bad[i].field);
	}
	assert_int_equal(PARSE("entropy=" HEX32, &id), 0);
	assert_int_equal(id.entropy_bytes, 32);
	assert_int_equal(id.entropy[1], 0x11);
	assert_false(id.has_mac);
	assert_string_equal(id.machine_id, "");
	assert_int_equal(PARSE("entropy=" HEX32 "\0mac=02:fc:ac:10:00:33\0machine_id=" ID32, &id), 0);
	assert_memory_equal(id.mac, "\x02\xfc\xac\x10\x00\x33", 6);
	assert_string_equal(id.machine_id, ID32);
	memset(most + 8, 'a', sizeof most - 8 - 3);
	assert_int_equal(identity_parse(most, sizeof most, &id, &err), 0);
	assert_int_equal(id.entropy_bytes, IDENTITY_ENTROPY_MAX);
	memset(most + 8, 'a', sizeof most - 8 - 1);
	assert_int_equal(identity_parse(most, sizeof most, &id, &err), -1);
}

static void machine_ids(void **state)
{
	char dir[] = "/tmp/fcm-agent-test.XXXXXX", file[64], link[64];
	_cleanup_(buf_done) struct buf got = {0};
	struct stat st;

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)fcm_format(file, sizeof file, "%s/machine-id", dir);
	(void)fcm_format(link, sizeof link, "%s/link", dir);
	assert_int_equal(identity_write_id(file, ID32, &err), 0);
	assert_int_equal(access(file, F_OK), -1); /* the image has none */
	assert_int_equal(file_write_atomic(AT_FDCWD, file, 0444, "old\n", 4, &err), 0);
	assert_int_equal(symlink("machine-id", link), 0);
	assert_int_equal(identity_write_id(link, "x", &err), 0);
	assert_int_equal(identity_write_id(file, ID32, &err), 0);
	assert_int_equal(file_read(AT_FDCWD, file, 100, &got, &err), 0);
	assert_string_equal(got.p, ID32 "\n");
	assert_int_equal(lstat(file, &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0444);
	assert_int_equal(lstat(link, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(dir_remove(AT_FDCWD, dir, NULL, &err), 0);
}

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
	said("ip addr add fe80::fc:acff:fe10:32/64 dev eth0 nodad; ip addr add fe80::7/64 dev eth0 nodad");
	assert_int_equal(net_set_mac(mac, &err), 0);
	assert_string_equal(
		said("ip -6 -o addr show dev eth0 scope link | awk '{print $4}' | sort | tr '\\n' ' '"),
		"fe80::7/64 fe80::fc:acff:fe10:33/64");
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

/* ---- connections ---- */

static struct sockaddr_in in4(const char *address, unsigned port)
{
	return (struct sockaddr_in){.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = inet_addr(address)};
}

static int a_socket(int type)
{
	int fd = socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	return fd;
}

static int listener(void)
{
	const struct sockaddr_in any = in4("0.0.0.0", 80);
	int fd = a_socket(SOCK_STREAM);

	assert_int_equal(bind(fd, (const void *)&any, sizeof any), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

static int connected(int type, const char *address)
{
	const struct sockaddr_in to = in4(address, 80);
	int fd = a_socket(type);

	if (connect(fd, (const void *)&to, sizeof to) < 0)
		assert_int_equal(errno, EINPROGRESS);
	return fd;
}

static bool is_connected(int fd)
{
	struct sockaddr_in6 peer;
	struct tcp_info info;
	socklen_t n = sizeof peer, info_size = sizeof info, size = sizeof(int);
	int error;

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error)
		return false;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &info_size) == 0)
		return info.tcpi_state != TCP_CLOSE;
	return getpeername(fd, (void *)&peer, &n) == 0;
}

static int close_connections(void)
{
	int n = sockets_close(&err);

	if (n < 0 && strstr(err.msg, "this kernel can't")) {
		print_message("%s\n", err.msg);
		skip();
	}
	if (n < 0)
		fail_msg("%s", err.msg);
	return n;
}

static void loopback_addresses(void **state)
{
	static const struct {
		const char *text;
		bool loopback;
	} rows[] = {
		{"127.0.0.1", true},
		{"127.255.0.9", true},
		{"128.0.0.1", false},
		{"172.16.0.50", false},
		{"::1", true},
		{"::2", false},
		{"::ffff:127.0.0.1", true},
		{"::ffff:172.16.0.50", false},
		{"fe80::1", false},
		{"7f00::1", false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		int family = strchr(rows[i].text, ':') ? AF_INET6 : AF_INET;
		uint32_t a[4] = {0};
		assert_int_equal(inet_pton(family, rows[i].text, a), 1);
		assert_int_equal(sockets_is_loopback(family, a), rows[i].loopback);
	}
}

static void connections(void **state)
{
	struct guest_net have = {0};

	NEED_NET(state);
	net(&have, "172.16.0.50", "24", "172.16.0.1");
	int server = listener();
	int inside = connected(SOCK_STREAM, "127.0.0.1"),
	    accepted = accept4(server, NULL, NULL, SOCK_CLOEXEC);
	int local = connected(SOCK_DGRAM, "127.0.0.1");
	/* to itself: this one waits at the listener, and hears of the end by its other end */
	int own = connected(SOCK_STREAM, "172.16.0.50");
	int outside = connected(SOCK_STREAM, "172.16.0.9"), question = connected(SOCK_DGRAM, "172.16.0.9");
	const int all[] = {inside, accepted, local, own, outside, question, server};

	for (size_t i = 0; i < ARRAY_SIZE(all) - 1; i++)
		assert_true(is_connected(all[i]));
	assert_in_range(close_connections(), 3, 4);
	assert_true(is_connected(inside) && is_connected(accepted) && is_connected(local));
	assert_false(is_connected(own) || is_connected(outside) || is_connected(question));
	assert_int_equal(send(inside, "x", 1, 0), 1);
	int later = connected(SOCK_STREAM, "127.0.0.1");
	assert_true(is_connected(later)); /* the listener still does */
	assert_int_equal(close_connections(), 0);
	close(later);
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		close(all[i]);
}

static int connected6(int type, const char *address)
{
	struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons(80)};
	int fd = socket(AF_INET6, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_int_equal(inet_pton(AF_INET6, address, &to.sin6_addr), 1);
	if (connect(fd, (const void *)&to, sizeof to) < 0)
		assert_int_equal(errno, EINPROGRESS);
	return fd;
}

/* Those that have the same addresses. */
static void twins(void **state)
{
	enum { COUNT = 5 };
	const struct sockaddr_in from = in4("0.0.0.0", 4000), to = in4("172.16.0.9", 53);
	struct guest_net have = {0};
	const int on = 1;
	int fds[COUNT];

	NEED_NET(state);
	net(&have, "172.16.0.50", "24", "172.16.0.1");
	for (int i = 0; i < COUNT; i++) {
		fds[i] = a_socket(SOCK_DGRAM);
		assert_int_equal(setsockopt(fds[i], SOL_SOCKET, SO_REUSEPORT, &on, sizeof on), 0);
		assert_int_equal(bind(fds[i], (const void *)&from, sizeof from), 0);
	}
	for (int i = 0; i < COUNT - 1; i++)
		assert_int_equal(connect(fds[i], (const void *)&to, sizeof to), 0);
	assert_int_equal(close_connections(), COUNT - 1);
	for (int i = 0; i < COUNT; i++) {
		assert_false(is_connected(fds[i]));
		close(fds[i]);
	}
}

/* Of IPv6, and of IPv4 as a socket of IPv6 has it. */
static void connections6(void **state)
{
	struct guest_net have = {0};

	NEED_NET(state);
	net(&have, "172.16.0.50", "24", "172.16.0.1");
	said("ip addr add fd00::1/64 dev eth0 nodad");
	int server = listener();
	int inside = connected6(SOCK_STREAM, "::ffff:127.0.0.1"), local = connected6(SOCK_DGRAM, "::1");
	int one = connected6(SOCK_STREAM, "::ffff:172.16.0.9"), two = connected6(SOCK_STREAM, "fd00::9");
	int three = connected6(SOCK_DGRAM, "::ffff:172.16.0.9"), four = connected6(SOCK_DGRAM, "fd00::9");
	const int all[] = {inside, local, one, two, three, four, server};

	for (size_t i = 0; i < ARRAY_SIZE(all) - 1; i++)
		assert_true(is_connected(all[i]));
	assert_int_equal(close_connections(), 4);
	assert_true(is_connected(inside) && is_connected(local));
	assert_false(is_connected(one) || is_connected(two) || is_connected(three) || is_connected(four));
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		close(all[i]);
}

static void many_connections(void **state)
{
	enum { COUNT = 3000 };
	struct guest_net have = {0};
	int fds[COUNT];

	NEED_NET(state);
	if (getdtablesize() < COUNT + 100)
		skip();
	net(&have, "172.16.0.50", "24", "172.16.0.1");
	for (int i = 0; i < COUNT; i++)
		fds[i] = connected(i % 2 ? SOCK_DGRAM : SOCK_STREAM, "172.16.0.9");
	assert_int_equal(close_connections(), COUNT);
	for (int i = 0; i < COUNT; i++) {
		assert_false(is_connected(fds[i]));
		close(fds[i]);
	}
}

/* A connection whose other side isn't here, made without its help: tcp(7), TCP_REPAIR. */
static int repaired(void)
{
	enum {
		REPAIR = 19,
		REPAIR_OFF = -1
	}; /* linux/tcp.h, whose names collide with libc's: TCP_REPAIR_OFF_NO_WP */
	const struct sockaddr_in from = in4("172.16.0.50", 4000), to = in4("172.16.0.9", 80);
	int fd = a_socket(SOCK_STREAM), on = 1, off = REPAIR_OFF;

	if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof on) < 0)
		skip();
	assert_int_equal(bind(fd, (const void *)&from, sizeof from), 0);
	assert_int_equal(connect(fd, (const void *)&to, sizeof to), 0);
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof off), 0);
	return fd;
}

/* Packets of TCP that eth0 has sent. */
static int sent(void)
{
	unsigned char frame[2048];
	int n = 0;

	clock_sleep(50);
	while (read(tap, frame, sizeof frame) > 0)
		n += frame[12] == 8 && frame[13] == 0 && frame[14 + 9] == IPPROTO_TCP;
	return n;
}

/* The other side of a connection talks to the machine that we were: it mustn't hear a RST of ours. */
static void nothing_is_sent(void **state)
{
	struct guest_net have = {0};

	NEED_NET(state);
	for (int leave = 0; leave < 2; leave++) {
		net(&have, "172.16.0.50", "24", "172.16.0.1");
		said("ip neigh replace 172.16.0.9 lladdr 02:00:00:00:00:09 nud permanent dev eth0");
		int fd = repaired();
		assert_int_equal(sent(), 0);
		if (leave)
			assert_int_equal(net_leave(&have, &err), 0);
		assert_int_equal(close_connections(), 1);
		assert_false(is_connected(fd));
		assert_int_equal(sent(), !leave);
		close(fd);
	}
}

int main(void)
{
#define NET(f) cmocka_unit_test_setup_teardown(f, net_setup, net_teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(arguments),
		cmocka_unit_test(machine_ids),
		NET(an_address),
		NET(another_address),
		NET(more_addresses),
		NET(their_route),
		NET(a_mac),
		NET(no_eth0),
		cmocka_unit_test(loopback_addresses),
		NET(connections),
		NET(twins),
		NET(connections6),
		NET(many_connections),
		NET(nothing_is_sent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
