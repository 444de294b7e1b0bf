/*
 * What the files of this folder share: the server, and the request, which is one connection from accept(2) to close(2).
 *
 *	gate.c		accepts, waits for whole heads, admits or refuses, watches all deadlines
 *	server.c	listeners, start and stop
 *	worker.c	the threads, and the callbacks of libmicrohttpd
 *	request.c	bodies, calling the handler, what a handler asks
 *	reply.c		answers
 *	upgrade.c	connections that leave HTTP
 *	idem.c		Idempotency-Key
 *
 * Locking: server.lock guards the list `served`, and of each request in it `stage`, `fd`, `deadline`, `answered` and
 * `aborted`. The rest of a request belongs to one thread: the gate's until the hand-over, then the worker's.
 */
#pragma once

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "common/core/clock.h"
#include "daemon/http/auth.h"
#include "daemon/http/guard.h"
#include "daemon/http/http.h"
#include "daemon/http/router.h"

enum {
	LINGER_MS = 2000,     /* for a client to read its refusal before the socket closes */
	LINGER_MAX = 256,     /* connections in that state */
	PATIENCE_MS = 30000,  /* for a body, an answer: so long and then at ... */
	RATE_MIN = 16 * 1024, /* ... this many bytes a second at least */
	STALL_MS = 300000,    /* for a stream's reader to take what is there */
};

enum stage {
	STAGE_HEAD,   /* the head isn't complete */
	STAGE_SERVED, /* libmicrohttpd has it */
	STAGE_LINGER, /* answered; waiting for the client to close */
	STAGE_DEAD,   /* closed; freed after the current batch of events */
};

struct idem;
struct stream;
struct upgrade;
TAILQ_HEAD(request_list, request);

struct request {
	TAILQ_ENTRY(request) entry, queued;
	enum stage stage;
	int fd;		       /* libmicrohttpd's while served, and open until gate_done() */
	bool is_unix, trusted; /* of the listener */
	bool watched, answered, aborted;
	int64_t deadline;
	struct peer peer;
	char id[13];
	struct token_info token;
	char about[64];
	bool audited;
	char *text; /* the head, cut up by the parsers */
	struct head head;
	struct match match;
	struct query query;

	struct MHD_Connection *mhd;
	bool began, replied, body_ended;
	struct buf raw; /* a JSON body as it comes */
	void *body;
	struct vm *vm;
	struct idem *idem;
	struct stream *stream; /* both belong to the response */
	struct upgrade *upgrade;
	struct {
		int (*feed)(void *arg, const void *p, size_t n, struct fcm_error *err);
		int (*finish)(void *arg, struct request *rq, struct fcm_error *err);
		void (*done)(void *arg);
		void *arg;
		uint64_t bytes;
		int64_t since; /* when it began, later by what feed() took */
	} receive;
};

/* TCP, the unix socket, that of a proxy. */
enum { LISTENERS = 3 };

struct listener {
	int fd;
	bool is_unix;
	bool trusted; /* who may connect needs no token */
};

/* The file of a unix socket. */
struct socket_file {
	int dir; /* where it is */
	char *name;
	bool ours; /* made, so to be removed */
};

extern struct http_server {
	struct http_config config;
	struct strv hosts;
	struct listener listeners[LISTENERS];
	struct socket_file files[LISTENERS];
	unsigned n_listeners, n_files;
	int epoll_fd, stop_fd;
	pthread_t gate;
	bool running;
	atomic_bool stopping, quit;
	pthread_mutex_t lock;
	pthread_cond_t left; /* a request has left `served`, or a worker has ended */
	struct request_list served;
	unsigned n_served, n_workers;
} server;

/* ---- gate.c ---- */

/* Run the gate until server.quit; a thread's function. */
void *gate_main(void *unused);

/* libmicrohttpd is done with this connection and will close its descriptor: linger on a copy, or free the request. */
void gate_done(struct request *rq);

/* The same when the descriptor is closed already. */
void gate_lost(struct request *rq);

/* ---- worker.c ---- */

/* Once, before the gate runs. */
void worker_init(void);

/* Is there a worker for one more request, or can one be made? FCM_UNAVAILABLE. For the gate's thread only. */
int worker_ready(struct fcm_error *err) must_check;

/* Give it the request; after worker_ready(). */
void worker_add_locked(struct request *rq);

/* Wake the workers to see server.quit. */
void worker_quit(void);

/* ---- request.c ---- */

/* A call of libmicrohttpd's access handler for rq. */
enum MHD_Result request_step(struct request *rq, const char *data, size_t *n);

/* The request has ended in whatever way: let go of what the handler held. Idempotent. */
void request_end(struct request *rq);

/* What the connection's thread does next may take until `deadline` (FCM_FOREVER for a handler). Returns false when the
 * gate has given the request up in the meantime. */
bool request_deadline(struct request *rq, int64_t deadline);

/* Write the line of the log that tells of a request that needs a full token, unless that was done: it was answered `status`,
 * with the wire code of an error or "". */
void request_audit(struct request *rq, int status, const char *code);

/* Give up a request that hasn't been answered: tell the client why, directly on the socket. */
void request_abort(struct request *rq, const struct fcm_error *err);
void request_abort_locked(struct request *rq, const struct fcm_error *err);

/* ---- reply.c ---- */

/* The text of an error's body (the caller's). */
char *reply_error_text(const struct request *rq, const struct fcm_error *err);

/* Send a whole error answer on the socket, past libmicrohttpd. */
void reply_direct(struct request *rq, const struct fcm_error *err);

/* Answer an error through libmicrohttpd. */
int reply_error(struct request *rq, const struct fcm_error *err);

/* Answer text that is malloc()ed and taken over. */
int reply_text(struct request *rq, int status, const char *type, char *text, size_t n);

/* The common end of all answers: our headers, then queue it. Takes over `response` (NULL: out of memory). */
int reply_queue(
	struct request *rq, int status, const char *type, struct MHD_Response *response, int64_t deadline);

/* The request ends: tell the stream's or the upgrade's owner, if that hasn't happened yet. */
void stream_end(struct request *rq);
void upgrade_end(struct request *rq);

/* ---- idem.c ---- */

/* Claim the request's Idempotency-Key. Returns 1 when there is none or this request is the first: go on. 0 when it has
 * been answered with what the first one answered. -1: FCM_KEY_REUSED, FCM_INVALID, FCM_UNAVAILABLE, FCM_CANCELLED. */
int idem_claim(struct request *rq, struct fcm_error *err) must_check;

/* The first one's answer: kept, unless its status says that trying again may help (5xx, or 0: there was none). */
void idem_answer(struct request *rq, int status, const char *text, size_t n);

/* The same from the last line of a stream. */
void idem_answer_line(struct request *rq, const char *line, size_t n);

/* Forget all keys. */
void idem_clear(void);
