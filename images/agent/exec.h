/*
 * Programs that the host runs in the guest (docs/AGENT.md, "Streams").
 *
 * Theory of operation. `op=exec` makes a stream (stream.h) and a process (spawn.h), which leads a session and a process group
 * of its own. It is answered later: with an error when the process couldn't execute the program, else when that has ended and
 * its output is read. Everything goes by the agent's loop: exec_poll() adds the descriptors, exec_serve() moves bytes,
 * exec_reap() learns who ended, exec_tick() answers what is over. Who is served first changes with each round, so a program
 * that floods its output has no more of the channel than another.
 *
 * A stream that is closed before its end is forgotten at once, with its descriptors; only its process group is remembered,
 * until it is killed.
 */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/core/error.h"
#include "images/agent/mainproc.h"
#include "images/agent/stream.h"

enum {
	EXEC_MAX = 128, /* streams at a time */
	EXEC_STREAM_FDS = STREAM_CHANNELS + 1,
	EXEC_FDS = EXEC_MAX * EXEC_STREAM_FDS,
	EXEC_KILL_MS = 2000, /* between SIGHUP and SIGKILL for what was closed */
};

/* A process group that has had its SIGHUP. */
struct doomed {
	pid_t group;
	int64_t at; /* of SIGKILL, on clock_ms() */
};

/* Zero-initialised: there are none. */
struct execs {
	struct stream *open[EXEC_MAX];
	size_t count, first;		/* the first to be served in the next round */
	struct doomed doomed[EXEC_MAX]; /* oldest first */
	size_t doomed_count;
	struct mainproc *main; /* programs run where it lives; or NULL */
};

/* op=exec on stream `number`, a kv list of n bytes. On success the answer follows from exec_tick() or exec_serve(). */
int exec_start(struct execs *x, uint32_t number, const void *kv, size_t n, struct fcm_error *err) must_check;

/* The same for a program of our own, by its path: as root in "/", with nothing of the guest's environment. */
int exec_own(struct execs *x, uint32_t number, const struct strv *argv, bool has_stdin,
	struct fcm_error *err) must_check;

/* op=attach: a stream about the main process: its stdin, its signals, its terminal, its end. -1 with FCM_WRONG_STATE when it
 * doesn't run. */
int exec_attach(struct execs *x, uint32_t number, const void *kv, size_t n, struct fcm_error *err) must_check;

/* For mainproc.c: the words, directory and environment of a program; its user (who must be there for the environment); its stdio. */
int exec_parse_words(const void *kv, size_t n, struct spawn *sp, struct fcm_error *err) must_check;
int exec_parse_user(const void *kv, size_t n, struct spawn *sp, struct fcm_error *err) must_check;
int exec_open_main(struct mainproc *m, struct spawn *sp, bool has_stdin, struct fcm_error *err) must_check;

/* op=probe, likewise. */
int exec_probe(struct execs *x, uint32_t number, const void *kv, size_t n, struct fcm_error *err) must_check;

/* op=hooks, likewise; not where the main process runs, but as the image's own programs do. EXEC_NO_HOOKS where there is none,
 * and nothing was begun: a child that finds that out takes 50 ms of a clone's start under TCG. */
enum { EXEC_NO_HOOKS = 1 };
int exec_hooks(struct execs *x, uint32_t number, const void *kv, size_t n, struct fcm_error *err) must_check;

/* op=signal, op=resize, op=close. -1 with FCM_NOT_FOUND when that stream isn't open (any more), with FCM_INVALID when the
 * arguments are wrong. */
int exec_signal(struct execs *x, const void *kv, size_t n, struct fcm_error *err) must_check;
int exec_resize(struct execs *x, const void *kv, size_t n, struct fcm_error *err) must_check;
int exec_close(struct execs *x, const void *kv, size_t n, struct fcm_error *err) must_check;

/* A frame DATA, CREDIT or END; one for a stream that isn't open is late and means nothing. */
void exec_take(struct execs *x, const struct frame *f, struct channel *c);

/* The host is gone: close all. What was started with detach=1 goes on. */
void exec_close_all(struct execs *x);

/* Nothing runs while the machine is frozen (freeze.h): who is silent now isn't done, and who was told to end can't. To be called
 * in each round then, before exec_tick(). */
void exec_hold(struct execs *x);

/* The machine ends: SIGHUP for what has a terminal, since an interactive shell ignores SIGTERM. */
void exec_hang_up(const struct execs *x);

/* Fill in what poll(2) should wait for; returns how many of EXEC_FDS entries. exec_serve() follows, with nothing in between
 * that opens or closes streams. */
size_t exec_poll(struct execs *x, const struct channel *c, struct pollfd *fds);
void exec_serve(struct execs *x, struct channel *c, const struct pollfd *fds);

/* Reap all that is dead. Returns whether we have no child left; orphans become PID 1's, so then nobody else runs. */
bool exec_reap(struct execs *x);

/* Answer what is over, kill what was closed. To be called in each round, and when exec_deadline() is past. */
void exec_tick(struct execs *x, struct channel *c);
int64_t exec_deadline(const struct execs *x);
