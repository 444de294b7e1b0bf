/*
 * The main process: what the machine is there for (docs/AGENT.md, "Main process").
 *
 * Theory of operation. op=main starts it once a boot, as PID 1 of a PID namespace of its own (spawn.h). Its output goes into a
 * ring (ring.h), and the host asks for it piece by piece (op=output): what it asks for next says what it has, so a host that was
 * killed goes on where it was. While the host keeps asking, nothing is dropped and the program waits for it; when it doesn't for
 * MAIN_PATIENCE_MS, the oldest is. Its stdin, its signals and its terminal are those of any stream of op=attach (exec.h).
 *
 * An init ends by reboot(2), which in a PID namespace ends PID 1 there, by a signal that tells what was meant.
 *
 * When it has ended and its output is read, so does the machine. A program that couldn't be started at all has ended, too, with 126
 * or 127, and its output says why: so the host needs no other case for it.
 */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "images/agent/channel.h"
#include "images/agent/ring.h"
#include "images/agent/spawn.h"

enum { MAIN_FDS = 3, MAIN_PATIENCE_MS = 5000 };

/* Zero-initialised: there is none. */
struct mainproc {
	bool given; /* op=main was taken in this boot; all below means something only then */
	pid_t pid;  /* 0 when it couldn't even be tried */
	int report; /* of spawn.h until the program runs, then -1 */
	int in;	    /* its stdin, or -1 */
	int out[2]; /* its stdout and stderr; of a terminal the first alone */
	int peer;   /* see stream.h */
	bool tty;
	int stop_signal;
	struct spaces spaces;
	bool ended;  /* it is reaped, */
	bool said;   /* and the host was told so in this session */
	int exit;    /* 0 to 255; 128 and the signal's number */
	bool reboot; /* it ended by wanting a reboot of its machine */
	struct ring ring;
	uint32_t asked;	  /* the request that waits for output, or 0 */
	uint64_t taken;	  /* the host has what is before this position */
	int64_t asked_at; /* clock_ms() when it asked last */
	bool told;	  /* it has all, and the end */
};

/* op=main, a kv list of n bytes. A second one in a boot does nothing. FCM_INVALID when the arguments are wrong. */
int mainproc_start(struct mainproc *m, const void *kv, size_t n, struct fcm_error *err) must_check;

/* op=output, request `number`: answered by mainproc_tick(). */
int mainproc_output(
	struct mainproc *m, uint32_t number, const void *kv, size_t n, struct fcm_error *err) must_check;

/* Does it run? */
bool mainproc_runs(const struct mainproc *m);

/* Where it lives, for what runs beside it in there; NULL where it doesn't. */
const struct spaces *mainproc_spaces(const struct mainproc *m);

/* A new session, or none: nobody asks any more. */
void mainproc_forget_host(struct mainproc *m);

/* Send it the signal that it wants to end by. Returns whether it runs. */
bool mainproc_stop(const struct mainproc *m);
void mainproc_kill(const struct mainproc *m);

/* op=kill: send it a signal. FCM_INVALID, FCM_WRONG_STATE when it doesn't run. */
int mainproc_signal(const struct mainproc *m, const void *kv, size_t n, struct fcm_error *err) must_check;

/* Somebody ended its stdin for good. */
void mainproc_end_input(struct mainproc *m);

/* Fill in MAIN_FDS entries for poll(2), and serve them. */
void mainproc_poll(const struct mainproc *m, struct pollfd *fds);
void mainproc_serve(struct mainproc *m, const struct pollfd *fds);

/* A child was reaped. */
void mainproc_reaped(struct mainproc *m, pid_t pid, int status);

/* Say what there is to say. Returns whether it has ended and all its output is here. */
bool mainproc_tick(struct mainproc *m, struct channel *c);
int64_t mainproc_deadline(const struct mainproc *m);

/* Has the host all of it, or is there nothing to have? */
bool mainproc_told(const struct mainproc *m);

/* "fcm-agent: main exit N" on the console, for a host that wasn't there; nothing where there is no main process. */
void mainproc_say(const struct mainproc *m);

/* Free what it holds; the process isn't touched. */
void mainproc_done(struct mainproc *m);
