/*
 * The kernel command line of a guest. Pure; golden tests hold it.
 */
#pragma once

#include "daemon/vmm/vmm.h"

/* The command line for Debian's cloud kernel under `accel`, the caller's to free. Every word's reason stands beside it
 * in the table in bootargs.c. */
char *bootargs(const struct vmm_config *config);

/* The host's TSC frequency in kHz, measured once (about 20 ms): from CPUID 0x15 where it says, else against
 * CLOCK_MONOTONIC_RAW. */
uint64_t bootargs_tsc_khz(void);
