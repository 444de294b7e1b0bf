/*
 * The HTTP server: libmicrohttpd with a thread for each request, so a handler may simply block. This header is all that
 * api/ sees of it.
 *
 *	gate.c		accepts connections, admits requests, enforces absolute deadlines
 *	guard.c		pure: is this request line and these headers acceptable at all?
 *	router.c	pure: which row of common/routes.def, or which error
 *	auth.c		bearer tokens, throttling of failures
 *	server.c	listeners, start and stop
 *	worker.c	the threads, and libmicrohttpd's callbacks
 *	request.c	bodies, calling the handler
 *	reply.c		JSON answers, errors, streams
 *	upgrade.c	a connection that becomes a stream of bytes
 *	idem.c		Idempotency-Key
 *
 * One request a connection: every answer closes it.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"
#include "common/field.h"
#include "daemon/store/token.h"

struct request;
struct vm;

enum { ROUTE_UPGRADE = 1, ROUTE_RAW = 2, ROUTE_PROGRESS = 4, ROUTE_IDEMPOTENT = 8, ROUTE_EXACT = 16 };
enum need { NEED_NONE, NEED_READ, NEED_FULL };
enum subject { SUBJECT_NONE, SUBJECT_VM, SUBJECT_VMS, SUBJECT_SNAPSHOT, SUBJECT_HOST };

/* One row of common/routes.def. A handler answers by one of the http_reply functions and returns 0, or fills in err and
 * returns -1. It may block. */
struct route {
	const char *method, *pattern;
	enum need need;
	enum subject subject;
	const struct field *body;
	size_t body_size;
	uint64_t body_max;
	unsigned flags;
	int (*handle)(struct request *rq, struct fcm_error *err);
	const struct field *query; /* its fields (common/queries.h), or NULL */
};

/* The whole table, defined by api/, ended by a row without a method. */
extern const struct route routes[];

/* Put the defaults of a route's body into *body, a zeroed struct of body_size bytes, before it is decoded. Defined by
 * api/. */
extern void route_body_init(const struct route *route, void *body);

/* ---- what a handler asks ---- */

/* Value of {name} in the path, decoded; never NULL for one that the pattern has. */
const char *http_param(const struct request *rq, const char *name);

/* Value of ?name=, decoded; "" for ?name; NULL when it isn't there. */
const char *http_query(const struct request *rq, const char *name);

/* Name of the i-th field of the query and *ret_value, its value; NULL when there are no more. */
const char *http_query_at(const struct request *rq, unsigned i, const char **ret_value);

/* Value of a header field, or NULL. */
const char *http_header(const struct request *rq, const char *name);

/* The decoded body, freed with the request. */
void *http_body(struct request *rq);

/* The VM of a SUBJECT_VM route, held until the end of the request. */
struct vm *http_vm(struct request *rq);

/* Whose token it is. A request on the unix socket needs none, for the socket's mode is the check: the name is "unix", the
 * id "", the scope full. A route that needs none has neither name nor id. */
const struct token_info *http_token(const struct request *rq);

/* The label that a VM must have ("K=V") to exist for this request's token; NULL: each VM does. */
const char *http_only(const struct request *rq);

/* {"error": {...}} as this request gets it, for the last line of a stream; the caller's. For who doesn't see all VMs another
 * one's name isn't in it (fcm_veil()). */
field_json *http_error_json(const struct request *rq, const struct fcm_error *err);

/* For the log, which has a line for each request that needs a full token: who, what, how it ended. What it is about, where the
 * path doesn't say; and how a stream ended whose last line says so (NULL: well). */
void http_about(struct request *rq, const char *what);
void http_outcome(struct request *rq, const struct fcm_error *err);

/* End the other requests that came with this token, streams as well. It has been revoked. */
void http_revoked(const char *id, const struct request *but);

/* The id in X-Request-Id, for the log. */
const char *http_request_id(const struct request *rq);

/* Is this a ROUTE_PROGRESS route, with Accept: application/x-ndjson? */
bool http_wants_progress(const struct request *rq);

/* Does the client ask for a switch to `protocol`? For routes that answer without one, too. */
bool http_wants_upgrade(const struct request *rq, const char *protocol);

/* Is the client gone (also: has it closed its sending half), or the server stopping? Handlers that wait ask this, or
 * poll(2) the two descriptors themselves: the connection's for POLLRDHUP, the server's for POLLIN, without reading. */
bool http_cancelled(struct request *rq);
int http_connection_fd(const struct request *rq);

/* Will the answer be kept for a repeat (below, "what a handler answers")? Then it is made although the client is gone. */
bool http_keeps_answer(const struct request *rq);
int http_stop_fd(void);

/* The body of a ROUTE_RAW route comes in pieces. Its handler is called when the headers are in and calls this; then
 * `feed` gets each piece (-1: answer that error and drop the rest), `finish` answers as a handler does when all are
 * there, and `done` is called once in any case, also when the client went away (without `finish` then), as the request's
 * last call. All on the connection's thread. No piece comes after a failed `feed`. The handler returns what this
 * returns. */
int http_receive(struct request *rq, int (*feed)(void *arg, const void *p, size_t n, struct fcm_error *err),
	int (*finish)(void *arg, struct request *rq, struct fcm_error *err), void (*done)(void *arg),
	void *arg);

/* ---- what a handler answers ----
 *
 * Once: a second answer is dropped. All return 0.
 *
 * On a ROUTE_IDEMPOTENT route with an Idempotency-Key the answer is kept for a repeat (same token, route and key) within
 * 24 hours, in memory: at most 1024 of them, the least recently used go first, and a restarted daemon knows none.
 * Answers of 5xx aren't kept, for what failed so has been undone and may be tried again. A repeat while the first is
 * being handled waits for its answer; one with another path, query or body is refused (422). The handler sees none of this. */

/* A JSON body; takes over `body`. */
int http_reply(struct request *rq, int status, field_json *body);

/* Text that is already encoded, such as a cached list; copied. */
int http_reply_text(struct request *rq, int status, const char *type, const char *text, size_t n);

/* A body whose length isn't known: `more` is called on the connection's thread until it returns 0 (end) or -1, may
 * block, and finds the connection's state with http_cancelled(). `done` is called once at the end, while http_vm() and
 * http_body() are still valid. When the request has an Idempotency-Key and its client goes away, `more` is called on
 * until its end, because the last line ({"result":...} or {"error":...}) answers the repeat: a stream whose operation
 * isn't cancelled by that must not end either. */
int http_reply_stream(struct request *rq, const char *type, ssize_t (*more)(void *arg, char *p, size_t max),
	void (*done)(void *arg), void *arg);

/* 101 Switching Protocols to `protocol`, then `run(arg, fd, extra, n)` on the connection's thread with the socket in
 * blocking mode and the n bytes that had been read too far; the connection closes when it returns, and `run` doesn't close
 * fd. `run` is called once in any case: with fd -1 when there was no upgrade (the client went away, or didn't ask for this
 * protocol and has been answered 400), so that it can free `arg`. It must end when http_stop_fd() is readable. */
int http_upgrade(struct request *rq, const char *protocol,
	void (*run)(void *arg, int fd, const void *extra, size_t n), void *arg);

/* ---- the server ---- */

/* What the pointers point to must stay until http_stop() has returned. */
struct http_config {
	const char *listen;	 /* "127.0.0.1:7777"; "" for none */
	const char *socket_path; /* unix socket, or "" */
	/* Group that may connect; the mode 0660 is the check. Missing group: root only. */
	const char *socket_group;
	/* Another unix socket, or "": that of a proxy. Anybody may connect, and needs a token as over TCP. */
	const char *proxy_path;
	/* Beside localhost, 127.0.0.1, [::1] and the listening address. */
	struct strv allowed_hosts;
	/* Requests that are being served, a thread each; more are answered 503. */
	uint32_t max_connections;
	/* Connections that have not shown a token yet; the oldest gives way to a new one. */
	uint32_t max_anonymous;
	/* Absolute deadline for a request's head, and again for a JSON body. */
	uint32_t header_seconds;
	/* Called on the request's thread. Resolve {vm}: exact name, exact id, else (unless `exact`) a unique id prefix
	 * of 4 or more. Returns a held VM, or NULL with FCM_NOT_FOUND. `release` drops it. */
	struct vm *(*resolve)(
		const char *text, bool exact, const struct token_info *token, struct fcm_error *err);
	void (*release)(struct vm *vm);
	/* Its id, for the log. */
	const char *(*vm_id)(const struct vm *vm);
};

/* Open the listeners: after this the ports are ours; no request is served before http_serve(). FCM_HOST when the address is
 * in use, FCM_CONFIG when it isn't one, FCM_WRONG_STATE when another daemon answers at the unix socket. */
int http_init(const struct http_config *config, struct fcm_error *err) must_check;
int http_serve(struct fcm_error *err) must_check;

/* Between these two: a Host that is ours as well. */
void http_allow_host(const char *host);

/* Stop: no new connections, wake the handlers that wait, wait for the rest until the deadline, then shut their sockets down.
 * Does nothing without http_init(). A handler that blocks on past the deadline is left behind with
 * the server's memory: the process should exit then. */
void http_stop(int64_t deadline);
