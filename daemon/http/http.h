/*
 * The HTTP server: libmicrohttpd with a thread per connection, which is the one mode in which a handler may simply
 * block (docs/ARCHITECTURE.md says why). This header is all that api/ sees of it.
 *
 *	server.c	listeners, limits, absolute deadlines
 *	guard.c		pure: is this request line and these headers acceptable at all?
 *	router.c	pure: which row of common/routes.def, or which error
 *	auth.c		bearer tokens, throttling of failures
 *	reply.c		JSON answers, errors, streams
 *	upgrade.c	a connection that becomes a stream of bytes
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"
#include "common/field.h"
#include "daemon/store/token.h"

struct request;
struct vm;

enum { ROUTE_OPEN = 1, ROUTE_UPGRADE = 2, ROUTE_RAW = 4, ROUTE_PROGRESS = 8, ROUTE_IDEMPOTENT = 16, ROUTE_EXACT = 32 };
enum subject { SUBJECT_NONE, SUBJECT_VM };

/* One row of common/routes.def. A handler answers by one of the http_reply functions and returns 0, or fills in err and
 * returns -1. It may block. */
struct route {
	const char *method, *pattern;
	enum subject subject;
	const struct field *body;
	size_t body_size;
	uint64_t body_max;
	unsigned flags;
	int (*handle)(struct request *rq, struct fcm_error *err);
};

/* The whole table, defined by api/, ended by a row without a method. */
extern const struct route routes[];

/* ---- what a handler asks ---- */

const char *http_param(const struct request *rq, const char *name); /* value of {name} in the path, decoded; never NULL for one that the pattern has */
const char *http_query(const struct request *rq, const char *name); /* value of ?name=, or NULL */
const char *http_header(const struct request *rq, const char *name); /* or NULL */
void *http_body(struct request *rq);				     /* the decoded struct, freed with the request */
struct vm *http_vm(struct request *rq);				     /* the resolved VM of a SUBJECT_VM route, held until the end of the request */
const struct token_info *http_token(const struct request *rq);
const char *http_request_id(const struct request *rq);
bool http_wants_progress(const struct request *rq); /* Accept: application/x-ndjson on a ROUTE_PROGRESS route */

/* Is the client gone, or the server stopping? For handlers that wait; http_wait_fds() gives poll(2) descriptors. */
bool http_cancelled(struct request *rq);
int http_connection_fd(const struct request *rq);
int http_stop_fd(void);

/* The body of a ROUTE_RAW route comes in pieces. Its handler is called when the headers are in and calls this; then
 * `feed` gets each piece (-1: answer that error and drop the rest), `finish` answers as a handler does when all are
 * there, and `done` is called once in any case, also when the client went away. */
int http_receive(struct request *rq, int (*feed)(void *arg, const void *p, size_t n, struct fcm_error *err),
	int (*finish)(void *arg, struct request *rq, struct fcm_error *err), void (*done)(void *arg), void *arg);

/* ---- what a handler answers ---- */

/* A JSON body; takes over `body`. */
int http_reply(struct request *rq, int status, field_json *body);

/* Text that is already encoded, such as a cached list; copied. */
int http_reply_text(struct request *rq, int status, const char *type, const char *text, size_t n);

/* A body whose length isn't known: `more` is called on the connection's thread until it returns 0 (end) or -1, may
 * block, and finds the connection's state with http_cancelled(). `done` is called once at the end. */
int http_reply_stream(struct request *rq, const char *type, ssize_t (*more)(void *arg, char *p, size_t max),
	void (*done)(void *arg), void *arg);

/* 101 Switching Protocols to `protocol`, then `run(arg, fd, extra, n)` on the connection's thread with the socket in
 * blocking mode and the n bytes that had been read too far; the connection closes when it returns. */
int http_upgrade(struct request *rq, const char *protocol, void (*run)(void *arg, int fd, const void *extra, size_t n), void *arg);

/* ---- the server ---- */

struct http_config {
	const char *listen;	   /* "127.0.0.1:7777"; "" for none */
	const char *socket_path;   /* unix socket, or "" */
	const char *socket_group;  /* group that may connect; the mode 0660 is the check. Missing group: root only */
	struct strv allowed_hosts; /* beside localhost, 127.0.0.1, [::1] and the listening address */
	uint32_t max_connections;  /* of authenticated and other ones together */
	uint32_t max_anonymous;	   /* connections that have not shown a token yet */
	uint32_t header_seconds;   /* absolute deadline for a request's headers */
	/* Resolve {vm}: exact name, exact id, else (unless `exact`) a unique id prefix of 4 or more. Returns a held VM, or
	 * NULL with FCM_NOT_FOUND. `release` drops it. */
	struct vm *(*resolve)(const char *text, bool exact, const struct token_info *token, struct fcm_error *err);
	void (*release)(struct vm *vm);
};

/* Open the listeners: after this the ports are ours; no request is served before http_serve(). */
int http_init(const struct http_config *config, struct fcm_error *err) must_check;
int http_serve(struct fcm_error *err) must_check;

/* Stop: no new connections, wake the handlers that wait, wait for the rest until the deadline. */
void http_stop(int64_t deadline);
