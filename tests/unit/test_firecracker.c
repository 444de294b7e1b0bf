/* The Firecracker driver's plan and calls, word for word, and its way to the agent. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "tests/unit/vmmtest.h"

static struct fcm_error err;

static struct vmm_config config(void)
{
	return vmmtest_config("/usr/local/bin/firecracker", VMM_KVM);
}

static void test_plan(void **state)
{
	(void)state;
	static const char *const argv[] = {
		"/firecracker", "--api-sock", "/run/vmm.sock", "--id", "k3f9x2ab", "--level", "Error", NULL};
	static const char *const binds[] = {"/usr/local/bin/firecracker:/firecracker:ro",
		"/k/vmlinux:/vmlinux:ro", "/k/initrd:/initrd:ro", "/i/image.ext4:/image.ext4:ro",
		"/v/rootfs.img:/rootfs.img:rw", "/v/jail/run:/run:rw", "/dev/kvm:/dev/kvm:dev",
		"/dev/net/tun:/dev/net/tun:dev", "/dev/urandom:/dev/urandom:dev", "/dev/null:/dev/null:dev",
		NULL};
	_cleanup_(vmm_plan_done) struct vmm_plan plan;
	struct vmm_config c = config();

	assert_int_equal(vmm_firecracker.plan(&c, &plan, &err), 0);
	vmmtest_list(&plan.argv, argv);
	vmmtest_list(&plan.binds, binds);
	assert_int_equal(plan.links.n, 0);
	assert_int_equal(plan.tap_fd, -1);
	assert_true(plan.stdin_nonblock);
	c.binary = "firecracker";
	assert_int_equal(vmm_firecracker.plan(&c, &plan, &err), -1);
	assert_int_equal(err.code, FCM_CONFIG);
}

#define API "api /v/jail/run/vmm.sock: PUT "

static void test_calls(void **state)
{
	(void)state;
	static const char *const want[] = {API "/machine-config {\"vcpu_count\":2,\"mem_size_mib\":512}",
		API "/boot-source "
		    "{\"kernel_image_path\":\"/vmlinux\",\"initrd_path\":\"/initrd\",\"boot_args\":\""
		    "console=ttyS0 quiet reboot=k panic=-1 no_timer_check cryptomgr.notests pci=off "
		    "8250.nr_uarts=1 "
		    "random.trust_cpu=on i8042.noaux i8042.nomux i8042.dumbkbd "
		    "ip=172.16.0.50::172.16.0.1:255.255.255.0:cosmic-comet:eth0:on\"}",
		API "/drives/image "
		    "{\"drive_id\":\"image\",\"path_on_host\":\"/image.ext4\",\"is_root_device\":false,"
		    "\"is_read_only\":true}",
		API "/drives/disk "
		    "{\"drive_id\":\"disk\",\"path_on_host\":\"/rootfs.img\",\"is_root_device\":false,"
		    "\"is_read_only\":false,\"cache_type\":\"Writeback\",\"rate_limiter\":{}}",
		API "/network-interfaces/eth0 {\"iface_id\":\"eth0\",\"guest_mac\":\"02:fc:ac:10:00:32\","
		    "\"host_dev_name\":\"tap_k3f9x2ab\"}",
		API "/vsock {\"guest_cid\":3,\"uds_path\":\"/run/agent.sock\"}", API "/entropy {}",
		API "/actions {\"action_type\":\"InstanceStart\"}", NULL};
	_cleanup_(strv_done) struct strv lines = {0};
	struct vmm_config c = config();

	vmm_firecracker.describe(&c, &lines);
	vmmtest_list(&lines, want);
}

/* Before 1.14 it would be refused, for its free_page_reporting. */
static void test_balloon(void **state)
{
	(void)state;
	static const char want[] =
		API "/balloon {\"amount_mib\":0,\"deflate_on_oom\":true,\"free_page_reporting\":true}";
	_cleanup_(strv_done) struct strv old = {0}, new = {0};
	struct vmm_config c = config();

	c.version = "1.13.1";
	vmm_firecracker.describe(&c, &old);
	c.version = "1.14.0-dev";
	vmm_firecracker.describe(&c, &new);
	assert_int_equal(new.n, old.n + 1);
	assert_string_equal(new.v[new.n - 2], want);
	assert_string_equal(new.v[new.n - 1], old.v[old.n - 1]);
}

static void test_saved(void **state)
{
	(void)state;
	static const char *const want[] = {API
		"/snapshot/load "
		"{\"snapshot_path\":\"/saved/state\",\"mem_backend\":{\"backend_type\":\"File\","
		"\"backend_path\":\"/saved/memory\"},\"network_overrides\":[{\"iface_id\":\"eth0\","
		"\"host_dev_name\":\"tap_k3f9x2ab\"}]}",
		"api /v/jail/run/vmm.sock: PATCH /vm {\"state\":\"Resumed\"}", NULL};
	_cleanup_(strv_done) struct strv lines = {0};
	_cleanup_(vmm_plan_done) struct vmm_plan plan;
	struct vmm_config c = config();

	c.saved = "/v/saved";
	c.saved_id = (struct vm_id){"another1"};
	assert_int_equal(vmm_firecracker.plan(&c, &plan, &err), 0);
	assert_true(strv_has(&plan.binds, "/v/saved/state:/saved/state:ro"));
	assert_true(strv_has(&plan.binds, "/v/saved/memory:/saved/memory:ro"));
	vmm_firecracker.describe(&c, &lines);
	vmmtest_list(&lines, want);
}

/* Before 1.12 it can't be told of another TAP. */
static void test_saved_elsewhere(void **state)
{
	(void)state;
	_cleanup_(strv_done) struct strv lines = {0};
	_cleanup_(vmm_plan_done) struct vmm_plan plan = {0};
	struct vmm_config c = config();

	c.version = "1.11.0";
	c.saved = "/v/saved";
	c.saved_id = (struct vm_id){"another1"};
	assert_int_equal(vmm_firecracker.plan(&c, &plan, &err), -1);
	assert_int_equal(err.code, FCM_NO_VMM);
	assert_string_equal(
		err.msg, "Firecracker 1.11.0 loads a saved machine only on the TAP it had, tap_another1");
	c.saved_id = c.id;
	assert_int_equal(vmm_firecracker.plan(&c, &plan, &err), 0);
	vmm_firecracker.describe(&c, &lines);
	assert_null(strstr(lines.v[0], "network_overrides"));
}

static void test_disk_limits(void **state)
{
	(void)state;
	static const struct {
		unsigned mib, ops;
		const char *want;
	} samples[] = {
		{4, 0, "\"rate_limiter\":{\"bandwidth\":{\"size\":4194304,\"refill_time\":1000}}}"},
		{0, 20, "\"rate_limiter\":{\"ops\":{\"size\":20,\"refill_time\":1000}}}"},
		{8388608, 1,
			"\"rate_limiter\":{\"bandwidth\":{\"size\":8796093022208,\"refill_time\":1000},"
			"\"ops\":{\"size\":1,\"refill_time\":1000}}}"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
		_cleanup_(strv_done) struct strv lines = {0};
		struct vmm_config c = config();
		c.disk_mib_per_second = samples[i].mib;
		c.disk_ops_per_second = samples[i].ops;
		vmm_firecracker.describe(&c, &lines);
		assert_non_null(strstr(lines.v[2], "/drives/image"));
		assert_null(strstr(lines.v[2], "rate_limiter"));
		assert_string_equal(strstr(lines.v[3], "\"rate_limiter\""), samples[i].want);
	}
}

/* ---- talk ---- */

/* Tries that are cut off or stay without an answer are followed by another; what comes behind OK is the agent's. */
static void test_channel(void **state)
{
	(void)state;
	static const char *const says[] = {"", NULL, "OK", "OK 1073741824\nhello"};
	struct vmmtest_peer p;
	char text[16] = "";

	vmmtest_begin(&p, VMM_AGENT, says, ARRAY_SIZE(says));
	int fd = vmm_firecracker.channel(vmmtest_run, clock_in(5000), &err);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	vmmtest_end(&p);
	assert_string_equal(p.got, "CONNECT 52\n");
	assert_int_equal(read(fd, text, sizeof text), 5);
	assert_string_equal(text, "hello");
	close(fd);
}

static void test_channel_refused(void **state)
{
	(void)state;
	static const char *const rubbish[] = {"NO\n", "KO 12\n", "OK\n", "\n",
		"HTTP/1.1 400 Bad Request and more of it\r\n",
		"OK 1234567890123456789012345678901234567890\n"};

	for (size_t i = 0; i < ARRAY_SIZE(rubbish); i++) {
		struct vmmtest_peer p;
		int64_t t = clock_ms();
		vmmtest_begin(&p, VMM_AGENT, &rubbish[i], 1);
		assert_int_equal(vmm_firecracker.channel(vmmtest_run, clock_in(5000), &err), -1);
		assert_int_equal(err.code, FCM_VMM);
		assert_in_range(clock_ms() - t, 0, 2000);
		vmmtest_end(&p);
	}
}

static void test_channel_never(void **state)
{
	(void)state;
	int64_t t = clock_ms();
	int fd = unix_listen(vmmtest_run, VMM_AGENT, 0600, 0, &err);

	assert_int_equal(vmm_firecracker.channel(vmmtest_run, clock_in(300), &err), -1);
	assert_int_equal(err.code, FCM_TIMEOUT);
	assert_in_range(clock_ms() - t, 290, 2000);
	assert_int_equal(vmm_firecracker.channel(vmmtest_run, clock_ms(), &err), -1);
	assert_int_equal(err.code, FCM_TIMEOUT);
	close(fd);
}

#define GREETING(length, app, version)                                                                       \
	"HTTP/1.1 200 \r\nContent-Length: " length "\r\n\r\n{\"id\":\"x\",\"state\":\"Not started\",\"vmm_"  \
	"version\":\"" version "\",\"app_name\":\"" app "\"}"

static void test_attach(void **state)
{
	(void)state;
	static const struct {
		const char *greeting, *want;
	} samples[] = {
		{GREETING("79", "Firecracker", "1.8.0"), NULL},
		{GREETING("84", "Firecracker", "1.14.0-dev"), NULL},
		{GREETING("79", "Firecracker", "1.7.9"), "Firecracker 1.7.9 is not 1.8 or a later 1.x"},
		{GREETING("79", "Firecracker", "2.0.0"), "Firecracker 2.0.0 is not 1.8 or a later 1.x"},
		{GREETING("74", "Firecracker", ""), "Firecracker  is not 1.8 or a later 1.x"},
		{GREETING("76", "Firebird", "1.8.0"),
			"what answers on the VMM's control socket isn't Firecracker"},
		{"HTTP/1.1 204 \r\n\r\n", "what answers on the VMM's control socket isn't Firecracker"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
		struct vmmtest_peer p;
		struct vmm *vmm = NULL;
		vmmtest_begin(&p, VMM_CONTROL, &samples[i].greeting, 1);
		int rc = vmm_firecracker.attach(vmmtest_run, clock_in(2000), &vmm, &err);
		vmmtest_end(&p);
		if (samples[i].want == NULL) {
			assert_int_equal(rc, 0);
			vmm_firecracker.free(vmm);
			continue;
		}
		assert_int_equal(rc, -1);
		assert_int_equal(err.code, FCM_VMM);
		assert_string_equal(err.msg, samples[i].want);
		assert_null(vmm);
	}
	vmm_firecracker.free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plan),
		cmocka_unit_test(test_calls),
		cmocka_unit_test(test_balloon),
		cmocka_unit_test(test_saved),
		cmocka_unit_test(test_saved_elsewhere),
		cmocka_unit_test(test_disk_limits),
		cmocka_unit_test_setup_teardown(test_channel, vmmtest_setup, vmmtest_teardown),
		cmocka_unit_test_setup_teardown(test_channel_refused, vmmtest_setup, vmmtest_teardown),
		cmocka_unit_test_setup_teardown(test_channel_never, vmmtest_setup, vmmtest_teardown),
		cmocka_unit_test_setup_teardown(test_attach, vmmtest_setup, vmmtest_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
