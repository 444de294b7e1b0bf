/*
 * A guest that has halted: its CPUs stand still for ever, and the VMM waits for them. QEMU and Firecracker end when a machine is
 * reset, but neither does at a halt, and that is also what a power-off becomes on Firecracker, which has none.
 *
 * That the console ends with the kernel's last word proves nothing, for a program may have written it. That the VMM uses no
 * processor at all meanwhile does: a Linux that lives has a timer or two each second. (One that is paused uses none, either: who
 * forges that line in a guest, as its last, and is then paused has ended his own machine.)
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct halt {
	char end[64]; /* of the console: its last n bytes */
	size_t n;
	int64_t cpu_ns; /* of the VMM at the last look; -1 before the first */
};

/* The console goes on. */
void halt_output(struct halt *h, const char *p, size_t n);

/* How long to wait for more output before the next look, for poll(2): -1 where there is nothing to look for. */
int halt_patience_ms(const struct halt *h);

/* Nothing came in that time, and the VMM has used `cpu_ns` of processor time since it began. Has the guest halted? */
bool halt_look(struct halt *h, int64_t cpu_ns);
