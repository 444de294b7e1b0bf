/*
 * A command in a guest: what exec.c (the request, the plain form) and execstream.c (the form with streams) share.
 */
#pragma once

#include "daemon/api/api.h"
#include "daemon/engine/mainlog.h"

struct exec {
	struct vm *vm;		     /* held */
	struct guest_stream *stream; /* NULL for a main process that has ended already */
	bool attached;		     /* it is the main process, whose output comes from the log: */
	uint64_t boot;		     /* what this run of it printed */
	struct mainlog_reader log;
	int64_t deadline; /* clock_ms() */
	uint32_t timeout; /* seconds, for the message */
};

/* How it ended. */
struct exec_result {
	int exit;	 /* 0..255; 128 and the signal's number when one ended it */
	int signal;	 /* or 0 */
	int64_t pid;	 /* of what was detached, or 0 */
	char error[200]; /* why it couldn't be run (exit is 126 or 127), or "" */
};

/* The session with the agent of a VM that runs; the caller's (guest_unref()). Waits a few seconds for one: after a start of the
 * daemon, or where the create waited for nothing. NULL with FCM_WRONG_STATE, or FCM_UNAVAILABLE. */
struct guest *exec_guest(struct vm *vm, struct fcm_error *err);

/* Its result when guest_stream_read() said GUEST_RESULT or GUEST_BROKEN. FCM_GUEST when there is none. */
int exec_result(const struct exec *e, struct exec_result *ret, struct fcm_error *err) must_check;

/* The deadline has come: FCM_TIMEOUT. Returns -1. */
int exec_too_late(const struct exec *e, struct fcm_error *err);

/* Wait until a stream has something to say, in vain until the deadline, or is not wanted any more. */
enum exec_news { EXEC_NEWS, EXEC_LATE, EXEC_CLIENT_GONE, EXEC_STOPPING };
enum exec_news exec_wait(struct request *rq, struct guest_stream *stream, int64_t deadline);

/* Cancel it, if it isn't over, and free it. */
void exec_free(struct exec *e);

/* Run it over the client's connection, whose protocol is then "fcm-stream"; `e` is taken over. */
int exec_stream(struct request *rq, struct exec *e);
#define EXEC_PROTOCOL "fcm-stream"
