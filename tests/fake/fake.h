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
	FAULT_RESET,
	FAULT_NOISE,
	FAULT_NOSAVE,
	FAULT_BIGSAVE,
	FAULT_CUTSAVE,
	FAULT_BADSAVE,
	FAULT_BADLOAD,
	FAULT_BADSTOP,
	FAULT_WRITES,
};

enum { FAULT_SLOW_MS = 3000, FAULT_LATE_MS = 4000 };

/* One connection, with what was read and not yet understood, and what is to be sent. */
struct peer {
	int listen_fd, fd; /* fd: -1 when nobody is connected */
	int passed;	   /* the last descriptor that came with the bytes, or -1 */
	struct buf in, out;
};
#define NO_PEER                                                                                              \
	{                                                                                                    \
		.listen_fd = -1, .fd = -1, .passed = -1                                                      \
	}

/* The guest that isn't there. */
struct machine {
	enum fault fault, later; /* later: it becomes the fault when the machine is first saved or loaded */
	unsigned calls, die_at;	 /* by the daemon; the one at which it dies, or 0 */
	bool running;		 /* CPUs were started */
	bool mounted;
	bool ended;	   /* the guest has reset the machine: exit once everything is sent */
	int status;	   /* with which it exits then */
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

/* Give the machine the fault that the n bytes name, if they name one; or that of a guest whose name in the kernel's command
 * line is fault-<kind>. */
void fault_set(struct machine *m, const char *kind, size_t n);
void fault_set_of_line(struct machine *m, const char *line);

/* A call of the daemon's has come: it may be the last. Saving or loading begins with this one. */
void machine_called(struct machine *m);
void machine_saves(struct machine *m);

/* What of the machine is saved, and the machine that was. False when it is none. */
void machine_save(const struct machine *m, struct buf *ret);
bool machine_load(struct machine *m, const char *text, size_t n);

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
