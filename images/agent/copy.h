/*
 * Files of the guest as a tar archive, and back: op=get and op=put (docs/AGENT.md).
 *
 * Both are an exec whose program is this one's own file, so credit, the end, cancelling and reaping are those of every other
 * program, and a disk that hangs stops a process and not PID 1. What it says of itself goes out on stderr (an error) and, of
 * put, on stdout (what came), as a kv list.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/core/error.h"
#include "images/agent/exec.h"

/* How it is called: AGENT copy get|put PATH [place]. */
#define COPY_COMMAND "copy"

/* op=get or op=put on stream `number`, a kv list of n bytes. As exec_start(). */
int copy_get(struct execs *x, uint32_t number, const void *kv, size_t n, struct fcm_error *err) must_check;
int copy_put(struct execs *x, uint32_t number, const void *kv, size_t n, struct fcm_error *err) must_check;

/* The program. Returns its exit status: 0 or 1. */
int copy_run(int argc, char *argv[]);
