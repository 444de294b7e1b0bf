/*
 * The QEMU driver: machine `microvm`, TCG or KVM, controlled by QMP.
 *
 * All that a guest needs is on the command line, so configure() has nothing to do; -S holds the virtual CPUs until
 * boot(). Each option that isn't obvious has its reason beside it.
 *
 * A machine is saved as a migration stream, which QEMU writes to a socket and we to a file: QEMU gets no file of the host's
 * to write, and what it sends has a bound and a deadline. It is loaded the same way back. The guest's memory is left out of
 * it (x-ignore-shared), because it is in a file: of a machine that booted, VMM_RAM in a tmpfs of its jail, which only it may
 * write. We copy that to VMM_MEMORY, and who begins with it maps the copy privately, so clones share what they haven't
 * written to (daemon/shim/preload.c). Such a machine's memory is copied from where it has it mapped (keep.h). Of one that an
 * earlier daemon started with its memory in no file, all goes into the stream.
 *
 * A named file, since QEMU 8.1 and later leave nothing else out (no memfd). x-use-canonical-path-for-ramblock-id=off: the
 * memory has the same name in the stream as without a file, so what an earlier daemon saved loads.
 *
 * The stream holds what devices there are, in their order, and no more of the command line: the machine `microvm` has no
 * versions, so who loads it must be the same QEMU with the same accelerator (and with KVM, the same CPU), memory, number
 * of CPUs, and drives. What may differ is what the stream knows nothing of: name, kernel, initrd and their command line
 * (the guest has them in its memory), TAP, MAC (the guest keeps the old one), the files behind drives, their limits.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "daemon/vmm/bootargs.h"
#include "daemon/vmm/keep.h"
#include "daemon/vmm/program.h"
#include "daemon/vmm/qmp.h"
#include "daemon/vmm/socket.h"
#include "daemon/vmm/vmm.h"

#define PRELOAD "/fcm-preload.so" /* in the jail */
#define QBOOT "/usr/share/qemu/qboot.rom"
#define MEMORY_ID "microvm.ram" /* the machine's own name for it */
#define MAC_FORMAT "%02x:%02x:%02x:%02x:%02x:%02x"

enum {
	TAP_FD = 6,
	KVM_VOLUMES =
		2, /* without the second ioapic the machine has eight places, and six of them are taken */
	DEVICES_MIB = 32, /* of a stream, at most, for what isn't memory; it is less than one */
	CHUNK = 256 << 10,
	POLL_MS = 1,
	ANSWER_MS =
		20, /* an answer that came too late would break the connection: with less time, none is asked for */
	SETTLE_MS = 2000, /* for QEMU to give up what nobody reads any more */
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

static bool begins_with_file(const struct vmm_config *config)
{
	return config->saved && config->saved_memory;
}

static void add_memory(const struct vmm_config *config, struct strv *argv)
{
	strv_add(argv, "-m");
	strv_addf(argv, "%u", config->mem_mib);
	strv_add(argv, "-object");
	strv_addf(argv,
		"memory-backend-file,id=" MEMORY_ID
		",x-use-canonical-path-for-ramblock-id=off,size=%uM,dump=off,"
		"mem-path=%s,share=on",
		config->mem_mib, begins_with_file(config) ? VMM_SAVED VMM_MEMORY : VMM_RAM);
}

static void add_machine(const struct vmm_config *config, struct strv *argv)
{
	/* acpi: without it Debian's kernel finds no virtio device. rtc: without it the guest waits 2-3 s. No PIT and PIC
	 * where the TSC is given on the command line; KVM guests hang without them. */
	static const char tcg[] =
		"microvm,x-option-roms=off,pit=off,pic=off,rtc=on,isa-serial=on,auto-kernel-cmdline=off,"
		"acpi=on,dump-guest-core=off,memory-backend=" MEMORY_ID;
	static const char kvm[] =
		"microvm,x-option-roms=off,pit=on,pic=on,ioapic2=off,rtc=on,isa-serial=on,"
		"auto-kernel-cmdline=off,acpi=on,dump-guest-core=off,memory-backend=" MEMORY_ID;

	switch (config->accel) {
	case VMM_TCG:
		add(argv, "-machine", tcg);
		/* MiB of translated code. With 32 systemd's boot throws it away again and again: a fifth more work. */
		add(argv, "-accel", "tcg,tb-size=64");
		/* A processor that claims fast string instructions is given them by kernel and libc for each page that they
		 * clear or copy, and TCG works them off byte by byte: a fifth of the boot of Debian. */
		add(argv, "-cpu", "max,-erms,-fsrm");
		break;
	case VMM_KVM:
		add(argv, "-machine", kvm);
		add(argv, "-accel", "kvm,kernel-irqchip=on");
		add(argv, "-cpu", "host");
		break;
	}
	/* By name: the default, bios-microvm.bin, is another firmware on Debian 13, with which nothing boots. */
	add(argv, "-bios", "qboot.rom");
	add_memory(config, argv);
	strv_add(argv, "-smp");
	strv_addf(argv, "%u", config->vcpus);
}

static void add_boot(const struct vmm_config *config, struct strv *argv)
{
	auto_free char *line = bootargs(config, config->accel == VMM_KVM ? BOOT_QEMU_KVM : BOOT_QEMU_TCG);

	strv_add(argv, "-S");
	if (config->saved)
		add(argv, "-incoming", "defer");
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

/* Its memory: the jail's own file, or that of the machine that it begins with. */
static void add_ram(const struct vmm_config *config, struct vmm_plan *plan)
{
	if (!begins_with_file(config)) {
		plan->memory_mib = config->mem_mib;
		return;
	}
	vmm_bind_saved(plan, config, VMM_MEMORY);
	vmm_bind(plan, config->preload, PRELOAD, "ro");
	strv_add(&plan->env, "LD_PRELOAD=" PRELOAD);
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
	add_ram(config, ret);
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

/* ---- save and load ---- */

#define STREAM "saved" /* QEMU's name for its end of the socket */

/* Run `command`, which is to write a stream to us, or to read ours. Returns our end of the socket. */
static int begin_stream(struct qmp *q, const char *command, int64_t deadline, struct fcm_error *err)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return fcm_fail_errno(err, "socketpair");
	auto_close int ours = pair[0];
	auto_close int theirs = pair[1];
	if (qmp_give(q, STREAM, theirs, deadline, err) < 0 ||
		qmp_run(q, command, "{\"uri\":\"fd:" STREAM "\"}", deadline, err) < 0)
		return -1;
	return STEAL_FD(ours);
}

/* Copy what comes, up to its end, and no more than `max` bytes. */
static int take_stream(int in, int out, uint64_t max, int64_t deadline, struct fcm_error *err)
{
	auto_free char *chunk = xalloc(CHUNK);
	uint64_t total = 0;
	ssize_t n;

	while ((n = vmm_receive(in, chunk, CHUNK, deadline, err)) > 0) {
		total += (uint64_t)n;
		if (total > max)
			return fcm_fail(err, FCM_VMM, "the VMM's state has more than %llu MiB",
				(unsigned long long)(max >> 20));
		if (fd_write_all(out, chunk, (size_t)n) < 0)
			return fcm_fail_errno(err, "write the VMM's state");
	}
	return (int)n;
}

static bool time_left(int64_t deadline)
{
	return deadline == FCM_FOREVER || deadline - clock_ms() > ANSWER_MS;
}

/* Wait until the migration has ended, and well. */
static int wait_saved(struct qmp *q, int64_t deadline, struct fcm_error *err)
{
	for (;;) {
		auto_json field_json *info = NULL;
		if (qmp_ask(q, "query-migrate", &info, deadline, err) < 0)
			return -1;
		const char *status = fj_get_str(info, "status");
		if (strcmp(status, "completed") == 0)
			return 0;
		if (strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0) {
			char why[160];
			fcm_copy(why, sizeof why, fj_get_str(info, "error-desc"));
			vmm_clean(why, strlen(why));
			return fcm_fail(
				err, FCM_VMM, "the VMM couldn't save the machine%s%s", *why ? ": " : "", why);
		}
		clock_sleep(POLL_MS);
		if (!time_left(deadline))
			return fcm_fail(err, FCM_TIMEOUT, "the VMM doesn't end saving the machine");
	}
}

/* Is memory that lies in a file left out of the stream? Both sides must say the same, each time: it stays as it was said. */
static int leave_out_memory(struct qmp *q, bool on, int64_t deadline, struct fcm_error *err)
{
	return qmp_run(q, "migrate-set-capabilities",
		on ? "{\"capabilities\":[{\"capability\":\"x-ignore-shared\",\"state\":true}]}"
		   : "{\"capabilities\":[{\"capability\":\"x-ignore-shared\",\"state\":false}]}",
		deadline, err);
}

static int save_to(struct qmp *q, int out, bool memory, uint64_t max, int64_t deadline, struct fcm_error *err)
{
	struct fcm_error ignored;

	/* Without it QEMU sends 128 MiB a second. */
	if (leave_out_memory(q, !memory, deadline, err) < 0 ||
		qmp_run(q, "migrate-set-parameters", "{\"max-bandwidth\":1099511627776}", deadline, err) < 0)
		return -1;
	auto_close int in = begin_stream(q, "migrate", deadline, err);
	if (in < 0)
		return -1;
	if (take_stream(in, out, max, deadline, err) == 0)
		return wait_saved(q, deadline, err);
	/* As long as it hasn't noticed it can't begin another. */
	fcm_closep(&in);
	(void)!wait_saved(q, clock_in(SETTLE_MS), &ignored);
	return -1;
}

/* The stream, with the memory or without it. */
static int save_state(
	struct vmm *vmm, const struct vmm_saving *what, bool memory, int64_t deadline, struct fcm_error *err)
{
	uint64_t mib = memory ? what->mem_mib : 0;
	/* A page of 4096 bytes has a head of 8. */
	uint64_t max = (mib << 20) + (mib << 14) + ((uint64_t)DEVICES_MIB << 20);
	auto_close int out = openat(what->dirfd, VMM_STATE, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400);

	if (out < 0)
		return fcm_fail_errno(err, "make the file of the VMM's state");
	if (save_to(&vmm->qmp, out, memory, max, deadline, err) == 0)
		return 0;
	unlinkat(what->dirfd, VMM_STATE, 0);
	return -1;
}

static int qemu_save(struct vmm *vmm, const struct vmm_saving *what, int64_t deadline, struct fcm_error *err)
{
	struct keep_ram ram;
	int rc = keep_find_ram(what->process, what->mem_mib, &ram, err);
	auto_close int fd = ram.fd; /* -1: in no file */

	if ((rc < 0 && err->code != FCM_NOT_FOUND) || save_state(vmm, what, fd < 0, deadline, err) < 0)
		return -1;
	/* Behind it: what a device still did to the memory when it was saved is in the copy. */
	if (fd < 0 || keep_copy(ram, (off_t)what->mem_mib << 20, what->dirfd, VMM_MEMORY, deadline, err) == 0)
		return 0;
	unlinkat(what->dirfd, VMM_STATE, 0);
	return -1;
}

static int send_file(int in, int out, int64_t deadline, struct fcm_error *err)
{
	auto_free char *chunk = xalloc(CHUNK);
	ssize_t n;

	while ((n = read(in, chunk, CHUNK)) > 0)
		if (vmm_send(out, chunk, (size_t)n, deadline, err) < 0)
			return -1;
	return n < 0 ? fcm_fail_errno(err, "read the saved machine") : 0;
}

/* Wait until it isn't reading any more. A stream that it doesn't understand ends it. */
static int wait_loaded(struct qmp *q, int64_t deadline, struct fcm_error *err)
{
	for (;;) {
		auto_json field_json *info = NULL;
		if (qmp_ask(q, "query-status", &info, deadline, err) < 0)
			return -1;
		const char *status = fj_get_str(info, "status");
		if (strcmp(status, "paused") == 0) /* as it was when it was saved */
			return 0;
		if (strcmp(status, "inmigrate") != 0) {
			char now[32];
			fcm_copy(now, sizeof now, status);
			vmm_clean(now, strlen(now));
			return fcm_fail(err, FCM_VMM, "the VMM is '%s', not paused", now);
		}
		clock_sleep(POLL_MS);
		if (!time_left(deadline))
			return fcm_fail(err, FCM_TIMEOUT, "the VMM doesn't end loading the machine");
	}
}

static int load_from(struct qmp *q, int in, int64_t deadline, struct fcm_error *err)
{
	auto_close int out = begin_stream(q, "migrate-incoming", deadline, err);

	if (out < 0 || send_file(in, out, deadline, err) < 0)
		return -1;
	fcm_closep(&out);
	return wait_loaded(q, deadline, err);
}

static int qemu_load(
	struct vmm *vmm, const struct vmm_config *config, int64_t deadline, struct fcm_error *err)
{
	auto_free char *path = xprintf("%s/" VMM_STATE, config->saved);
	auto_close int in = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	if (in < 0)
		return fcm_fail_errno(err, "open %s", path);
	if (leave_out_memory(&vmm->qmp, begins_with_file(config), deadline, err) < 0 ||
		load_from(&vmm->qmp, in, deadline, err) < 0)
		return fcm_wrap(err, "load the saved machine");
	return 0;
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
	if (config->saved)
		strv_addf(ret, "qmp %s/%s: migrate-set-capabilities x-ignore-shared=%s", config->run,
			VMM_CONTROL, begins_with_file(config) ? "true" : "false");
	if (config->saved)
		strv_addf(ret, "qmp %s/%s: migrate-incoming fd:" STREAM ", which gets %s/" VMM_STATE,
			config->run, VMM_CONTROL, config->saved);
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
	.caps = VMM_CAP_SOFT_OFF | VMM_CAP_TCG | VMM_CAP_SAVE,
	.probe = qemu_probe,
	.plan = qemu_plan,
	.attach = qemu_attach,
	.configure = qemu_configure,
	.boot = qemu_continue,
	.pause = qemu_pause,
	.resume = qemu_continue,
	.save = qemu_save,
	.load = qemu_load,
	.soft_off = qemu_soft_off,
	.channel = qemu_channel,
	.free = qemu_free,
	.describe = qemu_describe,
};
