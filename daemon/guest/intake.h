/*
 * What a guest sent, taken apart: pure, so that it can be fuzzed. Bytes go in, messages come out; everything
 * is bounded by the size of one frame, and nothing here believes a word of it.
 */
#pragma once

#include "common/core/frame.h"
#include "common/core/util.h"
#include "daemon/guest/guest.h"

enum { INTAKE_NONCE = 16 }; /* hex digits */

struct intake {
	struct buf bytes; /* not worked off yet: less than a frame after intake_next() said INTAKE_MORE */
	size_t used;	  /* of `bytes`, by the message that was handed out last */
	char nonce[INTAKE_NONCE + 1];
	bool up; /* false: whatever isn't the HELLO with our nonce is thrown away */
};

enum intake_kind {
	INTAKE_MORE,   /* nothing whole is there */
	INTAKE_HELLO,  /* `hello`; the session is up */
	INTAKE_ANSWER, /* `frame`, a RES */
	INTAKE_STREAM, /* `frame`, a DATA, CREDIT or END */
	INTAKE_POWER,  /* `intent` */
	INTAKE_MAIN,   /* `exit` */
	INTAKE_NOISE,  /* a good frame that means nothing to us */
	INTAKE_BROKEN, /* not a frame: the session is lost */
};

struct intake_message {
	struct frame frame; /* its payload is valid until the next call */
	size_t size;	    /* bytes that it took */
	struct guest_hello hello;
	enum guest_power intent;
	int exit;
};

/* Begin a session with a new random nonce; bytes that are there are forgotten. */
void intake_reset(struct intake *in);
void intake_done(struct intake *in);

/* The next message. The bytes of the one before are dropped first. */
enum intake_kind intake_next(struct intake *in, struct intake_message *m);

/* The intent that the agent wrote last in these bytes of a console (docs/AGENT.md, Events), or GUEST_CRASHED. Whoever may write to
 * the console can forge it, as whoever is root in the guest can make the agent say it. */
enum guest_power intake_console(const char *text, size_t n);

/* The same of its main process: how that ended, 0 to 255, or -1 when it doesn't say. */
int intake_console_main(const char *text, size_t n);
