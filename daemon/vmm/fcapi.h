/*
 * Firecracker's API: HTTP/1.1 on a unix socket (src/firecracker/swagger/firecracker.yaml of the project).
 *
 * One request a connection, as the server may answer twice on one: a method that it doesn't know makes it send an error,
 * drop what it has read and send another. Who answers is a process that a guest may have taken over, so head and body
 * are bounded, a call has a deadline, and of a refusal only the text is used, made printable. Refusals come as
 * {"fault_message":"..."}, as {"error":"..."} whose text holds raw line ends (no JSON then), or as something else.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"
#include "common/field.h"

enum {
	FCAPI_HEAD_MAX = 8192,	 /* status line and headers */
	FCAPI_BODY_MAX = 131072, /* of an answer: GET /vm/config is the longest, a few KiB */
};

/* A whole answer; `body` points into what was parsed. */
struct fcapi_answer {
	unsigned status;
	const char *body;
	size_t body_n;
};

/* Parse the answer that the n bytes at p begin with. 1 when it is whole, 0 when more bytes are needed, -1 when it can't
 * become one. Pure. */
int fcapi_parse(const char *p, size_t n, struct fcapi_answer *ret);

/* Make one call to the API socket in <id>/jail/run. `body` (NULL: none) is taken over in any case. *ret is the answer's
 * object, the caller's, NULL when it has none; where `ret` is NULL only 204, an answer of no content, is good. The socket is
 * waited for until the deadline. FCM_VMM with the VMM's own words when it refuses; FCM_TIMEOUT. */
int fcapi_call(int run_dirfd, const char *method, const char *path, field_json *body, int64_t deadline,
	field_json **ret, struct fcm_error *err) must_check;
