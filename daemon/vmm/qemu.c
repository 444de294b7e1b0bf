/*
 * The QEMU driver: machine `microvm`, TCG or KVM, controlled by QMP.
 *
 * All that a guest needs is on the command line, so configure() has nothing to do; -S holds the virtual CPUs until
 * boot(). Each option that isn't obvious has its reason beside it.
 */
#include <string.h>
#include <unistd.h>

#include "daemon/vmm/bootargs.h"
#include "daemon/vmm/program.h"
#include "daemon/vmm/qmp.h"
#include "daemon/vmm/socket.h"
#include "daemon/vmm/vmm.h"

#define QBOOT "/usr/share/qemu/qboot.rom"
#define MAC_FORMAT "%02x:%02x:%02x:%02x:%02x:%02x"

enum {
	TAP_FD = 6,
	KVM_VOLUMES =
		2, /* without the second ioapic the machine has eight places, and six of them are taken */
};

struct vmm {
	struct qmp qmp;
};

/* ---- plan ---- */

static void add(struct strv *argv, const char *option, const char *value)
{
	strv_add(argv, option);
	strv_add(argv, value);
}

static void add_machine(const struct vmm_config *config, struct strv *argv)
{
	/* acpi: without it Debian's kernel finds no virtio device. rtc: without it the guest waits 2-3 s. No PIT and PIC
	 * where the TSC is given on the command line; KVM guests hang without them. */
	static const char tcg[] =
		"microvm,x-option-roms=off,pit=off,pic=off,rtc=on,isa-serial=on,auto-kernel-cmdline=off,"
		"acpi=on,dump-guest-core=off";
	static const char kvm[] = "microvm,x-option-roms=off,pit=on,pic=on,ioapic2=off,rtc=on,isa-serial=on,"
				  "auto-kernel-cmdline=off,acpi=on,dump-guest-core=off";

	switch (config->accel) {
	case VMM_TCG:
		add(argv, "-machine", tcg);
		add(argv, "-accel", "tcg,tb-size=32");
		add(argv, "-cpu", "max");
		break;
	case VMM_KVM:
		add(argv, "-machine", kvm);
		add(argv, "-accel", "kvm,kernel-irqchip=on");
		add(argv, "-cpu", "host");
		break;
	}
	/* By name: the default, bios-microvm.bin, is another firmware on Debian 13, with which nothing boots. */
	add(argv, "-bios", "qboot.rom");
	strv_add(argv, "-m");
	strv_addf(argv, "%u", config->mem_mib);
	strv_add(argv, "-smp");
	strv_addf(argv, "%u", config->vcpus);
}

static void add_boot(const struct vmm_config *config, struct strv *argv)
{
	auto_free char *line = bootargs(config, config->accel == VMM_KVM ? BOOT_QEMU_KVM : BOOT_QEMU_TCG);

	strv_add(argv, "-S");
	strv_add(argv, "-no-reboot"); /* the guest's reset ends QEMU: the agent's word says what was meant */
	add(argv, "-kernel", VMM_KERNEL);
	add(argv, "-initrd", VMM_INITRD);
	add(argv, "-append", line);
}

static void add_writable(const struct vmm_config *config, const char *id, const char *file, struct strv *argv)
{
	strv_add(argv, "-drive");
	strv_addf(argv,
		"id=%s,file=%s,format=raw,if=none,discard=unmap,file.locking=off,"
		"throttling.bps-total=%llu,throttling.iops-total=%u",
		id, file, (unsigned long long)config->disk_mib_per_second << 20, config->disk_ops_per_second);
	strv_add(argv, "-device");
	strv_addf(argv, "virtio-blk-device,drive=%s,serial=%s", id, id);
}

static void add_volume(const struct vmm_config *config, size_t i, struct strv *argv)
{
	auto_free char *id = xprintf("volume%zu", i), *file = xprintf(VMM_VOLUME, i);

	if (!config->volumes[i].read_only) {
		add_writable(config, id, file, argv);
		return;
	}
	strv_add(argv, "-drive");
	strv_addf(argv, "id=%s,file=%s,format=raw,if=none,readonly=on,file.locking=off", id, file);
	strv_add(argv, "-device");
	strv_addf(argv, "virtio-blk-device,drive=%s,serial=%s", id, id);
}

/* The format is always given: guessed from what a guest wrote, a raw disk could become a qcow2 with a backing file of
 * the host's. No locks: each file is opened by one VMM or is read-only. A throttle of 0 is none. */
static void add_drives(const struct vmm_config *config, struct strv *argv)
{
	add(argv, "-drive", "id=image,file=" VMM_IMAGE ",format=raw,if=none,readonly=on,file.locking=off");
	add(argv, "-device", "virtio-blk-device,drive=image,serial=image");
	add_writable(config, "disk", VMM_DISK, argv);
	for (size_t i = 0; i < config->n_volumes; i++)
		add_volume(config, i, argv);
}

static void add_devices(const struct vmm_config *config, struct strv *argv)
{
	const uint8_t *m = config->mac;

	strv_add(argv, "-netdev");
	strv_addf(argv, "tap,id=net,fd=%d", TAP_FD);
	strv_add(argv, "-device");
	strv_addf(argv, "virtio-net-device,netdev=net,mac=" MAC_FORMAT, m[0], m[1], m[2], m[3], m[4], m[5]);
	add(argv, "-object", "rng-random,id=rng,filename=/dev/urandom");
	add(argv, "-device", "virtio-rng-device,rng=rng");
	add(argv, "-device", "virtio-serial-device");
	add(argv, "-chardev", "socket,id=agent,path=" VMM_RUN "/" VMM_AGENT ",server=on,wait=off");
	add(argv, "-device", "virtserialport,chardev=agent,name=fcm.agent,nr=1");
	/* Memory that the guest has freed goes back to the host; the balloon itself stays empty. */
	add(argv, "-device", "virtio-balloon-device,free-page-reporting=on");
	add(argv, "-device", "i8042"); /* for ctrl-alt-del: microvm hears no power button */
}

static void add_control(struct strv *argv)
{
	/* signal=off: ^C typed by who is attached is for the guest. */
	add(argv, "-chardev", "stdio,id=console,signal=off");
	add(argv, "-serial", "chardev:console");
	add(argv, "-chardev", "socket,id=qmp,path=" VMM_RUN "/" VMM_CONTROL ",server=on,wait=off");
	add(argv, "-mon", "chardev=qmp,mode=control");
	add(argv, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
}

/* Is it shown by the bind of /usr? /usr/local is often another file system, and a bind takes only one. */
static bool below_usr(const char *path)
{
	return strncmp(path, "/usr/", 5) == 0 && strncmp(path, "/usr/local/", 11) != 0 &&
	       strstr(path, "/../") == NULL;
}

static void add_files(const struct vmm_config *config, struct vmm_plan *plan)
{
	vmm_bind(plan, "/usr", "/usr", "ro");
	if (!below_usr(config->binary))
		vmm_bind(plan, config->binary, plan->argv.v[0], "ro");
	vmm_bind_files(plan, config);
	vmm_bind(plan, "/dev/null", "/dev/null", "dev");
	vmm_bind(plan, "/dev/urandom", "/dev/urandom", "dev");
	if (config->accel == VMM_KVM)
		vmm_bind(plan, "/dev/kvm", "/dev/kvm", "dev");
	/* As on every Debian since 12: /usr is merged. */
	strv_add(&plan->links, "usr/bin:/bin");
	strv_add(&plan->links, "usr/lib:/lib");
	strv_add(&plan->links, "usr/lib64:/lib64");
}

static int qemu_plan(const struct vmm_config *config, struct vmm_plan *ret, struct fcm_error *err)
{
	if (config->binary[0] != '/')
		return fcm_fail(err, FCM_CONFIG, "qemu = %s: not an absolute path", config->binary);
	if (config->accel == VMM_KVM && config->n_volumes > KVM_VOLUMES) {
		fcm_fail(err, FCM_INSUFFICIENT, "QEMU's microvm has room for %d volumes with KVM, not %zu",
			KVM_VOLUMES, config->n_volumes);
		return fcm_hint(err, "Firecracker takes more: sudo fcm assets download firecracker");
	}
	*ret = (struct vmm_plan){.tap_fd = TAP_FD};
	if (below_usr(config->binary))
		strv_add(&ret->argv, config->binary);
	else
		strv_addf(&ret->argv, "/vmm%s", strrchr(config->binary, '/')); /* ps shows its own name */
	add(&ret->argv, "-name", config->id.s);
	add_machine(config, &ret->argv);
	strv_add(&ret->argv, "-nodefaults");
	strv_add(&ret->argv, "-no-user-config");
	add(&ret->argv, "-display", "none");
	add_boot(config, &ret->argv);
	add_control(&ret->argv);
	add_drives(config, &ret->argv);
	add_devices(config, &ret->argv);
	add_files(config, ret);
	return 0;
}

/* ---- talk ---- */

static int qemu_attach(int run_dirfd, int64_t deadline, struct vmm **ret, struct fcm_error *err)
{
	struct qmp qmp;
	int fd = vmm_connect(run_dirfd, VMM_CONTROL, deadline, err);

	if (fd < 0 || qmp_open(&qmp, fd, deadline, err) < 0)
		return -1;
	*ret = xalloc(sizeof **ret);
	(*ret)->qmp = qmp;
	return 0;
}

static int qemu_configure(
	struct vmm *vmm, const struct vmm_config *config, int64_t deadline, struct fcm_error *err)
{
	(void)vmm;
	(void)config;
	(void)deadline;
	(void)err;
	return 0;
}

static int qemu_continue(struct vmm *vmm, int64_t deadline, struct fcm_error *err)
{
	return qmp_run(&vmm->qmp, "cont", NULL, deadline, err);
}

static int qemu_pause(struct vmm *vmm, int64_t deadline, struct fcm_error *err)
{
	return qmp_run(&vmm->qmp, "stop", NULL, deadline, err);
}

static int qemu_soft_off(struct vmm *vmm, int64_t deadline, struct fcm_error *err)
{
	static const char keys[] =
		"{\"keys\":[{\"type\":\"qcode\",\"data\":\"ctrl\"},{\"type\":\"qcode\",\"data\":\"alt\"},"
		"{\"type\":\"qcode\",\"data\":\"delete\"}]}";

	return qmp_run(&vmm->qmp, "send-key", keys, deadline, err);
}

static int qemu_channel(int run_dirfd, int64_t deadline, struct fcm_error *err)
{
	return vmm_connect(run_dirfd, VMM_AGENT, deadline, err);
}

static void qemu_free(struct vmm *vmm)
{
	if (vmm == NULL)
		return;
	qmp_done(&vmm->qmp);
	free(vmm);
}

static void qemu_describe(const struct vmm_config *config, struct strv *ret)
{
	strv_addf(ret, "qmp %s/%s: qmp_capabilities", config->run, VMM_CONTROL);
	strv_addf(ret, "qmp %s/%s: cont", config->run, VMM_CONTROL);
}

/* ---- probe ---- */

static int qemu_probe(const char *program, struct vmm_probe *ret, struct fcm_error *err)
{
	/* "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)" */
	if (program_find(program, ret->binary, sizeof ret->binary, err) < 0 ||
		program_version(
			ret->binary, "QEMU emulator version ", ret->version, sizeof ret->version, err) < 0)
		return -1;
	if (access(QBOOT, R_OK) < 0)
		return fcm_fail(err, FCM_NO_VMM, QBOOT " is missing (package qemu-system-data)");
	return 0;
}

const struct vmm_driver vmm_qemu = {
	.name = "qemu",
	.caps = VMM_CAP_SOFT_OFF | VMM_CAP_TCG,
	.probe = qemu_probe,
	.plan = qemu_plan,
	.attach = qemu_attach,
	.configure = qemu_configure,
	.boot = qemu_continue,
	.pause = qemu_pause,
	.resume = qemu_continue,
	.soft_off = qemu_soft_off,
	.channel = qemu_channel,
	.free = qemu_free,
	.describe = qemu_describe,
};
