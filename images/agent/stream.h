/*
 * The bytes of one exec: its stdin, stdout and stderr, with credit (docs/AGENT.md, "Streams").
 *
 * A stream's memory is bounded by what the host may send on its stdin, FRAME_WINDOW; output is read only when the host has
 * granted room for it and nothing waits in the channel. So it waits in the program's pipe, where many small writes become one
 * frame, and no program keeps us from reading what the host says. All descriptors are non-blocking, and a
 * terminal's master stands twice, as stdin and as stdout.
 *
 * Output is over at its end of file. A process that the program left behind may keep it open for ever, so when the program
 * has ended, STREAM_QUIET_MS of silence end it too; the time in which we didn't listen is no silence.
 */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "images/agent/channel.h"

enum {
	STREAM_CHANNELS = 3, /* enum frame_channel */
	STREAM_QUIET_MS = 200,
	/* Of output that is read at once: with its header what a virtio-serial port takes in one write(2), 32 KiB
	 * (drivers/char/virtio_console.c). */
	STREAM_READ_MAX = FRAME_MAX - FRAME_HEADER,
};

struct stream {
	uint32_t number;
	bool tty, detach;
	bool attached; /* to the main process, whose end is its end (mainproc.h): there is no output on it */
	bool probe;    /* when it ends its process group does */

	pid_t pid;  /* leader of its process group */
	int report; /* of spawn.h until the program runs, then -1 */
	/* The other end of its terminal, open until the program is reaped: were it the program's alone, one that closes its
	 * stdio before it exits, as GNU's do, would hang up its own terminal, and die of SIGHUP. -1 without a terminal. */
	int peer;
	bool ended; /* the program is reaped: */
	int status; /* see waitpid(2) */

	int fd[STREAM_CHANNELS];	  /* our ends; -1: closed, or never there */
	uint64_t credit[STREAM_CHANNELS]; /* bytes that the host may send on stdin, and we on the others */
	struct buf in;			  /* for stdin, not written yet */
	size_t used;			  /* bytes of stdin that went away since we granted some */
	bool in_ended;			  /* stdin ends behind `in` */
	int64_t heard;			  /* clock_ms() when output came last */
};

/* A stream without a process or descriptors. */
struct stream *stream_new(uint32_t number);

/* Close what is open, and free it. NULL-safe. */
void stream_free(struct stream *s);

/* What poll(2) should wait for on s->fd[i]; 0 for nothing (leave it out: a pipe without a reader would spin). To be asked
 * before each poll(2). */
short stream_events(struct stream *s, unsigned i, const struct channel *c);

/* Serve what poll(2) said of s->fd[i]: at most STREAM_READ_MAX bytes of output. */
void stream_serve(struct stream *s, unsigned i, struct channel *c);

/* A frame DATA, CREDIT or END of the host. Returns false when it sent more than it may. */
bool stream_take(struct stream *s, const struct frame *f, struct channel *c);

/* When stream_drain() has something to do: a moment on clock_ms(), or FCM_FOREVER. */
int64_t stream_deadline(const struct stream *s);

/* End output that fell silent after the program's end. Returns whether all is over, the program and its output. */
bool stream_drain(struct stream *s, struct channel *c);
