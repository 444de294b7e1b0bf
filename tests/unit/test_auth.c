/* Bearer tokens, and the brake that only those feel who fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <string.h>

#include "common/core/clock.h"
#include "daemon/http/auth.h"

static int64_t ends;

/* The store's, replaced. */
bool token_check(const char *secret, size_t n, struct token_info *ret)
{
	if (n != 4 || memcmp(secret, "good", 4) != 0)
		return false;
	*ret = (struct token_info){.name = "alice", .expires = ends};
	return true;
}

bool token_known(const char *id)
{
	return strcmp(id, "alice-id") == 0;
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

/* One that has ended is refused, and who goes on trying it is braked as others who fail. */
static void test_expired(void **state)
{
	static struct throttle t;
	struct token_info token = {.name = "before"};
	struct peer peer = peer4("192.0.2.9");

	(void)state;
	ends = clock_wall() + 1000;
	assert_int_equal(check(&t, &peer, "Bearer good", &token), FCM_OK);
	ends = clock_wall();
	token = (struct token_info){.name = "before"};
	for (int i = 0; i < THROTTLE_FAILURES; i++)
		assert_int_equal(check(&t, &peer, "Bearer good", &token), FCM_UNAUTHORIZED);
	assert_int_equal(check(&t, &peer, "Bearer good", &token), FCM_THROTTLED);
	assert_string_equal(token.name, "before");
	ends = 0;
}

static enum fcm_code still(const char *id, int64_t expires)
{
	struct token_info token = {.expires = expires};
	struct fcm_error err;

	fcm_copy(token.id, sizeof token.id, id);
	return auth_still(&token, &err) < 0 ? err.code : FCM_OK;
}

static void test_still(void **state)
{
	(void)state;
	assert_int_equal(still("alice-id", 0), FCM_OK);
	assert_int_equal(still("", 0), FCM_OK); /* the unix socket's */
	assert_int_equal(still("bob-id", 0), FCM_UNAUTHORIZED);
	assert_int_equal(still("alice-id", 1), FCM_UNAUTHORIZED);
}

static void test_permit(void **state)
{
	static const struct token_info full = {.scope = SCOPE_FULL}, read = {.scope = SCOPE_READ},
				       bound = {.scope = SCOPE_FULL, .vms = "team=red"},
				       bound_read = {.scope = SCOPE_READ, .vms = "team=red"};
	static const struct {
		enum need need;
		enum subject subject;
		bool full, read, bound, bound_read;
	} table[] = {
		{NEED_NONE, SUBJECT_HOST, true, true, true, true},
		{NEED_READ, SUBJECT_NONE, true, true, true, true},
		{NEED_READ, SUBJECT_VM, true, true, true, true},
		{NEED_READ, SUBJECT_HOST, true, true, false, false},
		{NEED_FULL, SUBJECT_NONE, true, false, true, false},
		{NEED_FULL, SUBJECT_VM, true, false, true, false},
		{NEED_FULL, SUBJECT_HOST, true, false, false, false},
	};
	struct fcm_error err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		const struct route r = {.need = table[i].need, .subject = table[i].subject};
		assert_int_equal(auth_permit(&r, &full, &err) == 0, table[i].full);
		assert_int_equal(auth_permit(&r, &read, &err) == 0, table[i].read);
		assert_int_equal(auth_permit(&r, &bound, &err) == 0, table[i].bound);
		assert_int_equal(auth_permit(&r, &bound_read, &err) == 0, table[i].bound_read);
	}
	assert_int_equal(err.code, FCM_FORBIDDEN);
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
		cmocka_unit_test(test_expired),
		cmocka_unit_test(test_still),
		cmocka_unit_test(test_permit),
		cmocka_unit_test(test_window),
		cmocka_unit_test(test_many_peers),
		cmocka_unit_test(test_peer),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
