/*
 * The kernel command line of a guest. Pure; golden tests hold it.
 */
#pragma once

#include "daemon/vmm/vmm.h"

/* The machines that a guest can find itself in. */
enum boot_machine { BOOT_QEMU_TCG, BOOT_QEMU_KVM, BOOT_FIRECRACKER };

/* The command line for Debian's cloud kernel in that machine, the caller's to free. Every word's reason stands beside it
 * in the table in bootargs.c. */
char *bootargs(const struct vmm_config *config, enum boot_machine machine);

/* The host's TSC frequency in kHz, measured once (about 20 ms): from CPUID 0x15 where it says, else against
 * CLOCK_MONOTONIC_RAW. */
uint64_t bootargs_tsc_khz(void);
