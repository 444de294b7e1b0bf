/* Field tables: what is taken, what is refused and with which words, and that encoding and decoding are one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <string.h>

#include "common/field.h"
#include "common/model.h"

enum mode_of { MODE_SLOW, MODE_FAST };
static const char *const modes[] = {"slow", "fast", NULL};

struct net {
	char bridge[16];
	uint32_t mtu;
};

struct all {
	bool on;
	uint32_t n, mem;
	int64_t big, when;
	char *text;
	char name[8];
	enum mode_of mode;
	struct in_addr ip;
	struct strv list, map, keys;
	uint32_t signal, seconds;
	struct net net;
	char id[9];
	char secret[16];
};

static const struct field net_fields[] = {
	F(struct net, bridge, FIELD_CHARS),
	F(struct net, mtu, FIELD_U32, .min = 68, .max = 9000),
	FIELD_END,
};

static int no_spaces(const void *value, const char *key, struct fcm_error *err)
{
	return strchr(value, ' ') ? fcm_fail_field(err, FCM_INVALID, key, "%s: has a space", key) : 0;
}

static const struct field all_fields[] = {
	F(struct all, on, FIELD_BOOL),
	F(struct all, n, FIELD_U32, .min = 1, .max = 32),
	F(struct all, mem, FIELD_MIB, .min = 64, .max = 1 << 20),
	F(struct all, big, FIELD_I64),
	F(struct all, when, FIELD_TIME),
	F(struct all, text, FIELD_STR, .max = 64),
	F(struct all, name, FIELD_CHARS, .check = no_spaces),
	F(struct all, mode, FIELD_ENUM, .names = modes),
	F(struct all, ip, FIELD_IPV4),
	F(struct all, list, FIELD_STRV, .max = 3),
	F(struct all, map, FIELD_MAP, .max = 3, .flags = FIELD_SECRET),
	F(struct all, keys, FIELD_KEYS, .max = 2, .flags = FIELD_OMIT_EMPTY),
	F(struct all, signal, FIELD_SIGNAL, .min = 1, .max = 64, .flags = FIELD_OMIT_EMPTY),
	F(struct all, seconds, FIELD_U32, .max = 3600, .flags = FIELD_SPAN | FIELD_OMIT_EMPTY),
	F(struct all, net, FIELD_OBJECT, .sub = net_fields, .flags = FIELD_NULL_EMPTY),
	F(struct all, id, FIELD_CHARS, .flags = FIELD_READONLY | FIELD_OMIT_EMPTY),
	F(struct all, secret, FIELD_CHARS, .flags = FIELD_SECRET),
	FIELD_END,
};

static int decode(const char *json, enum field_mode mode, struct all *ret, struct fcm_error *err)
{
	*ret = (struct all){0};
	*err = (struct fcm_error){0};
	return field_decode(all_fields, json, strlen(json), mode, ret, err);
}

/* Refused, with this message, naming this field. */
static void refuse(const char *json, enum fcm_code code, const char *field, const char *msg)
{
	struct fcm_error err;
	struct all a;

	if (decode(json, FIELD_WIRE, &a, &err) == 0)
		fail_msg("%s was taken", json);
	field_done(all_fields, &a);
	if (err.code != code || strcmp(err.field, field) != 0 || strstr(err.msg, msg) == NULL)
		fail_msg("%s: %s, field '%s', code %d", json, err.msg, err.field, err.code);
}

static void test_takes(void **state)
{
	struct fcm_error err;
	struct all a;

	(void)state;
	assert_int_equal(
		decode("{\"on\":true,\"n\":32,\"mem\":\"2g\",\"big\":-9223372036854775808,"
		       "\"when\":\"2026-11-25T16:48:13Z\",\"text\":\"a\\tb\\u00e9\",\"name\":\"seven77\","
		       "\"mode\":\"fast\",\"ip\":\"172.16.0.50\",\"list\":[\"a\",\"\"],"
		       "\"map\":{\"K\":\"v=w\",\"L\":\"\"},\"net\":{\"mtu\":1500},"
		       "\"keys\":{\"80/tcp\":{},\"/v\":null},\"signal\":\"SIGRTMIN+3\"}",
			FIELD_WIRE, &a, &err),
		0);
	assert_true(a.on && a.n == 32 && a.mem == 2048 && a.big == INT64_MIN && a.mode == MODE_FAST);
	assert_int_equal(a.when, 1795625293);
	assert_string_equal(a.text, "a\tb\xc3\xa9");
	assert_string_equal(a.name, "seven77");
	assert_string_equal(ip_dotted(a.ip).s, "172.16.0.50");
	assert_int_equal(a.list.n, 2);
	assert_string_equal(a.map.v[0], "K=v=w");
	assert_string_equal(a.map.v[1], "L=");
	assert_int_equal(a.net.mtu, 1500);
	assert_int_equal(a.keys.n, 2);
	assert_string_equal(a.keys.v[0], "80/tcp");
	assert_int_equal(a.signal, 37);
	field_done(all_fields, &a);
	assert_true(a.text == NULL && a.list.v == NULL && a.n == 0 && a.net.mtu == 0);
}

static void test_null_and_empty(void **state)
{
	struct fcm_error err;
	struct all a = {.n = 7};

	(void)state;
	assert_int_equal(field_decode(all_fields, "", 0, FIELD_WIRE, &a, &err), 0);
	assert_int_equal(
		field_decode(all_fields, "{\"n\":null,\"net\":null,\"list\":null}", 33, FIELD_WIRE, &a, &err),
		0);
	assert_int_equal(a.n, 7);
	assert_int_equal(decode("{\"list\":[\"a\"]}", FIELD_WIRE, &a, &err), 0);
	assert_int_equal(field_decode(all_fields, "{\"list\":[\"b\"]}", 14, FIELD_WIRE, &a, &err), 0);
	assert_int_equal(a.list.n, 1); /* replaced, not added to */
	assert_string_equal(a.list.v[0], "b");
	field_done(all_fields, &a);
}

static void test_numbers(void **state)
{
	static const char *const bad[] = {"0", "33", "-1", "2147483648", "4294967297", "9223372036854775807"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		auto_free char *json = xprintf("{\"n\":%s}", bad[i]),
			       *msg = xprintf("n: %s is outside 1..32", bad[i]);
		refuse(json, FCM_INVALID, "n", msg);
	}
	refuse("{\"n\":1.0}", FCM_INVALID, "n", "n: must be a whole number");
	refuse("{\"n\":1e99}", FCM_INVALID, "n", "n: must be a whole number");
	refuse("{\"n\":\"1\"}", FCM_INVALID, "n", "n: must be a whole number");
	refuse("{\"n\":true}", FCM_INVALID, "n", "n: must be a whole number");
	refuse("{\"on\":true,\"n\":99999999999999999999}", FCM_INVALID, "n", "n: the number is too large");
	refuse("{\"n\":1e999}", FCM_INVALID, "n", "n: the number is too large");
	refuse("{\"n\":NaN}", FCM_BAD_JSON, "n", "n: bad JSON at line 1, column ");
	refuse("{\"n\":Infinity}", FCM_BAD_JSON, "n", "bad JSON");
	refuse("{\"n\":0x10}", FCM_BAD_JSON, "n", "bad JSON");
	refuse("{\"n\":01}", FCM_BAD_JSON, "n", "bad JSON");
	refuse("{\"mem\":\"1k\"}", FCM_INVALID, "mem", "mem: '1k' is not a whole number of MiB");
	refuse("{\"mem\":\"2x\"}", FCM_INVALID, "mem", "mem: '2x' is not a size");
	refuse("{\"mem\":63}", FCM_INVALID, "mem", "mem: 63 is outside 64..1048576 MiB");
	refuse("{\"mem\":\"99999999999t\"}", FCM_INVALID, "mem", "mem: ");
	refuse("{\"net\":{\"mtu\":1}}", FCM_INVALID, "net.mtu", "net.mtu: 1 is outside 68..9000");
}

static void test_types(void **state)
{
	(void)state;
	refuse("{\"on\":1}", FCM_INVALID, "on", "on: must be true or false");
	refuse("{\"text\":1}", FCM_INVALID, "text", "text: must be a text");
	refuse("{\"list\":\"a\"}", FCM_INVALID, "list", "list: must be a list of texts");
	refuse("{\"list\":[1]}", FCM_INVALID, "list", "list: must be a list of texts");
	refuse("{\"list\":[null]}", FCM_INVALID, "list", "list: must be a list of texts");
	refuse("{\"map\":[]}", FCM_INVALID, "map", "map: must be an object of texts");
	refuse("{\"map\":{\"a\":{}}}", FCM_INVALID, "map", "map: must be an object of texts");
	refuse("{\"net\":[]}", FCM_INVALID, "net", "net: must be an object");
	refuse("{\"ip\":\"1.2.3\"}", FCM_INVALID, "ip", "ip: '1.2.3' is not an IPv4 address");
	refuse("{\"when\":\"today\"}", FCM_INVALID, "when", "when: 'today' is not a time");
	refuse("{\"mode\":\"fsat\"}", FCM_INVALID, "mode", "mode: 'fsat' is not one of slow, fast");
	refuse("{\"name\":\"12345678\"}", FCM_INVALID, "name", "name: longer than 7 bytes");
	refuse("{\"name\":\"a b\"}", FCM_INVALID, "name", "name: has a space");
	refuse("{\"list\":[\"\",\"\",\"\",\"\"]}", FCM_INVALID, "list", "list: more than 3 entries");
	refuse("{\"map\":{\"a\":\"\",\"b\":\"\",\"c\":\"\",\"d\":\"\"}}", FCM_INVALID, "map",
		"map: more than 3 entries");
	refuse("{\"map\":{\"a=b\":\"\"}}", FCM_INVALID, "map", "map: the name 'a=b' holds a '='");
	refuse("{\"map\":{\"\":\"x\"}}", FCM_INVALID, "map", "map: '=x' is not NAME=VALUE");
	refuse("{\"keys\":[\"a\"]}", FCM_INVALID, "keys", "keys: must be an object");
	refuse("{\"keys\":{\"a\":1,\"b\":1,\"c\":1}}", FCM_INVALID, "keys", "keys: more than 2 entries");
	refuse("{\"signal\":65}", FCM_INVALID, "signal", "signal: 65 is outside 1..64");
	refuse("{\"signal\":\"nope\"}", FCM_INVALID, "signal", "signal: 'nope' is not a signal");
	refuse("{\"seconds\":\"5m\"}", FCM_INVALID, "seconds", "seconds: must be a whole number");
	refuse("{\"id\":\"abcdefgh\"}", FCM_INVALID, "id", "id: can't be set");
	refuse("[]", FCM_BAD_JSON, "", "an object is expected");
}

static void test_unknown(void **state)
{
	struct fcm_error err;
	struct all a;

	(void)state;
	refuse("{\"net\":{\"brigde\":\"\"}}", FCM_UNKNOWN_FIELD, "net.brigde", "net.brigde: unknown field");
	assert_int_equal(decode("{\"net\":{\"brigde\":\"\"}}", FIELD_WIRE, &a, &err), -1);
	assert_string_equal(err.hint, "did you mean bridge?");
	assert_int_equal(decode("{\"zzzzzz\":1}", FIELD_WIRE, &a, &err), -1);
	assert_string_equal(err.hint, fcm_code_info(FCM_UNKNOWN_FIELD)->hint);
	assert_int_equal(
		decode("{\"zzzzzz\":1,\"id\":\"x\",\"net\":{\"brigde\":1}}", FIELD_DISK, &a, &err), 0);
	assert_string_equal(a.id, "x");
	assert_int_equal(decode("{\"a\\n\\u001b[31m\xe2\x80\xae\":1}", FIELD_WIRE, &a, &err), -1);
	assert_string_equal(err.msg, "a??[31m?: unknown field");
	auto_free char *json = xprintf("{\"%0100000d\":1}", 0);
	assert_int_equal(decode(json, FIELD_WIRE, &a, &err), -1);
	assert_true(strlen(err.msg) < 80);
}

static void test_near(void **state)
{
	(void)state;
	assert_string_equal(field_near(vm_create_fields, "cpu"), "cpus");
	assert_string_equal(field_near(vm_create_fields, "memroy"), "memory");
	assert_string_equal(field_near(vm_create_fields, "ssh-keys"), "ssh_keys");
	assert_null(field_near(vm_create_fields, "x"));
	assert_null(field_near(vm_create_fields, ""));
	assert_null(field_near(vm_create_fields, "a very long word that nobody could ever have meant"));
}

static void test_bad_json(void **state)
{
	static const char *const bad[] = {"{", "}", "{\"n\"", "{\"n\":}", "{\"n\":1,}", "{'n':1}", "{n:1}",
		"\"", "nul", " ", "{\"n\":1}x", "{\"n\":1}{}", "\xef\xbb\xbf{}", "{\"text\":\"\x01\"}",
		"{\"text\":\"\xff\"}", "{\"text\":\"\xc0\xaf\"}", "{\"text\":\"\\ud800\"}",
		"{\"text\":\"\\u0000\"}", "{\"\\u0000\":1}", "{\"n\":1,\"n\":2}", "{\"text\":\"\\x\"}",
		"{\"text\":\"\n\"}", "/**/{}"};
	struct fcm_error err;
	struct all a;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		if (decode(bad[i], FIELD_WIRE, &a, &err) == 0 || err.code != FCM_BAD_JSON)
			fail_msg("%s: %s", bad[i], err.msg);
		assert_true(strstr(err.msg, "bad JSON at line ") || strstr(err.msg, "an object"));
		field_done(all_fields, &a);
	}
	a = (struct all){0};
	assert_int_equal(field_decode(all_fields, "{}\0", 3, FIELD_WIRE, &a, &err), -1);
	assert_int_equal(decode("{\n\"on\": true,\n  \"n\": ?}", FIELD_WIRE, &a, &err), -1);
	assert_non_null(strstr(err.msg, "line 3, column "));
}

static void test_depth(void **state)
{
	struct fcm_error err;
	char json[100001];

	(void)state;
	memset(json, '[', sizeof json - 1);
	json[sizeof json - 1] = '\0';
	assert_null(fj_parse(json, sizeof json - 1, &err));
	assert_string_equal(err.msg, "bad JSON: nested deeper than 32");
	memset(json + 32, ']', 32);
	field_json *v = fj_parse(json, 64, &err);
	assert_non_null(v);
	fj_free(v);
	assert_null(fj_parse(json, 33, &err));
	/* brackets in a string are none */
	static const char quoted[] = "[\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[[\"]";
	assert_non_null(v = fj_parse(quoted, sizeof quoted - 1, &err));
	fj_free(v);
}

static void test_required(void **state)
{
	struct fcm_error err = {0};
	struct expose_request e = {0};

	(void)state;
	assert_int_equal(field_decode(expose_request_fields, "{}", 2, FIELD_WIRE, &e, &err), -1);
	assert_string_equal(err.msg, "port: is missing");
	assert_int_equal(
		field_decode(expose_request_fields, "{\"port\":null}", 13, FIELD_WIRE, &e, &err), -1);
}

static void test_encode(void **state)
{
	struct all a = {.n = 3, .name = "x", .secret = "tell"};
	field_json *v;

	(void)state;
	strv_add(&a.map, "A=geheim");
	v = field_encode(all_fields, &a, false);
	auto_free char *hidden = fj_print(v, false);
	assert_string_equal(hidden,
		"{\"on\":false,\"n\":3,\"mem\":0,\"big\":0,\"when\":null,\"text\":\"\",\"name\":\"x\","
		"\"mode\":\"slow\","
		"\"ip\":null,\"list\":[],\"map\":{\"A\":\"***\"},\"net\":null,\"secret\":\"***\"}");
	fj_free(v);
	v = field_encode(all_fields, &a, true);
	assert_string_equal(fj_get_str(fj_get(v, "map"), "A"), "geheim");
	assert_string_equal(fj_get_str(v, "secret"), "tell");
	fj_free(v);
	field_done(all_fields, &a);
}

static void test_guest_text(void **state)
{
	struct fcm_error err;
	field_json *v = fj_object();

	(void)state;
	fj_set_str(v, "s", "a\x1b[31m\xff\xe2\x80\xae\"\\\n");
	fj_set_str(v, "none", NULL);
	auto_free char *text = fj_print(v, false);
	assert_string_equal(text, "{\"s\":\"a?[31m??\\\"\\\\\\n\",\"none\":null}");
	fj_free(v);
	assert_non_null(v = fj_parse(text, strlen(text), &err));
	fj_free(v);
	struct all a = {.name = "\xff\x1b"}; /* a struct holds what isn't UTF-8: JSON stays valid */
	v = field_encode(all_fields, &a, true);
	assert_string_equal(fj_get_str(v, "name"), "??");
	fj_free(v);
}

static void test_values_by_hand(void **state)
{
	struct fcm_error err;
	field_json *v = fj_parse("{\"a\":1,\"b\":\"x\",\"c\":[true,2],\"d\":{}}", 35, &err);

	(void)state;
	assert_non_null(v);
	assert_int_equal(fj_get_int(v, "a", 9), 1);
	assert_int_equal(fj_get_int(v, "b", 9), 9);
	assert_int_equal(fj_get_int(NULL, "b", 9), 9);
	assert_string_equal(fj_get_str(v, "a"), "");
	assert_string_equal(fj_get_str(v, "b"), "x");
	assert_int_equal(fj_len(fj_get(v, "c")), 2);
	assert_int_equal(fj_len(v), 0);
	assert_true(fj_is_int(fj_at(fj_get(v, "c"), 1)));
	assert_null(fj_at(fj_get(v, "c"), 2));
	assert_false(fj_get_bool(v, "a"));
	assert_true(fj_is_object(fj_get(v, "d")));
	char keys[8] = "";
	for (const char *k = NULL; (k = fj_next_key(v, k));)
		strcat(keys, k);
	assert_string_equal(keys, "abcd");
	fj_free(v);
	fj_free(NULL);
}

static void test_text(void **state)
{
	struct fcm_error err = {0};
	struct all a = {0};
	void *in;

	(void)state;
#define SET(key, text) assert_int_equal(field_set_text(all_fields, &a, key, text, &err), 0)
#define GET(key, text)                                                                                       \
	do {                                                                                                 \
		auto_free char *got = field_get_text(all_fields, &a, key);                                   \
		assert_string_equal(got, text);                                                              \
	} while (0)
	SET("on", "Yes");
	SET("mem", "1.5g");
	SET("mode", "fast");
	SET("net.mtu", "1400");
	SET("ip", "10.0.0.1");
	SET("list", "a");
	SET("list", "b");
	SET("map", "K=1");
	SET("map", "K=2");
	SET("secret", "s");
	SET("text", "x");
	SET("text", "y");
	SET("when", "2026-11-25T16:48:13Z");
	SET("signal", "hup");
	SET("seconds", "1m30s");
	SET("keys", "k");
	GET("on", "yes");
	GET("mem", "1536");
	GET("mode", "fast");
	GET("net.mtu", "1400");
	GET("list", "a, b");
	GET("map", "***");
	GET("secret", "***");
	GET("text", "y");
	GET("when", "2026-11-25T16:48:13Z");
	GET("signal", "1");
	GET("seconds", "90");
	GET("keys", "k");
	GET("nothing", "");
	GET("net", "");
	SET("ip", "");
	GET("ip", "");
	assert_int_equal(a.map.n, 1);
	static const char *const bad[][2] = {{"on", "maybe"}, {"n", "1x"}, {"n", ""}, {"n", "33"},
		{"mem", "-1"}, {"ip", "x"}, {"name", "a b"}, {"map", "K"}, {"signal", "0"}, {"seconds", "2h"},
		{"seconds", "m"}, {"net", "x"}, {"net.brigde", "x"}, {"net.", "x"}, {"", "x"}, {"netx", "x"}};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(field_set_text(all_fields, &a, bad[i][0], bad[i][1], &err), -1);
	assert_ptr_equal(field_find(all_fields, &a, "net.mtu", &in), &net_fields[1]);
	assert_ptr_equal(in, &a.net);
	field_done(all_fields, &a);
}

/* Random structs: what is encoded decodes to the same text again. */
static uint32_t rnd;

static uint32_t next(uint32_t below)
{
	rnd = rnd * 1664525 + 1013904223; /* Numerical Recipes, section 7.1 */
	return (rnd >> 8) % below;
}

static char *random_text(size_t max)
{
	static const char *const pieces[] = {"a", "=", " ", "\t", "\n", "\x1b", "\x7f", "\"", "\\",
		"\xc3\xa9", "\xe2\x80\xae", "\xf0\x9f\x98\x80", "Z", "0", "/"};
	struct buf b = {0};

	buf_str(&b, "x");
	for (uint32_t i = next(8); i > 0 && b.n + 4 < max; i--)
		buf_str(&b, pieces[next(ARRAY_SIZE(pieces))]);
	return b.p;
}

static void fill(struct all *a)
{
	*a = (struct all){.on = next(2),
		.n = 1 + next(32),
		.mem = 64 + next(1000000),
		.big = (int64_t)next(1 << 24) << next(39),
		.when = next(1 << 24),
		.mode = next(2),
		.ip.s_addr = next(1 << 24)};
	a->text = random_text(64);
	for (uint32_t i = next(4); i > 0; i--) {
		auto_free char *s = random_text(30);
		strv_add(&a->list, s);
		strv_addf(&a->map, "K%u=%s", i, s);
	}
	a->signal = next(65);
	if (next(2))
		strv_add(&a->keys, "k");
	strcpy(a->net.bridge, next(2) ? "br0" : "");
	a->net.mtu = a->net.bridge[0] ? 68 + next(1000) : 0;
}

static void test_identity(void **state)
{
	(void)state;
	for (rnd = 1; rnd < 3000000000u; rnd += 3000000) {
		uint32_t seed = rnd;
		struct fcm_error err;
		struct all a, b = {0};
		fill(&a);
		field_json *va = field_encode(all_fields, &a, true);
		auto_free char *first = fj_print(va, next(2));
		if (field_decode(all_fields, first, strlen(first), FIELD_DISK, &b, &err) < 0)
			fail_msg("seed %u: %s", seed, err.msg);
		field_json *vb = field_encode(all_fields, &b, true);
		auto_free char *one = fj_print(va, false), *two = fj_print(vb, false);
		assert_string_equal(one, two);
		assert_string_equal(a.text, b.text);
		fj_free(va);
		fj_free(vb);
		field_done(all_fields, &a);
		field_done(all_fields, &b);
		rnd = seed;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_takes),
		cmocka_unit_test(test_null_and_empty),
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_types),
		cmocka_unit_test(test_unknown),
		cmocka_unit_test(test_near),
		cmocka_unit_test(test_bad_json),
		cmocka_unit_test(test_depth),
		cmocka_unit_test(test_required),
		cmocka_unit_test(test_encode),
		cmocka_unit_test(test_guest_text),
		cmocka_unit_test(test_values_by_hand),
		cmocka_unit_test(test_text),
		cmocka_unit_test(test_identity),
	};
	return cmocka_run_group_tests_name("field", tests, NULL, NULL);
}
