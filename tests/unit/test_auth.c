/* Bearer tokens, and the brake that only those feel who fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <string.h>

#include "daemon/http/auth.h"

/* The store's, replaced. */
bool token_check(const char *secret, size_t n, struct token_info *ret)
{
	if (n != 4 || memcmp(secret, "good", 4) != 0)
		return false;
	*ret = (struct token_info){.name = "alice"};
	return true;
}

static struct peer peer4(const char *text)
{
	struct sockaddr_in a = {.sin_family = AF_INET};

	inet_pton(AF_INET, text, &a.sin_addr);
	return peer_of((struct sockaddr *)&a);
}

static struct peer peer6(const char *text)
{
	struct sockaddr_in6 a = {.sin6_family = AF_INET6};

	inet_pton(AF_INET6, text, &a.sin6_addr);
	return peer_of((struct sockaddr *)&a);
}

static enum fcm_code check(
	struct throttle *t, const struct peer *peer, const char *field, struct token_info *ret)
{
	struct head head = {.fields = {{"Authorization", field}}, .n = field ? 1 : 0};
	struct fcm_error err = {0};

	return auth_check(&head, peer, t, ret, &err) < 0 ? err.code : FCM_OK;
}

static void test_bearer(void **state)
{
	static const char *const bad[] = {"", "Bearer", "Bearer ", "Bearergood", "Basic good", "good",
		"Bearer go od", "Bearer good,", "Bearer good\"", "Bearer ==", "Bearer go=od"};
	size_t n = 0;

	(void)state;
	assert_memory_equal(auth_bearer("Bearer fcm_a-B.c~d+e/f==", &n), "fcm_a-B.c~d+e/f==", 17);
	assert_int_equal(n, 17);
	assert_non_null(auth_bearer("bEARER  x", &n));
	assert_int_equal(n, 1);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (auth_bearer(bad[i], &n))
			fail_msg("'%s' is taken", bad[i]);
	char longest[7 + 257 + 1] = "Bearer ";
	memset(longest + 7, 'a', 257);
	assert_null(auth_bearer(longest, &n));
	longest[7 + 256] = 0;
	assert_non_null(auth_bearer(longest, &n));
}

static void test_only_failures_are_throttled(void **state)
{
	static struct throttle t;
	struct token_info token = {0};
	struct peer peer = peer4("192.0.2.1"), other = peer4("192.0.2.2");

	(void)state;
	for (int i = 0; i < 10 * THROTTLE_FAILURES; i++) {
		assert_int_equal(check(&t, &peer, NULL, &token), FCM_UNAUTHORIZED);
		assert_int_equal(check(&t, &peer, "Bearer good", &token), FCM_OK);
	}
	assert_string_equal(token.name, "alice");
	for (int i = 0; i < THROTTLE_FAILURES; i++)
		assert_int_equal(check(&t, &peer, "Bearer wrong", &token), FCM_UNAUTHORIZED);
	for (int i = 0; i < 100; i++)
		assert_int_equal(check(&t, &peer, "Bearer wrong", &token), FCM_THROTTLED);
	assert_int_equal(check(&t, &peer, "Bearer good", &token), FCM_OK);
	assert_int_equal(check(&t, &other, "Bearer wrong", &token), FCM_UNAUTHORIZED);
}

static void test_window(void **state)
{
	static struct throttle t;
	struct peer peer = peer4("192.0.2.1");

	(void)state;
	for (int i = 0; i < THROTTLE_FAILURES; i++)
		assert_false(throttle_failure(&t, &peer, 5000));
	assert_true(throttle_failure(&t, &peer, 5000 + THROTTLE_WINDOW_MS - 1));
	assert_false(throttle_failure(&t, &peer, 5000 + THROTTLE_WINDOW_MS));
}

/* The table is bounded: the one that wasn't seen for longest is forgotten, and nobody else. */
static void test_many_peers(void **state)
{
	static struct throttle t;
	struct peer first = peer4("198.51.100.1");

	(void)state;
	for (int i = 0; i <= THROTTLE_FAILURES; i++)
		(void)throttle_failure(&t, &first, 1000);
	for (int i = 1; i < THROTTLE_PEERS; i++) {
		struct peer p = peer4("192.0.2.0");
		p.address[3] = (uint8_t)i;
		assert_false(throttle_failure(&t, &p, 1000 + i));
	}
	assert_true(throttle_failure(&t, &first, 1000 + THROTTLE_PEERS));
	struct peer last = peer4("203.0.113.1"), second = peer4("192.0.2.1");
	assert_false(throttle_failure(&t, &last, 1000 + THROTTLE_PEERS + 1));
	for (unsigned i = 0; i < THROTTLE_PEERS; i++)
		assert_memory_not_equal(&t.slots[i].peer, &second, sizeof second);
	assert_true(throttle_failure(&t, &first, 1000 + THROTTLE_PEERS + 2));
}

static void test_peer(void **state)
{
	struct peer a = peer6("2001:db8:0:1::1"), b = peer6("2001:db8:0:1:ffff::2"),
		    c = peer6("2001:db8:0:2::1");

	(void)state;
	assert_memory_equal(&a, &b, sizeof a);
	assert_memory_not_equal(&a, &c, sizeof a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bearer),
		cmocka_unit_test(test_only_failures_are_throttled),
		cmocka_unit_test(test_window),
		cmocka_unit_test(test_many_peers),
		cmocka_unit_test(test_peer),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
