/*
 * The probe runs a guest of five instructions in real mode: a loop of a million rounds, then an OUT that ends KVM_RUN
 * with KVM_EXIT_IO. Where hardware runs it, that takes milliseconds; where KVM emulates (nested virtualisation without
 * hardware help passes all other checks, also "is /dev/kvm there"), a thousand times longer.
 *
 * All times are processor time, in which a guest's is counted, so that a busy host doesn't make KVM look slow.
 *
 * KVM_RUN may take arbitrarily long or never return, so a thread of its own makes the runs. At the limit it is sent a
 * signal, which ends KVM_RUN with EINTR (KVM API, 4.10). A kernel that doesn't even do that keeps its thread and the
 * memory that the thread holds: once in the daemon's life, and better than a daemon that hangs.
 */
#include "daemon/vmm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#include "common/core/clock.h"
#include "common/core/util.h"

enum {
	ROUNDS = 1000000, /* at 100,000 a cold first run alone takes 6-16 ms anywhere */
	RUNS = 8,	  /* at most: on a busy machine the first ones are slow, and one good run is enough */
	ABANDON_MS = 400,
	USABLE_MS = 100,
	USABLE_TIMES = 30,
	GUEST_AT = 0x1000,
	GUEST_SIZE = 0x1000,
	PORT = 0x3f8,
};

/* Real mode: mov ecx, ROUNDS; dec ecx; jnz -4; mov dx, PORT; out dx, al; hlt. */
static const unsigned char guest[] = {0x66, 0xb9, ROUNDS & 0xff, ROUNDS >> 8 & 0xff, ROUNDS >> 16 & 0xff,
	ROUNDS >> 24, 0x66, 0x49, 0x75, 0xfc, 0xba, PORT & 0xff, PORT >> 8, 0xee, 0xf4};

/* Shared by the two threads; whoever comes last frees it. */
struct probe {
	char device[64];
	int kvm, vm, cpu;
	void *memory;
	struct kvm_run *run;
	size_t run_size;
	double native_ms, guest_ms, spent_ms;
	atomic_bool stop; /* no more runs */
	int ended;	  /* eventfd: the thread has nothing more to do */
	char failure[96]; /* "" while all is well */
	atomic_int users;
};

static double clock_read(clockid_t clock)
{
	struct timespec t = {0};

	clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static double now_ms(void)
{
	return clock_read(CLOCK_THREAD_CPUTIME_ID);
}

static double native_run(void)
{
	unsigned rounds = ROUNDS;
	double t = now_ms();

	__asm__ volatile("1: dec %0; jnz 1b" : "+r"(rounds) : : "cc");
	return now_ms() - t;
}

static bool failed(struct probe *p, const char *what)
{
	snprintf(p->failure, sizeof p->failure, "%s: %s", what, strerror(errno));
	return false;
}

static bool open_kvm(struct probe *p)
{
	p->kvm = open(p->device, O_RDWR | O_CLOEXEC);
	if (p->kvm < 0)
		return failed(p, p->device);
	if (ioctl(p->kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
		snprintf(p->failure, sizeof p->failure, "%s: another API version", p->device);
		return false;
	}
	p->vm = ioctl(p->kvm, KVM_CREATE_VM, 0);
	if (p->vm < 0)
		return failed(p, "KVM_CREATE_VM");
	return true;
}

static bool make_guest(struct probe *p)
{
	p->memory = mmap(NULL, GUEST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p->memory == MAP_FAILED)
		return failed(p, "mmap");
	memcpy(p->memory, guest, sizeof guest);
	struct kvm_userspace_memory_region region = {.guest_phys_addr = GUEST_AT,
		.memory_size = GUEST_SIZE,
		.userspace_addr = (uintptr_t)p->memory};
	if (ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return failed(p, "KVM_SET_USER_MEMORY_REGION");
	p->cpu = ioctl(p->vm, KVM_CREATE_VCPU, 0);
	if (p->cpu < 0)
		return failed(p, "KVM_CREATE_VCPU");
	int size = ioctl(p->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof *p->run)
		return failed(p, "KVM_GET_VCPU_MMAP_SIZE");
	p->run_size = (size_t)size;
	p->run = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->cpu, 0);
	return p->run == MAP_FAILED ? failed(p, "map the vCPU") : true;
}

static bool set_registers(struct probe *p)
{
	struct kvm_sregs s;
	struct kvm_regs r = {.rip = GUEST_AT, .rflags = 2}; /* bit 1 is always set */

	if (ioctl(p->cpu, KVM_GET_SREGS, &s) < 0)
		return failed(p, "KVM_GET_SREGS");
	s.cs.base = 0;
	s.cs.selector = 0;
	if (ioctl(p->cpu, KVM_SET_SREGS, &s) < 0 || ioctl(p->cpu, KVM_SET_REGS, &r) < 0)
		return failed(p, "KVM_SET_REGS");
	return true;
}

static double limit_ms(const struct probe *p)
{
	return MAX((double)USABLE_MS, USABLE_TIMES * p->native_ms);
}

/* One run of the guest's loop; keeps the best time. */
static bool guest_run(struct probe *p)
{
	if (!set_registers(p))
		return false;
	double t = now_ms();
	int rc = ioctl(p->cpu, KVM_RUN, 0);
	t = now_ms() - t;
	if (rc < 0)
		return atomic_load(&p->stop) ? false : failed(p, "KVM_RUN");
	if (p->run->exit_reason != KVM_EXIT_IO) {
		snprintf(p->failure, sizeof p->failure, "KVM_RUN ended with reason %u", p->run->exit_reason);
		return false;
	}
	if (p->guest_ms == 0 || t < p->guest_ms)
		p->guest_ms = t;
	return true;
}

static void release(struct probe *p)
{
	if (atomic_fetch_sub(&p->users, 1) > 1)
		return;
	if (p->run != MAP_FAILED)
		munmap(p->run, p->run_size);
	if (p->memory != MAP_FAILED)
		munmap(p->memory, GUEST_SIZE);
	fcm_closep(&p->ended);
	fcm_closep(&p->cpu);
	fcm_closep(&p->vm);
	fcm_closep(&p->kvm);
	free(p);
}

static void *runs(void *arg)
{
	struct probe *p = arg;

	if (open_kvm(p) && make_guest(p)) {
		for (int i = 0; i < RUNS && !atomic_load(&p->stop) && guest_run(p); i++)
			if (p->guest_ms < limit_ms(p))
				break;
	}
	p->spent_ms = now_ms();
	(void)!write(p->ended, &(uint64_t){1}, sizeof(uint64_t));
	release(p);
	return NULL;
}

static void on_signal(int sig)
{
	(void)sig;
}

static bool join_until(const struct probe *p, pthread_t thread, int ms)
{
	struct pollfd end = {.fd = p->ended, .events = POLLIN};

	return poll(&end, 1, ms) == 1 && pthread_join(thread, NULL) == 0;
}

/* Wait until the thread has ended, or has used cpu_ms of processor time, or wall_ms are over. Its processor time grows no
 * faster than the clock on the wall, so what is left of it can be slept. */
static bool join_within(const struct probe *p, pthread_t thread, int cpu_ms, int wall_ms)
{
	int64_t deadline = clock_in(wall_ms);
	clockid_t clock;

	if (pthread_getcpuclockid(thread, &clock) != 0)
		return false;
	for (;;) {
		int left = MIN(cpu_ms - (int)clock_read(clock), clock_left(deadline));
		if (left <= 0)
			return false;
		if (join_until(p, thread, left))
			return true;
	}
}

/* Interrupt KVM_RUN. A signal that comes just before the system call is lost, hence several. */
static bool interrupt(struct probe *p, pthread_t thread)
{
	int sig = SIGRTMIN + 5;
	struct sigaction act = {.sa_handler = on_signal}, old; /* no SA_RESTART */
	bool ended = false;

	atomic_store(&p->stop, true);
	if (sigaction(sig, &act, &old) < 0)
		return false;
	for (int64_t until = clock_in(ABANDON_MS); !ended && clock_left(until) > 0;) {
		pthread_kill(thread, sig);
		ended = join_until(p, thread, 20);
	}
	if (ended)
		sigaction(sig, &old, NULL);
	return ended;
}

/* The threads of libraries must not get our signal, nor the thread anybody else's. */
static int start(struct probe *p, pthread_t *ret)
{
	sigset_t all, old;

	sigfillset(&all);
	sigdelset(&all, SIGRTMIN + 5);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int e = pthread_create(ret, NULL, runs, p);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return e;
}

static void judge(const struct probe *p, struct kvm_probe *ret)
{
	ret->guest_ms = p->guest_ms;
	ret->native_ms = p->native_ms;
	ret->spent_ms = p->spent_ms;
	if (p->failure[0])
		snprintf(ret->reason, sizeof ret->reason, "no usable KVM: %s", p->failure);
	else if (p->guest_ms == 0)
		snprintf(ret->reason, sizeof ret->reason,
			"no usable KVM: a million guest rounds are not done after %.0f ms", p->spent_ms);
	else if (p->guest_ms >= limit_ms(p))
		snprintf(ret->reason, sizeof ret->reason,
			"no usable KVM: a million guest rounds took %.0f ms (%.1f ms on the host)",
			p->guest_ms, p->native_ms);
	else {
		ret->usable = true;
		snprintf(ret->reason, sizeof ret->reason,
			"KVM works: a million guest rounds took %.1f ms (%.1f ms on the host)", p->guest_ms,
			p->native_ms);
	}
}

void kvm_probe(const char *device, int cpu_ms, int wall_ms, struct kvm_probe *ret)
{
	struct probe *p = xalloc(sizeof *p);
	pthread_t thread;

	*ret = (struct kvm_probe){0};
	*p = (struct probe){.kvm = -1,
		.vm = -1,
		.cpu = -1,
		.ended = eventfd(0, EFD_CLOEXEC),
		.memory = MAP_FAILED,
		.run = MAP_FAILED,
		.users = 2};
	fcm_copy(p->device, sizeof p->device, device);
	for (int i = 0; i < RUNS; i++) {
		double t = native_run();
		if (i == 0 || t < p->native_ms)
			p->native_ms = t;
	}
	errno = start(p, &thread);
	if (errno) {
		failed(p, "start a thread");
		judge(p, ret);
		atomic_store(&p->users, 1);
	} else if (join_within(p, thread, cpu_ms, wall_ms) || interrupt(p, thread)) {
		judge(p, ret);
	} else {
		pthread_detach(thread);
		snprintf(ret->reason, sizeof ret->reason, "no usable KVM: KVM_RUN can't be interrupted");
	}
	release(p);
}
