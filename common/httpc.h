/*
 * An HTTP client, small and bounded: libcurl behind one header. The only files that include curl.h are httpc.c and
 * httpc_download.c.
 *
 * A request goes to an http or https URL, optionally through a unix socket. It takes HTTP/1.1, follows no
 * redirect (a redirect must not carry a token elsewhere), and reads no ~/.netrc. What comes back is bounded.
 * An answer with an error status is an answer: only what kept an answer from coming is an error here.
 *
 * Tunnels (101 Switching Protocols) are not libcurl's: it has no defined behaviour after a 101.
 * httpc_upgrade() lets libcurl connect only (CURLOPT_CONNECT_ONLY, so TLS and unix sockets work alike),
 * speaks the few lines of HTTP itself and then passes bytes with curl_easy_send() and curl_easy_recv().
 *
 * Downloads are of public files from other people's servers: https only, redirects are followed (to https only; there is
 * no token that one could carry away), the environment's proxy counts, and what a broken connection left is resumed.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum {
	HTTPC_CONNECT_MS = 5000,
	HTTPC_MAX_BODY = 16 << 20,    /* of an answer that is kept whole */
	HTTPC_MAX_HEADERS = 64 << 10, /* of an answer to httpc_upgrade() */
	HTTPC_MAX_REDIRECTS = 8,      /* of a download */
	HTTPC_STALL_SECONDS = 30,     /* a download of which nothing comes for so long has broken */
};

/* A connection that is kept from request to request; not thread-safe. */
struct httpc;

struct httpc_request {
	const char *method;	    /* "GET" */
	const char *url;	    /* "http://127.0.0.1:7777/v1/vms" */
	const char *socket;	    /* unix socket to go through, or NULL */
	const char *const *headers; /* NULL-ended "Name: value", or NULL */
	const char *body;	    /* with body_size; NULL: none */
	size_t body_size;
	int upload_fd; /* a file to send as the body from its beginning, when upload_size > 0 */
	uint64_t upload_size;
	/* Or a body whose size nobody knows: called for the next bytes of it, at most n, until it returns 0; -1 ends the
	 * transfer. It may block. */
	ssize_t (*source)(void *arg, char *p, size_t n);
	int64_t timeout_ms; /* for all of it; 0: as long as it takes */

	/* Called for each line of an answer's head, with its end. */
	void (*head)(void *arg, const char *line, size_t n);
	/* Called for each piece of a 2xx answer instead of keeping it; -1 ends the transfer. */
	int (*data)(void *arg, const char *p, size_t n);
	/* Called now and then during an upload. */
	void (*sent)(void *arg, uint64_t now, uint64_t total);
	void *arg;
};

struct httpc_answer {
	int status;	     /* 200 */
	char type[64];	     /* Content-Type without parameters, or "" */
	char request_id[64]; /* X-Request-Id, or "" */
	struct buf body;     /* empty when `data` took it */
};

/* Never fails; the caller's. */
struct httpc *httpc_new(void);
void httpc_free(struct httpc *c);

/* Do one request. *ret is written on success; httpc_answer_done() frees it.
 * FCM_NO_DAEMON: nobody listens there, with the reason in brackets. FCM_TIMEOUT: no whole answer in time.
 * FCM_UNAVAILABLE: the connection broke. FCM_TOO_LARGE: the answer is over HTTPC_MAX_BODY. FCM_CANCELLED:
 * `data` or `source` said so. FCM_HOST: TLS or anything else, in libcurl's words. */
int httpc_request(struct httpc *c, const struct httpc_request *rq, struct httpc_answer *ret,
	struct fcm_error *err) must_check;
void httpc_answer_done(struct httpc_answer *a);

/* A connection that has become a stream of bytes. */
struct httpc_tunnel;

/* Ask for the protocol `upgrade` with rq->method, and a body if there is one (`headers`, `url` and `socket` count, too). On a 101 *ret
 * is the tunnel; on any other answer *ret is NULL and *answer holds status and body. Both are the caller's.
 * Errors as above. */
int httpc_upgrade(const struct httpc_request *rq, const char *upgrade, struct httpc_tunnel **ret,
	struct httpc_answer *answer, struct fcm_error *err) must_check;
void httpc_tunnel_free(struct httpc_tunnel *t);

/* The socket, for poll(2). Bytes may wait inside (TLS): read until httpc_tunnel_recv() says EAGAIN before
 * polling. */
int httpc_tunnel_fd(const struct httpc_tunnel *t);

/* Like recv(2) and send(2) on a non-blocking socket: bytes moved, 0 at the end, -1 with errno. */
ssize_t httpc_tunnel_recv(struct httpc_tunnel *t, void *p, size_t n);
ssize_t httpc_tunnel_send(struct httpc_tunnel *t, const void *p, size_t n);

/* No more will be sent. Through TLS the other side isn't told: a half-closed TLS connection doesn't exist. */
void httpc_tunnel_shutdown(struct httpc_tunnel *t);

/* A file to bring here. */
struct httpc_download {
	const char *url; /* "https://..." */
	int fd;		 /* regular file or memfd: what comes is added to what is in it already */
	uint64_t max;	 /* bytes of all of it */
	/* Called now and then; total is 0 while it isn't known. NULL: not called. */
	void (*got)(void *arg, uint64_t now, uint64_t total);
	void *arg;
};

/* Bring what is missing at the end of d->fd (RFC 9110, section 14: Range), or all of it where the server doesn't resume.
 * No validator is sent (If-Range) nor kept: two parts of different files make a whole whose digest is wrong, so the
 * caller must know the digest. 0 when the server says that it was all.
 * FCM_UNAVAILABLE: the connection broke, or the server is busy; what came is kept and calling again goes on from there.
 * FCM_NOT_FOUND: there is no such file. FCM_TOO_LARGE: it is over d->max. FCM_NO_SPACE, FCM_HOST: everything else, as
 * no way there, a certificate that isn't trusted, a redirect to http. All name the URL. */
int httpc_download(const struct httpc_download *d, struct fcm_error *err) must_check;

/* `s` with everything but unreserved characters (RFC 3986, section 2.3) as %XX; the caller's. */
char *httpc_escape(const char *s);
