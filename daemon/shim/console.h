/*
 * The console of one VM, in the shim: what the VMM prints goes into the ring file and to whoever is attached;
 * what they type goes to the VMM.
 *
 * The guest decides how much comes, the readers how fast it goes away. So nothing is ever queued: a reader is
 * a position in the ring, and one that the ring has overtaken is dropped. Of input at most one buffer is
 * held; until the VMM has taken it nobody is read from.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"
#include "daemon/shim/halt.h"
#include "daemon/shim/plan.h"

enum { CONSOLE_INPUT = 4096 };

struct console_reader {
	int fd; /* -1: free */
	uint64_t pos;
	bool silent; /* it has shut down its sending side */
};

struct console {
	struct shim_ring *ring; /* the head, mapped */
	int ring_fd, times_fd, listen_fd;
	int64_t marked; /* the time of the last mark */
	int out_fd;	/* from the VMM's stdout and stderr; -1 once it is closed */
	int in_fd;	/* to its stdin; -1 likewise */
	uint64_t start; /* of this run in the ring's count: a reader sees this run only */
	struct console_reader readers[SHIM_READERS];
	char input[CONSOLE_INPUT];
	size_t input_n;
	struct halt halt;
};

/* Map the ring and listen at `socket`. times_fd is where the marks go. Both files stay the caller's. */
int console_open(
	struct console *c, int ring_fd, int times_fd, const char *socket, struct fcm_error *err) must_check;

/* Carry bytes until the child `pid`, whose pidfd is given, too, has ended, then take what is left of its output. One whose guest
 * has halted is killed. out_fd and in_fd are taken over, and must not block. */
void console_run(struct console *c, pid_t pid, int pidfd, int out_fd, int in_fd);
