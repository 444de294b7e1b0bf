#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/net/ipam.h"

enum { FIRST = 50, LAST = 254, COUNT = LAST - FIRST + 1 };

static struct ipam make(const char *pool, uint32_t first, uint32_t last)
{
	struct ipam ipam = {.first = first, .last = last};

	assert_true(ip_net_parse(pool, &ipam.pool));
	return ipam;
}

static struct in_addr host(const struct ipam *ipam, uint32_t n)
{
	return (struct in_addr){htonl(ntohl(ipam->pool.addr.s_addr) + n)};
}

static void first_is_lowest(void **state)
{
	struct ipam ipam = make("172.16.0.0/24", FIRST, LAST);
	struct fcm_error err;
	struct in_addr ip;

	(void)state;
	assert_int_equal(ipam_pick(&ipam, NULL, 0, &ip, &err), 0);
	assert_string_equal(ip_dotted(ip).s, "172.16.0.50");
}

static void fills_up_and_reuses(void **state)
{
	struct ipam ipam = make("172.16.0.0/24", FIRST, LAST);
	struct in_addr taken[COUNT], ip;
	struct fcm_error err;

	(void)state;
	for (size_t n = 0; n < COUNT; n++) {
		assert_int_equal(ipam_pick(&ipam, taken, n, &taken[n], &err), 0);
		assert_int_equal(taken[n].s_addr, host(&ipam, FIRST + (uint32_t)n).s_addr);
	}
	assert_int_equal(ipam_pick(&ipam, taken, COUNT, &ip, &err), -1);
	assert_int_equal(err.code, FCM_POOL_EXHAUSTED);
	assert_non_null(strstr(err.msg, "205"));
	assert_non_null(strstr(err.msg, "172.16.0.0/24"));

	taken[77] = taken[COUNT - 1]; /* .127 is free again */
	assert_int_equal(ipam_pick(&ipam, taken, COUNT - 1, &ip, &err), 0);
	assert_string_equal(ip_dotted(ip).s, "172.16.0.127");
}

static void strangers_and_doubles_dont_count(void **state)
{
	struct ipam ipam = make("10.1.0.0/16", 256, 258);
	struct in_addr taken[] = {
		host(&ipam, 256), host(&ipam, 256), host(&ipam, 255), host(&ipam, 259), {0}, {~0u}};
	struct fcm_error err;
	struct in_addr ip;

	(void)state;
	assert_int_equal(ipam_pick(&ipam, taken, ARRAY_SIZE(taken), &ip, &err), 0);
	assert_string_equal(ip_dotted(ip).s, "10.1.1.1");
}

static void empty_range_is_exhausted(void **state)
{
	struct ipam ipam = make("172.16.0.0/24", 10, 9);
	struct fcm_error err;
	struct in_addr ip;

	(void)state;
	assert_int_equal(ipam_pick(&ipam, NULL, 0, &ip, &err), -1);
	assert_int_equal(err.code, FCM_POOL_EXHAUSTED);
}

/* Whatever is taken in whatever order: the answer is in the range, free, and no lower one is. */
static void random_histories(void **state)
{
	struct ipam ipam = make("192.168.7.0/24", FIRST, LAST);
	struct in_addr taken[COUNT], ip;
	struct fcm_error err;
	size_t n = 0;

	(void)state;
	srand(1);
	for (int round = 0; round < 20000; round++) {
		if (n > 0 && rand() % 2) {
			taken[(size_t)rand() % n] = taken[n - 1];
			n--;
		}
		bool in_use[256] = {false};
		for (size_t i = 0; i < n; i++)
			in_use[ntohl(taken[i].s_addr) & 255] = true;
		uint32_t lowest = FIRST;
		while (lowest <= LAST && in_use[lowest])
			lowest++;
		if (ipam_pick(&ipam, taken, n, &ip, &err) < 0) {
			assert_int_equal(lowest, LAST + 1);
			continue;
		}
		assert_int_equal(ip.s_addr, host(&ipam, lowest).s_addr);
		size_t at = (size_t)rand() % (n + 1);
		taken[n] = taken[at];
		taken[at] = ip;
		n++;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first_is_lowest),
		cmocka_unit_test(fills_up_and_reuses),
		cmocka_unit_test(strangers_and_doubles_dont_count),
		cmocka_unit_test(empty_range_is_exhausted),
		cmocka_unit_test(random_histories),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
