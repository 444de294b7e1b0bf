/* What of fcm-oci's pull is pure: challenges, URLs, addresses, manifests and configs. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/oci/manifest.h"
#include "daemon/oci/wire.h"

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define BLOB "\"digest\":\"sha256:" HEX64 "\",\"size\":5"
#define LAYER "{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\"," BLOB "}"

static void test_challenge(void **state)
{
	struct challenge c = challenge_parse("Bearer realm=\"https://a/t\\\"x\", service=reg ,scope=\"a,b\"");

	(void)state;
	assert_int_equal(c.kind, CHALLENGE_BEARER);
	assert_string_equal(c.realm, "https://a/t\"x");
	assert_string_equal(c.service, "reg");
	assert_int_equal(challenge_parse(" basic realm=\"x\"").kind, CHALLENGE_BASIC);
	assert_int_equal(
		challenge_parse("Digest realm=\"d\", nonce=\"n\", Basic realm=\"x\"").kind, CHALLENGE_BASIC);
	assert_int_equal(challenge_parse("Bearer service=\"x\"").kind, CHALLENGE_NONE);
	assert_int_equal(challenge_parse("Bearer realm=\"x").kind, CHALLENGE_NONE);
	assert_int_equal(challenge_parse("").kind, CHALLENGE_NONE);
	assert_int_equal(challenge_parse(",,,").kind, CHALLENGE_NONE);
	assert_int_equal(challenge_parse("=\"=").kind, CHALLENGE_NONE);
	char *lots = xalloc(3000);
	memset(lots, 'a', 2999);
	auto_free char *text = xprintf("Bearer realm=\"%s\"", lots);
	assert_int_equal(challenge_parse(text).kind, CHALLENGE_NONE);
	free(lots);
}

static void test_url(void **state)
{
	char host[32];

	(void)state;
	assert_true(url_host("HTTPS://Reg.Example:5000/v2/?x", host, sizeof host));
	assert_string_equal(host, "reg.example:5000");
	assert_true(url_host("http://a", host, sizeof host));
	assert_false(url_host("file:///etc/passwd", host, sizeof host));
	assert_false(url_host("https://user@a/", host, sizeof host));
	assert_false(url_host("https:///x", host, sizeof host));
	assert_false(url_host("https://a\\b/", host, sizeof host));
	assert_false(url_host("https://a-name-that-is-longer-than-the-room/", host, sizeof host));
}

static bool allowed(const char *ip)
{
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
	struct sockaddr_in in = {.sin_family = AF_INET};

	if (inet_pton(AF_INET, ip, &in.sin_addr) == 1)
		return address_allowed((struct sockaddr *)&in, "172.16.0.0/24");
	assert_int_equal(inet_pton(AF_INET6, ip, &in6.sin6_addr), 1);
	return address_allowed((struct sockaddr *)&in6, "172.16.0.0/24");
}

static void test_address(void **state)
{
	static const char *const good[] = {"1.1.1.1", "10.0.0.1", "172.16.1.0", "192.168.1.1", "2606:4700::1",
		"::ffff:1.1.1.1", "64:ff9b::1.1.1.1"};
	static const char *const bad[] = {"127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "169.254.169.254",
		"100.100.100.200", "168.63.129.16", "224.0.0.1", "255.255.255.255", "172.16.0.77", "::1",
		"::", "fe80::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
		"64:ff9b::127.0.0.1", "::127.0.0.1"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		if (!allowed(good[i]))
			fail_msg("%s is refused", good[i]);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (allowed(bad[i]))
			fail_msg("%s is allowed", bad[i]);
}

static int read_manifest(const char *text, struct descriptor *d, struct manifest *m, struct fcm_error *err)
{
	return manifest_parse(text, strlen(text), "linux/amd64", d, m, err);
}

static void test_manifest(void **state)
{
	static const char index[] =
		"{\"schemaVersion\":2,\"manifests\":["
		"{\"digest\":\"x\",\"platform\":{\"os\":\"linux\",\"architecture\":\"arm64\"}},"
		"{" BLOB ",\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"}}]}";
	static const struct {
		const char *text, *says;
	} bad[] = {
		{"{\"schemaVersion\":1}", "schema 2"},
		{"{\"schemaVersion\":2}", "config"},
		{"{\"schemaVersion\":2,\"manifests\":[]}", "linux/amd64"},
		{"{\"schemaVersion\":2,\"config\":{" BLOB "},\"layers\":[]}", "no layers"},
		{"{\"schemaVersion\":2,\"config\":{" BLOB "},\"layers\":[{" BLOB "}]}", "type"},
		{"{\"schemaVersion\":2,\"config\":{\"digest\":\"sha256:../x\",\"size\":1},\"layers\":[]}",
			"digest"},
		{"{\"schemaVersion\":2,\"config\":{\"digest\":\"sha256:" HEX64 "\",\"size\":-1}}", "size"},
		{"{\"schemaVersion\":2,\"config\":{\"digest\":\"sha256:" HEX64 "\",\"size\":99999999}}",
			"more than"},
	};
	static struct manifest m;
	struct fcm_error err;
	struct descriptor d;

	(void)state;
	assert_int_equal(read_manifest(index, &d, &m, &err), 1);
	assert_string_equal(d.digest, HEX64);
	assert_int_equal(d.size, 5);
	assert_int_equal(read_manifest("{\"schemaVersion\":2,\"config\":{" BLOB "},\"layers\":[" LAYER "]}",
				 &d, &m, &err),
		0);
	assert_int_equal(m.n, 1);
	assert_string_equal(m.layers[0].digest, HEX64);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(read_manifest(bad[i].text, &d, &m, &err), -1);
		if (strstr(err.msg, bad[i].says) == NULL)
			fail_msg("'%s' doesn't say '%s'", err.msg, bad[i].says);
	}
}

static void test_layers(void **state)
{
	static struct manifest m;
	struct descriptor d;
	struct fcm_error err;

	(void)state;
	for (int n = 128; n <= 129; n++) {
		_cleanup_(buf_done) struct buf b = {0};
		buf_str(&b, "{\"schemaVersion\":2,\"config\":{" BLOB "},\"layers\":[");
		for (int i = 0; i < n; i++)
			buf_printf(&b, "%s" LAYER, i ? "," : "");
		buf_str(&b, "]}");
		assert_int_equal(read_manifest(b.p, &d, &m, &err), n == 128 ? 0 : -1);
	}
	assert_int_equal(err.code, FCM_TOO_LARGE);
}

static void test_config(void **state)
{
	static const char good[] =
		"{\"os\":\"linux\",\"architecture\":\"amd64\",\"rootfs\":{\"diff_ids\":[\"sha256:" HEX64
		"\"]}}";
	static struct manifest m = {.n = 1};
	struct fcm_error err;

	(void)state;
	assert_int_equal(config_parse(good, strlen(good), "linux/amd64", &m, &err), 0);
	assert_string_equal(m.diff_ids[0], HEX64);
	assert_int_equal(config_parse(good, strlen(good), "linux/arm64", &m, &err), -1);
	m.n = 2;
	assert_int_equal(config_parse(good, strlen(good), "linux/amd64", &m, &err), -1);
	assert_int_equal(config_parse("{", 1, "linux/amd64", &m, &err), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_challenge),
		cmocka_unit_test(test_url),
		cmocka_unit_test(test_address),
		cmocka_unit_test(test_manifest),
		cmocka_unit_test(test_layers),
		cmocka_unit_test(test_config),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
