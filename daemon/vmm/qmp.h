/*
 * The QEMU Machine Protocol, as a client of it (docs/interop/qmp-spec.txt of QEMU): a JSON object a line.
 *
 * Who speaks at the other end is a process that a guest may have taken over. So a line has a bound, a command has a
 * deadline, and of an answer little is used: the fact that it isn't an error, and the text of one, made printable; in which
 * state a machine or its migration is. Lines that aren't the answer have no bound but the deadline: nobody reads between two
 * commands, and in months a guest that sets its clock has caused thousands of events.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"
#include "common/field.h"

enum { QMP_LINE_MAX = 65536 };

struct qmp {
	int fd;
	struct buf in;
	unsigned id; /* of the last command */
	bool broken; /* a command was sent in part, or what came is no line of the protocol */
};

/* Shake hands on `fd`, which is taken over in any case and made non-blocking. FCM_TIMEOUT, FCM_VMM. */
int qmp_open(struct qmp *q, int fd, int64_t deadline, struct fcm_error *err) must_check;

/* Run a command; `arguments` is JSON text of ours, or NULL. The answer's content is dropped. FCM_VMM with the VMM's own
 * words when it refuses. After FCM_TIMEOUT it may be done all the same, and the next command doesn't take its late answer for its
 * own; after rubbish the connection is good for nothing. */
int qmp_run(struct qmp *q, const char *command, const char *arguments, int64_t deadline,
	struct fcm_error *err) must_check;

/* Run a command without arguments. *ret is what it returned, the caller's: the VMM's words, be they no object. */
int qmp_ask(struct qmp *q, const char *command, field_json **ret, int64_t deadline,
	struct fcm_error *err) must_check;

/* Give the VMM a copy of the descriptor `fd`, which later commands call `name` ("fd:name"). */
int qmp_give(struct qmp *q, const char *name, int fd, int64_t deadline, struct fcm_error *err) must_check;

/* Close. A zeroed one whose fd is -1 is fine. */
void qmp_done(struct qmp *q);
