/*
 * Start one VM as the daemon does, and say what came of it: plan, shim, QMP.
 *
 *	run-vmm SHIM DIR ID UID plan BINARY KERNEL INITRD IMAGE DISK TAP	QEMU; TAP is the number of an open descriptor
 *	run-vmm SHIM DIR ID UID argv PROGRAM ARG...				any program below /usr, in the same jail
 *
 * $NAME is the VM's name, $LIMIT_MS the deadline of each step, $CGROUP a cgroup.procs to join.
 *
 * DIR/jail and DIR/jail/run must exist. Prints "shim=PID vmm=PID start_ms=N attach_ms=N boot_ms=N", or "error: ..." and
 * ends with 1. Shim and VMM stay.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "daemon/shim/shim.h"
#include "daemon/vmm/bootargs.h"
#include "daemon/vmm/vmm.h"

/* An honest VMM answers in 40 ms, on a busy machine in a second; $LIMIT_MS is for those that don't. */
static int64_t limit_ms = 15000;

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int plan_qemu(
	char **args, const char *run, const struct vm_id *id, struct vmm_plan *ret, struct fcm_error *err)
{
	struct vmm_config config = {
		.id = *id,
		.name = {"contract"},
		.vcpus = 1,
		.mem_mib = 128,
		.ip = {htonl(0xac100032)},
		.gateway = {htonl(0xac100001)},
		.prefix = 24,
		.mac = {0x06, 0, 0xac, 0x10, 0, 0x32},
		.binary = args[0],
		.kernel = args[1],
		.initrd = args[2],
		.image = args[3],
		.disk = args[4],
		.run = run,
		.tsc_khz = bootargs_tsc_khz(),
	};

	const char *name = getenv("NAME");
	if (name)
		fcm_copy(config.name.s, sizeof config.name.s, name);
	return vmm_qemu.plan(&config, ret, err);
}

static void plan_program(char **args, const char *run, struct vmm_plan *ret)
{
	*ret = (struct vmm_plan){.tap_fd = -1};
	strv_add(&ret->binds, "/usr:/usr:ro");
	strv_addf(&ret->binds, "%s:/run:rw", run);
	strv_add(&ret->binds, "/dev/null:/dev/null:dev");
	strv_add(&ret->links, "usr/bin:/bin");
	strv_add(&ret->links, "usr/lib:/lib");
	strv_add(&ret->links, "usr/lib64:/lib64");
	for (; *args; args++)
		strv_add(&ret->argv, *args);
}

static int talk(int run_dirfd, double *ret_attach, double *ret_boot, struct fcm_error *err)
{
	struct vmm *vmm;
	double t = now_ms();

	if (vmm_qemu.attach(run_dirfd, clock_in(limit_ms), &vmm, err) < 0)
		return -1;
	*ret_attach = now_ms() - t;
	t = now_ms();
	int rc = vmm_qemu.boot(vmm, clock_in(limit_ms), err);
	*ret_boot = now_ms() - t;
	vmm_qemu.free(vmm);
	return rc;
}

static int start(char **argv, struct fcm_error *err)
{
	_cleanup_(vmm_plan_done) struct vmm_plan plan = {.tap_fd = -1};
	auto_free char *jail = xprintf("%s/jail", argv[2]), *run = xprintf("%s/jail/run", argv[2]);
	auto_close int dirfd = dir_open(AT_FDCWD, argv[2], err);
	auto_close int run_dirfd = dirfd < 0 ? -1 : dir_open(AT_FDCWD, run, err);
	auto_close int ring = run_dirfd < 0 ? -1 : shim_ring_make(dirfd, err);
	bool qemu = strcmp(argv[5], "plan") == 0;
	double attach = 0, boot = 0;
	_cleanup_(strv_done) struct strv cgroups = {0};
	struct proc_id shim, vmm;
	struct vm_id id;

	if (ring < 0)
		return -1;
	fcm_copy(id.s, sizeof id.s, argv[3]);
	if (getenv("CGROUP"))
		strv_add(&cgroups, getenv("CGROUP"));
	if (qemu ? plan_qemu(argv + 6, run, &id, &plan, err) < 0
		 : (plan_program(argv + 6, run, &plan), false))
		return -1;
	struct shim_spec spec = {
		.id = id,
		.shim = argv[1],
		.jail = jail,
		.vm_dirfd = dirfd,
		.ring_fd = ring,
		.tap_fd = qemu ? atoi(argv[11]) : -1,
		.uid = (uid_t)atoi(argv[4]),
		.cgroups = &cgroups,
		.plan = &plan,
		.deadline = clock_in(limit_ms),
	};
	double t = now_ms();
	if (shim_start(&spec, &shim, &vmm, err) < 0)
		return -1;
	double started = now_ms() - t;
	if (qemu && talk(run_dirfd, &attach, &boot, err) < 0)
		return -1;
	printf("shim=%d vmm=%d start_ms=%.2f attach_ms=%.2f boot_ms=%.2f\n", (int)shim.pid, (int)vmm.pid,
		started, attach, boot);
	return 0;
}

int main(int argc, char **argv)
{
	struct fcm_error err;
	const char *limit = getenv("LIMIT_MS");

	if (limit)
		limit_ms = atoi(limit);
	if (argc < 7 || (strcmp(argv[5], "plan") == 0 && argc != 12)) {
		fprintf(stderr, "usage: see run-vmm.c\n");
		return 2;
	}
	if (start(argv, &err) == 0)
		return 0;
	printf("error: %s\n", err.msg);
	return 1;
}
