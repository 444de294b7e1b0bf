/*
 * The guard: pure functions that look at the raw bytes of a request's head and refuse all that two readers could
 * understand in two ways (RFC 9112, sections 2.2, 3, 5 and 6; RFC 9110, section 5.5), then a request that isn't meant
 * for us or comes from a web page. Nothing here knows a socket.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum {
	HEAD_MAX = 16384, /* bytes of a head, with the empty line at its end: else 431 */
	HEAD_LINE_MAX =
		8000, /* bytes of the request line (RFC 9112, section 3, asks for at least that): else 414 */
	HEAD_FIELDS = 64, /* header fields: else 431 */
};

struct head_field {
	const char *name, *value;
};

/* A parsed head. All text points into the buffer that was parsed. */
struct head {
	const char *method;
	char *path;	/* as it came, still percent-encoded */
	char *query;	/* what follows '?', still encoded, or NULL */
	unsigned minor; /* HTTP/1.<minor>: 0 or 1 */
	struct head_field fields[HEAD_FIELDS];
	unsigned n;
	int64_t length; /* Content-Length, or -1 without one */
	bool chunked;
};

/* How many of the n bytes at p are the head? 0: its end isn't there yet. -1 when these bytes can't become one: a bare CR
 * or LF, a control character (FCM_BAD_REQUEST), a request line or head that is too long (FCM_URI_TOO_LONG,
 * FCM_HEADERS_TOO_LARGE). */
ssize_t guard_scan(const char *p, size_t n, struct fcm_error *err);

/* Parse the head of n bytes at p for which guard_scan() has returned n; p[n] must be writable. Writes into it.
 * FCM_BAD_REQUEST, FCM_HEADERS_TOO_LARGE, FCM_TOO_LARGE for a length beyond 2^63. */
int guard_parse(char *p, size_t n, struct head *ret, struct fcm_error *err) must_check;

/* Is the request meant for one of `hosts` (without port, IPv6 in brackets; NULL: any), and not sent by a
 * browser? FCM_BAD_REQUEST for a malformed Host, FCM_MISDIRECTED for a foreign one, FCM_FORBIDDEN for a request with
 * Origin or Sec-Fetch-Site: no page of the web has business here, and browsers can't leave these headers out. */
int guard_origin(const struct head *head, const struct strv *hosts, struct fcm_error *err) must_check;

/* Value of a header field (the first), or NULL. The name's case doesn't matter. */
const char *head_get(const struct head *head, const char *name);

/* Does the comma-separated field `name` have the element `word`? Parameters (";q=1") and case don't matter. */
bool head_has_word(const struct head *head, const char *name, const char *word);
