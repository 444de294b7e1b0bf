/*
 * The two halves of the scripted VMM.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/core/util.h"

/* What a fault does is said at the table in fake-vmm.c. */
enum fault {
	FAULT_NONE,
	FAULT_EXIT,
	FAULT_NOSOCKET,
	FAULT_HUNG,
	FAULT_SLOW,
	FAULT_GARBAGE,
	FAULT_HALF,
	FAULT_CLOSE,
	FAULT_FLOOD,
	FAULT_REFUSE,
	FAULT_DEAF,
	FAULT_AGENT_GARBAGE,
	FAULT_AGENT_HALF,
	FAULT_AGENT_FLOOD,
	FAULT_AGENT_ERROR,
	FAULT_NOPOWER,
	FAULT_PANIC,
	FAULT_CONSOLE,
};

/* One connection, with what was read and not yet understood, and what is to be sent. */
struct peer {
	int listen_fd, fd; /* fd: -1 when nobody is connected */
	struct buf in, out;
};

/* The guest that isn't there. */
struct machine {
	enum fault fault;
	bool running; /* CPUs were started */
	bool mounted;
	bool ended;	   /* the guest has reset the machine: exit once everything is sent */
	int64_t booted_ms; /* clock_ms() of the first `cont` */
	char boot_id[37];
	struct peer qmp, agent;
};

/* Take in what the host says on the agent's channel; answers go to m->agent.out. */
void agent_input(struct machine *m);
