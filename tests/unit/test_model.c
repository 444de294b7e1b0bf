/* The structs of the wire and of config.json: keys and their order, and what the checks refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <string.h>

#include "common/crypt.h"
#include "common/model.h"

static int create(const char *json, struct vm_create *ret, struct fcm_error *err)
{
	*ret = (struct vm_create){0};
	return field_decode(vm_create_fields, json, strlen(json), FIELD_WIRE, ret, err);
}

static void refuse(const char *json, const char *field)
{
	struct fcm_error err = {0};
	struct vm_create c;

	if (create(json, &c, &err) == 0)
		fail_msg("%s was taken", json);
	field_done(vm_create_fields, &c);
	if (err.code != FCM_INVALID || strcmp(err.field, field) != 0)
		fail_msg("%s: %s, field '%s', code %d", json, err.msg, err.field, err.code);
}

static void test_create(void **state)
{
	struct fcm_error err = {0};
	struct vm_create c;
	uint8_t key[CRYPT_ED25519];

	(void)state;
	crypt_ed25519(key);
	auto_free char *public = crypt_ssh_public(key);
	auto_free char *json =
		xprintf("{\"name\":\"web\",\"cpus\":2,\"memory\":\"1g\",\"disk\":4096,\"image\":\"base\","
			"\"kernel\":\"default\",\"restart\":\"no\",\"env\":{\"A_1\":\"x=y\"},"
			"\"labels\":{\"team/x\":\"blue sky\"},\"ssh_keys\":[\"%s me@here\"],\"expose\":8000,"
			"\"dry_run\":true}",
			public);
	if (create(json, &c, &err) < 0)
		fail_msg("%s", err.msg);
	assert_true(c.dry_run && c.spec.expose_port == 8000 && c.spec.mem_mib == 1024 &&
		    c.spec.restart == RESTART_NO);
	field_done(vm_create_fields, &c);
	assert_int_equal(create("{\"name\":\"\"}", &c, &err), 0);
}

static void test_create_refuses(void **state)
{
	(void)state;
	refuse("{\"name\":\"-a\"}", "name");
	refuse("{\"name\":\"1-2-3-4\"}", "name");
	refuse("{\"name\":\"../x\"}", "name");
	refuse("{\"name\":\"a\\nb\"}", "name");
	refuse("{\"image\":\"\"}", "image");
	refuse("{\"image\":\"../etc\"}", "image");
	refuse("{\"image\":\"/etc/shadow\"}", "image");
	refuse("{\"kernel\":\"a/b\"}", "kernel");
	refuse("{\"cpus\":0}", "cpus");
	refuse("{\"memory\":0}", "memory");
	refuse("{\"disk\":18446744073709551615}", "disk");
	refuse("{\"expose\":0}", "expose");
	refuse("{\"expose\":65536}", "expose");
	refuse("{\"restart\":\"never\"}", "restart");
	refuse("{\"main\":{\"args\":[\"a\"],\"tmpfs\":[\"/x:size=1m\"]}}", "main.tmpfs");
	refuse("{\"main\":{\"args\":[\"a\"],\"tmpfs\":[\"x\"]}}", "main.tmpfs");
	refuse("{\"main\":{\"args\":[\"a\"],\"stop_signal\":\"NOPE\"}}", "main.stop_signal");
	refuse("{\"hostname\":\"a_b\"}", "hostname");
	refuse("{\"hostname\":\"a..b\"}", "hostname");
	refuse("{\"hostname\":\"a b\\n127.0.0.1 bank\"}", "hostname");
	refuse("{\"env\":{\"1A\":\"\"}}", "env");
	refuse("{\"env\":{\"A-B\":\"\"}}", "env");
	refuse("{\"env\":{\"A\":\"x\\ny\"}}", "env");
	refuse("{\"labels\":{\"A\":\"\"}}", "labels");
	refuse("{\"labels\":{\"a\":\"\\u001b\"}}", "labels");
	refuse("{\"labels\":{\"a\":\"\\n\"}}", "labels");
	refuse("{\"ssh_keys\":[\"ssh-ed25519 AAAA\"]}", "ssh_keys");
	refuse("{\"ssh_keys\":[\"command=\\\"x\\\" ssh-ed25519 AAAA\"]}", "ssh_keys");
	auto_free char *label = xprintf("{\"labels\":{\"a\":\"%0256d\"}}", 0);
	refuse(label, "labels");
	_cleanup_(buf_done) struct buf labels = {0};
	buf_str(&labels, "{\"labels\":{");
	for (int i = 0; i < VM_MAX_LABELS; i++)
		buf_printf(&labels, "%s\"l%02d\":\"%0*d\"", i ? "," : "", i, VM_MAX_LABEL_BYTES, 0);
	buf_str(&labels, "}}");
	refuse(labels.p, "labels");
	auto_free char *env = xprintf("{\"env\":{\"A\":\"%0*d\"}}", VM_MAX_ENV_BYTES, 0);
	refuse(env, "env");
}

/* The value of a variable is a secret: no message may hold it. */
static void test_env_stays_secret(void **state)
{
	struct fcm_error err = {0};
	struct vm_create c;

	(void)state;
	assert_int_equal(create("{\"env\":{\"A\":\"hunter2\\n\"}}", &c, &err), -1);
	assert_null(strstr(err.msg, "hunter2"));
	field_done(vm_create_fields, &c);
}

static void view(struct vm_view *v)
{
	*v = (struct vm_view){.id = "8i5agfx2",
		.name = "web",
		.state = VM_RUNNING,
		.schema = 1,
		.desired = WANT_RUNNING,
		.expose = {8000, "web.64-34-93-45.sslip.io", "active", ""},
		.spec = {.vcpus = 1,
			.mem_mib = 512,
			.disk_mib = 8192,
			.image = "base",
			.kernel = "default",
			.restart = RESTART_UNLESS_STOPPED},
		.created = 1795625293,
		.started = 1795625295,
		.vmm = "qemu",
		.accel = "tcg",
		.vmm_reason = "no usable KVM",
		.uid = 1879048242,
		.vmm_pid = 4711,
		.mac = "02:fc:ac:10:00:32",
		.boots = 1,
		.disk_used = 4308992};
	inet_pton(AF_INET, "172.16.0.50", &v->ip);
	strv_add(&v->spec.env, "TOKEN=hunter2");
}

static void test_view_is_that_of_the_api(void **state)
{
	struct vm_view v;

	(void)state;
	view(&v);
	field_json *j = vm_view_json(&v, false);
	auto_free char *text = fj_print(j, false);
	assert_string_equal(text,
		"{\"id\":\"8i5agfx2\",\"name\":\"web\",\"ip\":\"172.16.0.50\",\"state\":"
		"\"running\",\"expose\":{\"port\":8000,"
		"\"domain\":\"web.64-34-93-45.sslip.io\",\"url\":\"https://"
		"web.64-34-93-45.sslip.io\",\"status\":\"active\"},"
		"\"schema\":1,\"desired\":\"running\",\"cpus\":1,\"memory\":512,\"disk\":"
		"8192,\"image\":\"base\","
		"\"kernel\":\"default\",\"restart\":\"unless-stopped\",\"next\":null,\"env\":{\"TOKEN\":"
		"\"***\"},\"labels\":{},"
		"\"ssh_keys\":[],\"publish\":[],\"volumes\":[],\"ready\":{\"mode\":\"auto\"},\"health\":null,"
		"\"main\":null,\"auto_remove\":false,\"exited\":null,\"reason\":"
		"null,\"created\":\"2026-11-25T16:48:13Z\","
		"\"started\":\"2026-11-25T16:48:15Z\","
		"\"vmm\":\"qemu\",\"accel\":\"tcg\",\"vmm_reason\":\"no usable "
		"KVM\",\"uid\":1879048242,\"vmm_pid\":4711,"
		"\"mac\":\"02:fc:ac:10:00:32\",\"boot_id\":\"\",\"host_key\":\"\","
		"\"boots\":1,\"disk_used\":4308992}");
	fj_free(j);
	j = vm_view_json(&v, true);
	assert_string_equal(fj_get_str(fj_get(j, "env"), "TOKEN"), "hunter2");
	fj_free(j);
	field_done(vm_view_fields, &v);
}

static void test_view_without(void **state)
{
	struct vm_view v;

	(void)state;
	view(&v);
	v.expose = (struct vm_expose){0};
	v.started = 0;
	v.reason = (struct vm_reason){"timeout", "boot", "no word", 1};
	field_json *j = vm_view_json(&v, false);
	auto_free char *expose = fj_print(fj_get(j, "expose"), false),
		       *reason = fj_print(fj_get(j, "reason"), false),
		       *started = fj_print(fj_get(j, "started"), false);
	assert_string_equal(expose, "null");
	assert_string_equal(started, "null");
	assert_string_equal(reason, "{\"code\":\"timeout\",\"step\":\"boot\",\"message\":\"no "
				    "word\",\"time\":\"1970-01-01T00:00:01Z\"}");
	fj_free(j);
	field_done(vm_view_fields, &v);
}

/* What the API shows can be read back, by a client or from config.json. */
static void test_view_round_trip(void **state)
{
	struct fcm_error err = {0};
	struct vm_view v, w = {0};

	(void)state;
	view(&v);
	field_json *j = vm_view_json(&v, true);
	if (field_from_json(vm_view_fields, j, FIELD_DISK, &w, &err) < 0)
		fail_msg("%s", err.msg);
	field_json *k = vm_view_json(&w, true);
	auto_free char *one = fj_print(j, true), *two = fj_print(k, true);
	assert_string_equal(one, two);
	fj_free(j);
	fj_free(k);
	field_done(vm_view_fields, &v);
	field_done(vm_view_fields, &w);
}

static void test_defaults(void **state)
{
	static const struct vm_defaults d = {1, 512, 8192, "base", "default", RESTART_UNLESS_STOPPED};
	struct vm_create c;
	struct fcm_error err;

	(void)state;
	vm_spec_defaults(&c.spec, &d);
	assert_int_equal(field_decode(vm_create_fields, "{\"cpus\":2}", 10, FIELD_WIRE, &c, &err), 0);
	assert_int_equal(c.spec.vcpus, 2);
	assert_int_equal(c.spec.mem_mib, 512);
	assert_string_equal(c.spec.kernel, "default");
	assert_int_equal(c.spec.restart, RESTART_UNLESS_STOPPED);
	field_done(vm_create_fields, &c);
}

static void test_small_requests(void **state)
{
	struct token_request t;
	struct stop_request s = {10};
	struct fcm_error err;

	(void)state;
#define TOKEN(json) field_decode(token_request_fields, json, strlen(json), FIELD_WIRE, &t, &err)
#define STOP(json) field_decode(stop_request_fields, json, strlen(json), FIELD_WIRE, &s, &err)
	assert_int_equal(TOKEN("{\"name\":\"anna\"}"), 0);
	assert_int_equal(TOKEN("{\"name\":\"\"}"), -1);
	assert_int_equal(TOKEN("{\"name\":\"a\\nb\"}"), -1);
	assert_int_equal(TOKEN("{}"), -1);
	assert_int_equal(STOP(""), 0);
	assert_int_equal(s.time, 10);
	assert_int_equal(STOP("{\"time\":0}"), 0);
	assert_int_equal(s.time, 0);
	assert_int_equal(STOP("{\"time\":3601}"), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_create),
		cmocka_unit_test(test_create_refuses),
		cmocka_unit_test(test_env_stays_secret),
		cmocka_unit_test(test_view_is_that_of_the_api),
		cmocka_unit_test(test_view_without),
		cmocka_unit_test(test_view_round_trip),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_small_requests),
	};
	crypt_init();
	return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
