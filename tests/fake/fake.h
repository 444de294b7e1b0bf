/*
 * The parts of the scripted VMMs.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/core/util.h"

/* What a fault does is said at the table in machine.c. */
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
	FAULT_LATE,
	FAULT_AGENT_GARBAGE,
	FAULT_AGENT_HALF,
	FAULT_AGENT_FLOOD,
	FAULT_AGENT_ERROR,
	FAULT_NOPOWER,
	FAULT_PANIC,
	FAULT_CONSOLE,
	FAULT_ORDER,
	FAULT_TWICE,
	FAULT_LOST,
	FAULT_NOISE,
};

enum { FAULT_SLOW_MS = 3000, FAULT_LATE_MS = 4000 };

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
	struct peer control, agent;
};

/* Take in what the host says on the agent's channel; answers go to m->agent.out. */
void agent_input(struct machine *m);

/* Streams (exec.c): a request op=exec, op=get or op=put, op=probe; a DATA, CREDIT or END; op=signal, resize or close, which the
 * caller answers; a new session. */
struct frame;
void exec_open(struct machine *m, const struct frame *f);
void exec_copy(struct machine *m, const struct frame *f);
void exec_probe_open(struct machine *m, const struct frame *f);
void exec_frame(struct machine *m, const struct frame *f);
void exec_control(struct machine *m, const char *op, const struct frame *f);
void exec_reset(void);

/* The fault of that name, or FAULT_NONE; and that of a guest whose name in the kernel's command line is fault-<kind>. */
enum fault fault_find(const char *kind, size_t n);
enum fault fault_of_line(const char *line);

/* Print the table. */
void fault_list(void);

/* A listening socket; ends the program when there can't be one. */
int machine_listen(const char *path);

/* A new random boot id. */
void machine_boot_id(char id[37]);

/* Let the guest run; the first time it prints something. */
void machine_boot(struct machine *m);

/* One connection at a time: take one when there is none; take in what came (false: nothing, or the end); send what waits. */
bool peer_accept(struct peer *p);
bool peer_receive(struct peer *p);
void peer_send(struct peer *p);
void peer_hang_up(struct peer *p);
