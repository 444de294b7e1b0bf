/*
 * Does KVM really work here? A /dev/kvm that opens, makes a VM and then emulates each instruction is worse than TCG.
 */
#pragma once

#include "common/core/error.h"

/* What was found. */
struct kvm_probe {
	bool usable;
	double guest_ms;  /* best of 8: a million rounds of a loop in a real-mode guest */
	double native_ms; /* the same loop on the host */
	double spent_ms;  /* processor time that all of it took */
	char reason[128]; /* one line, also when usable */
};

enum {
	KVM_CPU_MS = 800,   /* where KVM works a run takes 10 ms */
	KVM_WALL_MS = 5000, /* a busy host's: other work must not make a good KVM look bad */
};

/* Run the probe with `device` ("/dev/kvm"): usable when the guest's loop takes under 100 ms or under 30 times the native
 * one. It is given up when it has used cpu_ms of processor time, as it does where every instruction is emulated, or after
 * wall_ms; interrupting it may take 0.4 s more. */
void kvm_probe(const char *device, int cpu_ms, int wall_ms, struct kvm_probe *ret);
