/* The daemon's configuration: origins, messages with file and line, checks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <fcntl.h>
#include <string.h>

#include "common/config.h"
#include "common/core/fileio.h"

static int parse(struct fcmd_config *c, const char *text, struct fcm_error *err)
{
	*err = (struct fcm_error){0};
	config_init(c);
	return config_parse(c, "fcmd.conf", text, strlen(text), err) < 0 || config_check(c, err) < 0 ? -1 : 0;
}

static void refuse(const char *text, const char *msg)
{
	struct fcmd_config c;
	struct fcm_error err;

	if (parse(&c, text, &err) == 0)
		fail_msg("taken: %s", text);
	config_done(&c);
	if (err.code != FCM_CONFIG || strstr(err.msg, msg) == NULL)
		fail_msg("%s: %s", text, err.msg);
}

static void test_defaults(void **state)
{
	struct fcmd_config c;
	struct fcm_error err;

	(void)state;
	assert_int_equal(parse(&c, "", &err), 0);
	assert_string_equal(c.listen, "127.0.0.1:7777");
	assert_string_equal(ip_dotted(c.gateway).s, "172.16.0.1");
	assert_int_equal(c.pool.prefix, 24);
	assert_int_equal(c.uid_base, 0x70000000);
	assert_int_equal(c.defaults.disk_mib, 8192);
	assert_string_equal(c.defaults.image, "base");
	assert_int_equal(config_log_level(&c), LOG_LEVEL_INFO);
	config_done(&c);
}

static const char *const file = "# a comment\n"
				"pool = 10.9.0.0/16 ; of the lab\n"
				"  dns = 9.9.9.9, 1.1.1.1\n"
				"log_level: debug\r\n"
				"\n"
				"reserve_mib = 2g\n"
				"[defaults]\n"
				"memory = 1g\n"
				"restart = no";

static void test_file(void **state)
{
	struct fcmd_config c;
	struct fcm_error err;

	(void)state;
	if (parse(&c, file, &err) < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(ip_dotted(c.gateway).s, "10.9.0.1");
	assert_int_equal(c.dns.n, 2);
	assert_string_equal(c.dns.v[1], "1.1.1.1");
	assert_int_equal(config_log_level(&c), LOG_LEVEL_DEBUG);
	assert_int_equal(c.reserve_mib, 2048);
	assert_int_equal(c.defaults.mem_mib, 1024);
	assert_int_equal(c.defaults.restart, RESTART_NO);
	config_done(&c);
}

static void test_origins(void **state)
{
	struct fcmd_config c;
	struct fcm_error err;
	_cleanup_(buf_done) struct buf b = {0};

	(void)state;
	assert_int_equal(parse(&c, file, &err), 0);
	assert_int_equal(config_set(&c, "dns=8.8.8.8", &err), 0);
	assert_int_equal(config_set(&c, "defaults.cpus=4", &err), 0);
	assert_int_equal(config_set(&c, "defaults.cpus=3", &err), 0);
	assert_int_equal(c.dns.n, 1); /* instead of those of the file */
	config_print(&c, &b);
	assert_non_null(strstr(b.p, "listen = 127.0.0.1:7777                                  ; built-in\n"));
	assert_non_null(
		strstr(b.p, "pool = 10.9.0.0/16                                       ; fcmd.conf:2\n"));
	assert_non_null(strstr(b.p, "dns = 8.8.8.8                                            ; --set\n"));
	assert_non_null(strstr(b.p, "defaults.cpus = 3                                        ; --set\n"));
	assert_non_null(
		strstr(b.p, "defaults.memory = 1024                                   ; fcmd.conf:8\n"));
	config_done(&c);
}

/* What --print-config prints can be a config file. */
static void test_print_is_a_file(void **state)
{
	struct fcmd_config c, d;
	struct fcm_error err;
	_cleanup_(buf_done) struct buf one = {0}, two = {0};

	(void)state;
	assert_int_equal(parse(&c, file, &err), 0);
	config_print(&c, &one);
	if (parse(&d, one.p, &err) < 0)
		fail_msg("%s", err.msg);
	memcpy(d.origin, c.origin, sizeof c.origin);
	config_print(&d, &two);
	assert_string_equal(one.p, two.p);
	config_done(&c);
	config_done(&d);
}

static void test_document(void **state)
{
	struct fcmd_config c;
	struct fcm_error err;
	_cleanup_(buf_done) struct buf b = {0}, all = {0};

	(void)state;
	config_document(&b);
	for (const struct field *f = config_fields; f->key; f++) {
		auto_free char *line = xprintf("\n#%s%s%s", f->type == FIELD_OBJECT ? "[" : "", f->key,
			f->type == FIELD_OBJECT ? "]" : " =");
		assert_non_null(strstr(b.p, line));
		assert_true(f->doc && *f->doc);
	}
	assert_int_equal(parse(&c, b.p, &err), 0); /* nothing but comments */
	config_done(&c);
	for (const char *p = b.p; *p; p++) /* with the keys uncommented it is a file with the defaults */
		if (!(*p == '#' && p[1] != ' '))
			buf_add(&all, p, 1);
	if (parse(&c, all.p, &err) < 0)
		fail_msg("%s", err.msg);
	config_done(&c);
}

static void test_bad_lines(void **state)
{
	struct fcmd_config c;
	struct fcm_error err;

	(void)state;
	refuse("\n\nfirst_adress = 3", "fcmd.conf:3: first_adress: unknown key");
	assert_string_equal((parse(&c, "first_adress = 3", &err), err.hint), "did you mean first_address?");
	config_done(&c);
	assert_string_equal((parse(&c, "[defaults]\ncpu = 3", &err), err.hint), "did you mean cpus?");
	config_done(&c);
	refuse("[net]\npool = x", "fcmd.conf:2: [net]: unknown section");
	refuse("just words", "fcmd.conf:1: neither 'key = value' nor '[section]'");
	refuse("[defaults", "fcmd.conf:1: neither");
	refuse("max_vms = 5\nmax_vms = 6", "fcmd.conf:2: max_vms: is set on line 1 already");
	refuse("max_vms = 0", "fcmd.conf:1: max_vms: 0 is outside 1..65534");
	refuse("max_vms = many", "fcmd.conf:1: max_vms: 'many' is not a whole number");
	refuse("defaults = 1", "defaults: unknown key");
	auto_free char *longer = xprintf("max_vms = 5\npool = %0300d", 0);
	refuse(longer, "fcmd.conf:2: the line is longer than ");
	config_init(&c);
	assert_int_equal(config_parse(&c, "f", "a\0b", 3, &err), -1);
	config_done(&c);
}

static void test_bad_values(void **state)
{
	static const char *const bad[] = {"listen = 0.0.0.0:7777", "listen = 127.0.0.1",
		"listen = 127.0.0.1:0", "listen = [::1]:7777", "listen = localhost:7777",
		"socket = fcmd.sock", "state_dir = ", "state_dir = /var/../etc/../x", "state_dir = /a b",
		"pool = 172.16.0.0/8", "pool = 172.16.0.1/24", "pool = 127.0.0.0/24", "pool = 169.254.0.0/16",
		"pool = 224.0.0.0/16", "pool = 172.16.0.0/31", "pool = x", "gateway = 172.16.1.1",
		"gateway = 172.16.0.0", "gateway = 172.16.0.255", "gateway = 172.16.0.60",
		"first_address = 1", "first_address = 255", "last_address = 49", "last_address = 255",
		"pool = 10.0.0.0/28", "dns = 127.0.0.53", "dns = ::1",
		"dns = 1.1.1.1 2.2.2.2 3.3.3.3 4.4.4.4", "uid_base = 0", "uid_base = 4294967295", "vmm = xen",
		"accel = hax", "tls = external", "domain = x", "domain = a.b {", "acme_ca = ftp://x",
		"acme_ca = https://x y", "caddy = -x", "caddy_user = ro ot",
		"caddy_admin = ", "api_domain = Api", "api_domain = -api", "api_domain = a..b",
		"api_domain = api.example.com.", "api_domain = a b", "api_domain = api {",
		"api_domain = 10-0-0-1", "api_domain = https://api.example.com", "insecure_bind = maybe",
		"insecure_bind = yes\nlisten = 203.0.113.10", "insecure_bind = yes\nlisten = 1.2.3.4.5:7777",
		"insecure_bind = yes\nlisten = :7777", "insecure_bind = no\nlisten = 203.0.113.10:7777",
		"max_anonymous = 300", "listen =\nsocket =", "allowed_hosts = a/b",
		"registry_mirrors = docker.io", "registry_mirrors = docker.io=mirror",
		"registry_mirrors = docker.io=https://", "registry_mirrors = docker.io=https://m/path",
		"registry_mirrors = docker.io=ftp://m", "registry_mirrors = docker=https://m",
		"registry_mirrors = docker.io=http://m.example:5000", "log_level = loud",
		"[defaults]\nimage = ../x", "[defaults]\nmemory = 1"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		refuse(bad[i], ": ");
}

/* What several keys make together. */
static void test_together(void **state)
{
	auto_free char *label = xprintf("%063d", 0);
	auto_free char *domain = xprintf("domain=%s.%s.%s.example.com", label, label, label);
	auto_free char *name = xprintf("api_domain=api%050d", 0);
	auto_free char *long_path = xprintf("run_dir = /run/%0100d\napi_domain = api", 0);
	struct fcmd_config c;
	struct fcm_error err;

	(void)state;
	refuse("listen = 0.0.0.0:7777", "insecure_bind = yes would allow it");
	config_init(&c);
	assert_int_equal(config_set(&c, domain, &err), 0);
	assert_int_equal(config_set(&c, "api_domain=api", &err), 0);
	assert_int_equal(config_check(&c, &err), 0);
	assert_int_equal(config_set(&c, name, &err), 0);
	assert_int_equal(config_check(&c, &err), -1);
	assert_string_equal(err.field, "api_domain");
	config_done(&c);
	refuse(long_path, "run_dir: ");
	assert_int_equal(parse(&c, "run_dir = /run/x\napi_domain = api", &err), 0);
	assert_string_equal(c.proxy_socket, "/run/x/proxy.sock");
	assert_false(config_listens_abroad(&c));
	config_done(&c);
	assert_int_equal(parse(&c, "listen = 10.0.0.1:80\ninsecure_bind = yes", &err), 0);
	assert_true(config_listens_abroad(&c));
	config_done(&c);
	assert_int_equal(parse(&c, "listen =", &err), 0);
	assert_false(config_listens_abroad(&c));
	config_done(&c);
}

static void test_good_values(void **state)
{
	static const char *const good[] = {"listen =", "socket =", "listen = 127.9.9.9:1",
		"caddy =", "caddy = /opt/caddy-2", "tls = internal", "domain = vms.example.com",
		"api_domain = api", "api_domain = api.example.com", "insecure_bind = yes",
		"insecure_bind = yes\nlisten = 0.0.0.0:7777", "insecure_bind = true\nlisten = 203.0.113.10:1",
		"acme_ca = https://ca.example/dir?x=1", "caddy_admin = unix//run/caddy/admin.sock",
		"pool = 10.0.0.0/28\nfirst_address = 2\nlast_address = 14",
		"pool = 10.0.0.0/16\nlast_address = 65534", "gateway = 172.16.0.254\nlast_address = 253",
		"allowed_hosts = fcm.lan, [fd00::1]:80", "public_ip = 64.34.93.45",
		"registry_mirrors = docker.io=https://m.example:5000, ghcr.io=https://10.0.0.1",
		"insecure_registries = m:5000\nregistry_mirrors = docker.io=http://m:5000",
		"accel = tcg\nvmm = qemu"};
	struct fcmd_config c;
	struct fcm_error err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		if (parse(&c, good[i], &err) < 0)
			fail_msg("%s: %s", good[i], err.msg);
		config_done(&c);
	}
}

static void test_set(void **state)
{
	struct fcmd_config c;
	struct fcm_error err;

	(void)state;
	config_init(&c);
	assert_int_equal(config_set(&c, "max_vms=", &err), -1);
	assert_int_equal(err.code, FCM_USAGE);
	assert_int_equal(config_set(&c, "max_vms", &err), -1);
	assert_string_equal(err.msg, "--set max_vms: write it as key=value");
	assert_int_equal(config_set(&c, "maxvms=3", &err), -1);
	assert_string_equal(err.msg, "--set: maxvms: unknown key");
	assert_string_equal(err.hint, "did you mean max_vms?");
	config_done(&c);
}

static void test_load(void **state)
{
	char dir[] = "/tmp/fcm-config-XXXXXX";
	struct fcmd_config c;
	struct fcm_error err = {0};

	(void)state;
	assert_non_null(mkdtemp(dir));
	auto_free char *path = xprintf("%s/fcmd.conf", dir), *link = xprintf("%s/link", dir);
	config_init(&c);
	assert_int_equal(config_load(&c, path, false, &err), 0);
	assert_int_equal(config_load(&c, path, true, &err), -1);
	assert_int_equal(file_write_atomic(AT_FDCWD, path, 0644, "max_vms = 7", 11, &err), 0);
	assert_int_equal(symlink(path, link), 0);
	assert_int_equal(config_load(&c, link, false, &err), 0);
	assert_int_equal(c.max_vms, 7);
	assert_int_equal(config_load(&c, dir, false, &err), -1);
	config_done(&c);
	assert_int_equal(dir_remove(AT_FDCWD, dir, NULL, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_origins),
		cmocka_unit_test(test_print_is_a_file),
		cmocka_unit_test(test_document),
		cmocka_unit_test(test_bad_lines),
		cmocka_unit_test(test_bad_values),
		cmocka_unit_test(test_good_values),
		cmocka_unit_test(test_together),
		cmocka_unit_test(test_set),
		cmocka_unit_test(test_load),
	};
	return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
