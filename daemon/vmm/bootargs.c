#include "daemon/vmm/bootargs.h"

#include <arpa/inet.h>
#include <cpuid.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

enum {
	ON_TCG = 1 << BOOT_QEMU_TCG,
	ON_QEMU = ON_TCG | 1 << BOOT_QEMU_KVM,
	ON_FC = 1 << BOOT_FIRECRACKER,
	ON_ALL = ON_QEMU | ON_FC,
};

/* The words whose value doesn't depend on the VM; kernel-parameters.txt of the kernel documents each. */
static const struct {
	unsigned on;
	const char *word;
} words[] = {
	/* From the first line on; hvc0 loses what is printed before its driver loads. */
	{ON_ALL, "console=ttyS0"},
	/* Each line on an emulated serial port costs time. */
	{ON_ALL, "quiet"},
	/* A triple fault ends the VMM at once; other ways wait for devices that aren't there. */
	{ON_QEMU, "reboot=t"},
	/* The keyboard controller's reset is the one that Firecracker means to end it; without reboot= it hangs. */
	{ON_FC, "reboot=k"},
	/* A panic resets at once, so the VMM ends and the restart policy decides. */
	{ON_ALL, "panic=-1"},
	/* The watchdog would compare it with clocks that a busy host delays. */
	{ON_TCG, "tsc=reliable"},
	/* What keeps a processor from speculating has no meaning for one that is translated (an indirect branch of the guest is
	 * another one of the host's), and costs a fourth of a boot. */
	{ON_TCG, "mitigations=off"},
	/* The check fails when the host is busy, and panics. */
	{ON_ALL, "no_timer_check"},
	/* Self-tests of the crypto algorithms: 0.3 s. */
	{ON_ALL, "cryptomgr.notests"},
	/* No patching of code back and forth when the second CPU comes. */
	{ON_TCG, "noreplace-smp"},
	/* There is no PCI; probing for it is slow. */
	{ON_ALL, "pci=off"},
	/* The other three are probed in vain. */
	{ON_ALL, "8250.nr_uarts=1"},
	/* RDRAND seeds the pool, so nothing waits for entropy. */
	{ON_ALL, "random.trust_cpu=on"},
	/* Firecracker's i8042 knows a keyboard that can type ctrl-alt-del, and little else: no mouse, no multiplexer, no
	 * commands, on whose answers the guest would wait. nokbd, or nopnp beside dumbkbd, would lose ctrl-alt-del
	 * silently. */
	{ON_FC, "i8042.noaux"},
	{ON_FC, "i8042.nomux"},
	{ON_FC, "i8042.dumbkbd"},
};

static struct in_addr netmask(unsigned prefix)
{
	return (struct in_addr){htonl(prefix ? ~0u << (32 - prefix) : 0)};
}

char *bootargs(const struct vmm_config *config, enum boot_machine machine)
{
	struct buf b = {0};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (words[i].on & (1u << machine))
			buf_printf(&b, "%s ", words[i].word);
	/* Without it the kernel calibrates the TSC against the PIT, which fails on a busy host: the guest then hangs for
	 * ever (7 of 8 boots). Under KVM the guest has kvmclock. */
	if (machine == BOOT_QEMU_TCG && config->tsc_khz)
		buf_printf(&b, "tsc_early_khz=%" PRIu64 " ", config->tsc_khz);
	/* Documentation/admin-guide/nfs/nfsroot.rst. Debian's kernel has no IP_PNP: what reads this is the guest's user
	 * space. */
	buf_printf(&b, "ip=%s::%s:%s:%s:eth0:on", ip_dotted(config->ip).s, ip_dotted(config->gateway).s,
		ip_dotted(netmask(config->prefix)).s, config->name.s);
	return b.p;
}

/* Intel SDM vol. 2A, CPUID leaf 15H: TSC frequency = ECX (crystal, Hz) * EBX / EAX. 0 when the CPU doesn't say. */
static uint64_t tsc_from_cpuid(void)
{
	unsigned a = 0, b = 0, c = 0, d = 0;

	if (!__get_cpuid(0x15, &a, &b, &c, &d) || a == 0 || b == 0 || c == 0)
		return 0;
	return (uint64_t)c * b / a / 1000;
}

struct instant {
	uint64_t ns, tsc, window; /* window: how far apart the two clocks were read */
};

static uint64_t raw_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_RAW, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Both clocks at one instant: the best of a few tries, since we may be preempted between the reads. */
static struct instant read_clocks(void)
{
	struct instant best = {.window = UINT64_MAX};

	for (int i = 0; i < 8; i++) {
		uint64_t before = raw_ns(), tsc = __rdtsc(), after = raw_ns();
		if (after - before < best.window)
			best = (struct instant){before + (after - before) / 2, tsc, after - before};
	}
	return best;
}

static uint64_t tsc_measured(void)
{
	const struct timespec span = {.tv_nsec = 20000000};
	struct instant a = read_clocks();

	nanosleep(&span, NULL);
	struct instant b = read_clocks();
	return b.ns > a.ns && b.tsc > a.tsc
		       ? (uint64_t)((double)(b.tsc - a.tsc) * 1e6 / (double)(b.ns - a.ns))
		       : 0;
}

static uint64_t tsc_khz;
static pthread_once_t tsc_once = PTHREAD_ONCE_INIT;

static void find_tsc(void)
{
	tsc_khz = tsc_from_cpuid();
	if (tsc_khz == 0)
		tsc_khz = tsc_measured();
}

uint64_t bootargs_tsc_khz(void)
{
	pthread_once(&tsc_once, find_tsc);
	return tsc_khz;
}
