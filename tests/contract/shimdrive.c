/*
 * Start a program as the daemon starts a VMM: fcm-shim with a plan.
 *
 *	shimdrive SHIM DIR ID UID PROGRAM ARG...	any program below /usr, which the jail shows
 *
 * DIR/jail and DIR/jail/run must exist; $CGROUP is a cgroup.procs to join, $MEMORY the size of VMM_RAM, $VARIABLE the VMM's environment. Prints "shim=PID vmm=PID", or "error: ..." and
 * ends with 1. Shim and program stay.
 */
#include <fcntl.h>
#include <stdio.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "daemon/shim/shim.h"

enum { LIMIT_MS = 15000 };

static void make_plan(char **argv, const char *run, struct vmm_plan *ret)
{
	strv_add(&ret->binds, "/usr:/usr:ro");
	strv_addf(&ret->binds, "%s:/run:rw", run);
	strv_add(&ret->binds, "/dev/null:/dev/null:dev");
	strv_add(&ret->links, "usr/bin:/bin");
	strv_add(&ret->links, "usr/lib:/lib");
	strv_add(&ret->links, "usr/lib64:/lib64");
	if (getenv("MEMORY"))
		ret->memory_mib = (unsigned)atoi(getenv("MEMORY"));
	if (getenv("VARIABLE"))
		strv_add(&ret->env, getenv("VARIABLE"));
	for (; *argv; argv++)
		strv_add(&ret->argv, *argv);
}

static int start(char **argv, struct fcm_error *err)
{
	_cleanup_(vmm_plan_done) struct vmm_plan plan = {
		.tap_fd = -1, .stdin_nonblock = getenv("NONBLOCK") != NULL};
	_cleanup_(strv_done) struct strv cgroups = {0};
	auto_free char *jail = xprintf("%s/jail", argv[2]), *run = xprintf("%s/run", jail);
	auto_close int dirfd = dir_open(AT_FDCWD, argv[2], err);
	auto_close int ring = dirfd < 0 ? -1 : shim_ring_make(dirfd, err);
	struct proc_id shim, vmm;

	if (ring < 0)
		return -1;
	make_plan(argv + 5, run, &plan);
	if (getenv("CGROUP"))
		strv_add(&cgroups, getenv("CGROUP"));
	struct shim_spec spec = {
		.shim = argv[1],
		.jail = jail,
		.vm_dirfd = dirfd,
		.ring_fd = ring,
		.tap_fd = -1,
		.uid = (uid_t)atoi(argv[4]),
		.cgroups = &cgroups,
		.plan = &plan,
		.deadline = clock_in(LIMIT_MS),
	};
	fcm_copy(spec.id.s, sizeof spec.id.s, argv[3]);
	if (shim_start(&spec, &shim, &vmm, err) < 0)
		return -1;
	printf("shim=%d vmm=%d\n", (int)shim.pid, (int)vmm.pid);
	return 0;
}

int main(int argc, char **argv)
{
	struct fcm_error err;

	if (argc < 6) {
		fprintf(stderr, "usage: shimdrive SHIM DIR ID UID PROGRAM ARG...\n");
		return 2;
	}
	if (start(argv, &err) == 0)
		return 0;
	printf("error: %s\n", err.msg);
	return 1;
}
