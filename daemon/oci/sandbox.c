#include "daemon/oci/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* What a job without a network does: it reads and writes what is open or in its directory, and takes memory. Whatever else a C
 * library tries is refused and not fatal. */
static const int allowed[] = {
	SCMP_SYS(read),
	SCMP_SYS(readv),
	SCMP_SYS(pread64),
	SCMP_SYS(write),
	SCMP_SYS(writev),
	SCMP_SYS(pwrite64),
	SCMP_SYS(lseek),
	SCMP_SYS(ftruncate),
	SCMP_SYS(fallocate),
	SCMP_SYS(fsync),
	SCMP_SYS(fdatasync),
	SCMP_SYS(fstat),
	SCMP_SYS(newfstatat),
	SCMP_SYS(openat),
	SCMP_SYS(renameat),
	SCMP_SYS(unlinkat),
	SCMP_SYS(close),
	SCMP_SYS(fcntl),
	SCMP_SYS(poll),
	SCMP_SYS(sendto),
	SCMP_SYS(recvfrom),
	SCMP_SYS(mmap),
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(mprotect),
	SCMP_SYS(madvise),
	SCMP_SYS(brk),
	SCMP_SYS(futex),
	SCMP_SYS(getrandom),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(sigaltstack), /* AddressSanitizer, before a function that doesn't return */
	SCMP_SYS(restart_syscall),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
};

/* What no job with one needs, and an attacker would: programs, other processes, other namespaces, the kernel's rarely used ends. */
static const int refused[] = {
	SCMP_SYS(execve),
	SCMP_SYS(execveat),
	SCMP_SYS(fork),
	SCMP_SYS(vfork),
	SCMP_SYS(ptrace),
	SCMP_SYS(process_vm_readv),
	SCMP_SYS(process_vm_writev),
	SCMP_SYS(pidfd_open),
	SCMP_SYS(pidfd_getfd),
	SCMP_SYS(kill),
	SCMP_SYS(tkill),
	SCMP_SYS(rt_sigqueueinfo),
	SCMP_SYS(rt_tgsigqueueinfo),
	SCMP_SYS(pidfd_send_signal),
	SCMP_SYS(unshare),
	SCMP_SYS(setns),
	SCMP_SYS(mount),
	SCMP_SYS(umount2),
	SCMP_SYS(pivot_root),
	SCMP_SYS(chroot),
	SCMP_SYS(open_tree),
	SCMP_SYS(move_mount),
	SCMP_SYS(fsopen),
	SCMP_SYS(fsmount),
	SCMP_SYS(mount_setattr),
	SCMP_SYS(bpf),
	SCMP_SYS(perf_event_open),
	SCMP_SYS(userfaultfd),
	SCMP_SYS(io_uring_setup),
	SCMP_SYS(io_uring_enter),
	SCMP_SYS(io_uring_register),
	SCMP_SYS(keyctl),
	SCMP_SYS(add_key),
	SCMP_SYS(request_key),
	SCMP_SYS(init_module),
	SCMP_SYS(finit_module),
	SCMP_SYS(kexec_load),
	SCMP_SYS(shmget),
	SCMP_SYS(msgget),
	SCMP_SYS(semget),
	SCMP_SYS(mq_open),
	SCMP_SYS(personality),
	SCMP_SYS(name_to_handle_at),
	SCMP_SYS(open_by_handle_at),
};

static void releasep(scmp_filter_ctx *f)
{
	if (*f)
		seccomp_release(*f);
}

/* What a job with a network may do in one way only. A thread is made by clone(2), where its flags can be seen; clone3(2) keeps
 * them in memory, and a C library that is told that there is none takes the other. A thread gets no user namespace (EINVAL),
 * and without one there is no other. abort(3) sends a signal to one of our own threads. */
static int refuse_in_part(scmp_filter_ctx f)
{
	const uint32_t eperm = SCMP_ACT_ERRNO(EPERM);
	int r = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);

	if (r == 0)
		r = seccomp_rule_add(
			f, eperm, SCMP_SYS(clone), 1, SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
	if (r == 0)
		r = seccomp_rule_add(
			f, eperm, SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_NE, (scmp_datum_t)getpid(), 0));
	return r;
}

/* A resolver and a TLS library do too much for a list of all that they may. */
static int filter(bool network, struct fcm_error *err)
{
	const int *calls = network ? refused : allowed;
	size_t n = network ? ARRAY_SIZE(refused) : ARRAY_SIZE(allowed);
	uint32_t rule = network ? SCMP_ACT_ERRNO(EPERM) : SCMP_ACT_ALLOW;
	_cleanup_(releasep) scmp_filter_ctx f =
		seccomp_init(network ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(EPERM));
	int r = f ? 0 : -ENOMEM;

	for (size_t i = 0; r == 0 && i < n; i++)
		r = seccomp_rule_add(f, rule, calls[i], 0);
	if (r == 0 && network)
		r = refuse_in_part(f);
	if (r == 0)
		r = seccomp_load(f);
	errno = -r;
	return r < 0 ? fcm_fail_errno(err, "seccomp") : 0;
}

/* An empty root: a tmpfs over a directory that every host has, which then becomes the root (pivot_root(2), "pivot_root(".",
 * ".")"). */
static int empty_root(struct fcm_error *err)
{
	if (mount("none", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0555") < 0 ||
		chdir("/tmp") < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 ||
		mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 ||
		chdir("/") < 0)
		return fcm_fail_errno(err, "make an empty root");
	return 0;
}

static int separate(bool network, struct fcm_error *err)
{
	if (unshare(CLONE_NEWNS | CLONE_NEWIPC | (network ? 0 : CLONE_NEWNET)) < 0 ||
		mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return fcm_fail_errno(err, "make namespaces");
	return network ? 0 : empty_root(err);
}

/* Far beyond what a good image needs, so that a bad one ends the job and nothing else. */
static int set_limits(struct fcm_error *err)
{
	static const struct {
		int what;
		rlim_t most;
	} limits[] = {
		{RLIMIT_CORE, 0},
		{RLIMIT_NOFILE, 256},
#ifndef __SANITIZE_ADDRESS__ /* whose own bookkeeping counts as data, terabytes of it */
		{RLIMIT_DATA, (rlim_t)2 << 30},
#endif
		{RLIMIT_FSIZE, (rlim_t)256 << 30},
		{RLIMIT_CPU, 3600},
	};

	for (size_t i = 0; i < ARRAY_SIZE(limits); i++)
		if (setrlimit(limits[i].what, &(struct rlimit){limits[i].most, limits[i].most}) < 0)
			return fcm_fail_errno(err, "set limits");
	return 0;
}

/* Changing the uid from 0 empties the permitted, effective and ambient sets (capabilities(7)); the inheritable one means
 * nothing without an exec. */
static int drop(uid_t uid, struct fcm_error *err)
{
	if (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
		return fcm_fail_errno(err, "become uid %u", (unsigned)uid);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return fcm_fail_errno(err, "prctl");
	return 0;
}

int sandbox_enter(uid_t uid, bool network, struct fcm_error *err)
{
	if (uid == 0)
		return fcm_fail(err, FCM_INTERNAL, "a job doesn't run as root");
	if (separate(network, err) < 0 || set_limits(err) < 0 || drop(uid, err) < 0)
		return -1;
	return filter(network, err);
}
