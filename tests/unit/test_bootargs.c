/* The kernel command line and the QEMU plan, word for word: what changes here changes what every guest boots with. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/vmm/bootargs.h"
#include "tests/unit/vmmtest.h"

static struct fcm_error err;

static struct vmm_config config(enum vmm_accel accel)
{
	return vmmtest_config("/usr/bin/qemu-system-x86_64", accel);
}

static void check_args(const struct vmm_config *c, enum boot_machine machine, const char *want)
{
	auto_free char *got = bootargs(c, machine);

	assert_string_equal(got, want);
}

#define TCG_LINE                                                                                             \
	"console=ttyS0 quiet reboot=t panic=-1 tsc=reliable mitigations=off no_timer_check "                 \
	"cryptomgr.notests noreplace-smp "                                                                   \
	"pci=off "                                                                                           \
	"8250.nr_uarts=1 random.trust_cpu=on tsc_early_khz=2596137 "                                         \
	"ip=172.16.0.50::172.16.0.1:255.255.255.0:cosmic-comet:eth0:on"

#define KVM_LINE(ip)                                                                                         \
	"console=ttyS0 quiet reboot=t panic=-1 no_timer_check cryptomgr.notests pci=off 8250.nr_uarts=1 "    \
	"random.trust_cpu=on ip=" ip ":cosmic-comet:eth0:on"

static void test_bootargs(void **state)
{
	(void)state;
	struct vmm_config c = config(VMM_TCG);

	check_args(&c, BOOT_QEMU_TCG, TCG_LINE);
	check_args(&c, BOOT_QEMU_KVM, KVM_LINE("172.16.0.50::172.16.0.1:255.255.255.0"));
	check_args(&c, BOOT_FIRECRACKER,
		"console=ttyS0 quiet reboot=k panic=-1 no_timer_check cryptomgr.notests pci=off "
		"8250.nr_uarts=1 "
		"random.trust_cpu=on i8042.noaux i8042.nomux i8042.dumbkbd "
		"ip=172.16.0.50::172.16.0.1:255.255.255.0:cosmic-comet:eth0:on");
	c.prefix = 22;
	c.ip.s_addr = htonl(0x0a000203);
	check_args(&c, BOOT_QEMU_KVM, KVM_LINE("10.0.2.3::172.16.0.1:255.255.252.0"));
}

static void test_tsc(void **state)
{
	(void)state;
	uint64_t khz = bootargs_tsc_khz();

	assert_in_range(khz, 500000, 10000000);
	assert_int_equal(khz, bootargs_tsc_khz());
}

static void test_plan_tcg(void **state)
{
	(void)state;
	static const char *const argv[] = {"/usr/bin/qemu-system-x86_64", "-name", "k3f9x2ab", "-machine",
		"microvm,x-option-roms=off,pit=off,pic=off,rtc=on,isa-serial=on,auto-kernel-cmdline=off,acpi="
		"on,"
		"dump-guest-core=off,memory-backend=microvm.ram",
		"-accel", "tcg,tb-size=64", "-cpu", "max,-erms,-fsrm", "-bios", "qboot.rom", "-m", "512",
		"-object",
		"memory-backend-file,id=microvm.ram,x-use-canonical-path-for-ramblock-id=off,size=512M,dump="
		"off,mem-path=/ram/memory,share=on",
		"-smp", "2", "-nodefaults", "-no-user-config", "-display", "none", "-S", "-no-reboot",
		"-kernel", "/vmlinux", "-initrd", "/initrd", "-append", TCG_LINE, "-chardev",
		"stdio,id=console,signal=off", "-serial", "chardev:console", "-chardev",
		"socket,id=qmp,path=/run/vmm.sock,server=on,wait=off", "-mon", "chardev=qmp,mode=control",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-drive", "id=image,file=/image.ext4,format=raw,if=none,readonly=on,file.locking=off",
		"-device", "virtio-blk-device,drive=image,serial=image", "-drive",
		"id=disk,file=/"
		"rootfs.img,format=raw,if=none,discard=unmap,file.locking=off,throttling.bps-total=4194304,"
		"throttling.iops-total=20",
		"-device", "virtio-blk-device,drive=disk,serial=disk", "-netdev", "tap,id=net,fd=6",
		"-device", "virtio-net-device,netdev=net,mac=02:fc:ac:10:00:32", "-object",
		"rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-device,rng=rng", "-device",
		"virtio-serial-device", "-chardev", "socket,id=agent,path=/run/agent.sock,server=on,wait=off",
		"-device", "virtserialport,chardev=agent,name=fcm.agent,nr=1", "-device",
		"virtio-balloon-device,free-page-reporting=on", "-device", "i8042", NULL};
	static const char *const binds[] = {"/usr:/usr:ro", "/k/vmlinux:/vmlinux:ro", "/k/initrd:/initrd:ro",
		"/i/image.ext4:/image.ext4:ro", "/v/rootfs.img:/rootfs.img:rw", "/v/jail/run:/run:rw",
		"/dev/null:/dev/null:dev", "/dev/urandom:/dev/urandom:dev", NULL};
	static const char *const links[] = {"usr/bin:/bin", "usr/lib:/lib", "usr/lib64:/lib64", NULL};
	_cleanup_(vmm_plan_done) struct vmm_plan plan;
	struct vmm_config c = config(VMM_TCG);

	c.disk_mib_per_second = 4;
	c.disk_ops_per_second = 20;
	assert_int_equal(vmm_qemu.plan(&c, &plan, &err), 0);
	vmmtest_list(&plan.argv, argv);
	vmmtest_list(&plan.binds, binds);
	vmmtest_list(&plan.links, links);
	assert_int_equal(plan.tap_fd, 6);
	assert_int_equal(plan.memory_mib, 512);
	assert_int_equal(plan.env.n, 0);
}

static void test_plan_kvm(void **state)
{
	(void)state;
	_cleanup_(vmm_plan_done) struct vmm_plan plan;
	struct vmm_config c = config(VMM_KVM);

	assert_int_equal(vmm_qemu.plan(&c, &plan, &err), 0);
	assert_true(strv_has(&plan.argv,
		"microvm,x-option-roms=off,pit=on,pic=on,ioapic2=off,rtc=on,isa-serial=on,"
		"auto-kernel-cmdline=off,acpi=on,dump-guest-core=off,memory-backend=microvm.ram"));
	assert_true(strv_has(&plan.argv, "kvm,kernel-irqchip=on"));
	assert_true(strv_has(&plan.argv, "host"));
	assert_false(strv_has(&plan.argv, "tcg,tb-size=64"));
	assert_true(strv_has(&plan.binds, "/dev/kvm:/dev/kvm:dev"));
}

/* A VMM of another place is brought into the jail by itself. */
static void test_plan_binary(void **state)
{
	(void)state;
	static const char *const elsewhere[] = {"/opt/qemu/qemu", "/usr/local/bin/qemu", "/usr/../opt/qemu"};

	for (size_t i = 0; i < ARRAY_SIZE(elsewhere); i++) {
		_cleanup_(vmm_plan_done) struct vmm_plan plan;
		struct vmm_config c = config(VMM_TCG);
		auto_free char *bind = xprintf("%s:/vmm/qemu:ro", elsewhere[i]);
		c.binary = elsewhere[i];
		assert_int_equal(vmm_qemu.plan(&c, &plan, &err), 0);
		assert_string_equal(plan.argv.v[0], "/vmm/qemu");
		assert_true(strv_has(&plan.binds, bind));
	}
	struct vmm_plan none;
	struct vmm_config c = config(VMM_TCG);
	c.binary = "qemu-system-x86_64";
	assert_int_equal(vmm_qemu.plan(&c, &none, &err), -1);
	assert_int_equal(err.code, FCM_CONFIG);
}

/* With all of it in the stream nothing of the saved machine's files is shown to QEMU: it gets them through a socket, and has
 * memory of its own. */
static void test_plan_saved(void **state)
{
	(void)state;
	static const char *const want[] = {"qmp /v/jail/run/vmm.sock: qmp_capabilities",
		"qmp /v/jail/run/vmm.sock: migrate-set-capabilities x-ignore-shared=false",
		"qmp /v/jail/run/vmm.sock: migrate-incoming fd:saved, which gets /v/saved/state",
		"qmp /v/jail/run/vmm.sock: cont", NULL};
	_cleanup_(vmm_plan_done) struct vmm_plan plan, plain;
	_cleanup_(strv_done) struct strv lines = {0};
	struct vmm_config c = config(VMM_TCG);

	assert_int_equal(vmm_qemu.plan(&c, &plain, &err), 0);
	c.saved = "/v/saved";
	assert_int_equal(vmm_qemu.plan(&c, &plan, &err), 0);
	assert_true(strv_has(&plan.argv, "-incoming") && strv_has(&plan.argv, "defer"));
	assert_false(strv_has(&plain.argv, "-incoming"));
	assert_int_equal(plan.argv.n, plain.argv.n + 2);
	assert_int_equal(plan.binds.n, plain.binds.n);
	assert_int_equal(plan.memory_mib, 512);
	vmm_qemu.describe(&c, &lines);
	vmmtest_list(&lines, want);
}

/* Memory in a file: QEMU may read it, and has none of its own to write. */
static void test_plan_saved_memory(void **state)
{
	(void)state;
	static const char *const want[] = {"qmp /v/jail/run/vmm.sock: qmp_capabilities",
		"qmp /v/jail/run/vmm.sock: migrate-set-capabilities x-ignore-shared=true",
		"qmp /v/jail/run/vmm.sock: migrate-incoming fd:saved, which gets /v/saved/state",
		"qmp /v/jail/run/vmm.sock: cont", NULL};
	static const char *const env[] = {"LD_PRELOAD=/fcm-preload.so", NULL};
	_cleanup_(vmm_plan_done) struct vmm_plan plan;
	_cleanup_(strv_done) struct strv lines = {0};
	struct vmm_config c = config(VMM_TCG);

	c.saved = "/v/saved";
	c.saved_memory = true;
	c.preload = "/l/fcm-preload.so";
	assert_int_equal(vmm_qemu.plan(&c, &plan, &err), 0);
	assert_true(strv_has(&plan.argv,
		"memory-backend-file,id=microvm.ram,x-use-canonical-path-for-ramblock-id=off,size=512M,"
		"dump=off,mem-path=/saved/memory,share=on"));
	assert_true(strv_has(&plan.binds, "/v/saved/memory:/saved/memory:ro"));
	assert_true(strv_has(&plan.binds, "/l/fcm-preload.so:/fcm-preload.so:ro"));
	vmmtest_list(&plan.env, env);
	assert_int_equal(plan.memory_mib, 0);
	vmm_qemu.describe(&c, &lines);
	vmmtest_list(&lines, want);
}

static void test_drivers(void **state)
{
	(void)state;
	assert_ptr_equal(vmm_driver_find("qemu"), &vmm_qemu);
	assert_null(vmm_driver_find("xen"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bootargs),
		cmocka_unit_test(test_tsc),
		cmocka_unit_test(test_plan_tcg),
		cmocka_unit_test(test_plan_kvm),
		cmocka_unit_test(test_plan_binary),
		cmocka_unit_test(test_plan_saved),
		cmocka_unit_test(test_plan_saved_memory),
		cmocka_unit_test(test_drivers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
