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
	char reason[128]; /* one line, also when usable */
};

/* Run the probe with `device` ("/dev/kvm"; NULL: KVM isn't wanted, nothing is done): usable when the guest's loop takes
 * under 100 ms or under 30 times the native one. Gives up after 0.8 s where every instruction is emulated, and takes 1.2 s
 * at the very most. */
void kvm_probe(const char *device, struct kvm_probe *ret);
