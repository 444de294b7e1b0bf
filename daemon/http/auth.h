/*
 * Who is it? A bearer token (RFC 6750, section 2.1), and a brake for those who guess. A good token is never braked,
 * whatever else comes from its address; a guess costs us a hash, and 2^256 of them would be needed.
 */
#pragma once

#include <netinet/in.h>

#include "common/core/error.h"
#include "daemon/http/guard.h"
#include "daemon/http/http.h"
#include "daemon/store/token.h"

enum {
	THROTTLE_PEERS = 64,	   /* peers that are remembered; the one not seen for longest gives way */
	THROTTLE_FAILURES = 10,	   /* wrong tokens ... */
	THROTTLE_WINDOW_MS = 1000, /* ... in this time are answered 401, more of them 429 */
};

/* An address: IPv4 as it is, IPv6 by its /64, for a host can take any address of that. */
struct peer {
	uint8_t family;
	uint8_t address[8];
};

/* The peer of an accepted socket; all clients of a unix socket are one. */
struct peer peer_of(const struct sockaddr *address);

struct throttle {
	struct {
		struct peer peer;
		int64_t since, last; /* clock_ms(); last 0: free */
		unsigned failures;
	} slots[THROTTLE_PEERS];
};

/* Count a failure of `peer` at `now`. Returns true when there were too many. */
bool throttle_failure(struct throttle *t, const struct peer *peer, int64_t now);

/* The token in an Authorization field: points into it, length in *ret_n. NULL when it isn't a bearer token. */
const char *auth_bearer(const char *field, size_t *ret_n);

/* Check the request's token. FCM_UNAUTHORIZED, or FCM_THROTTLED. Not thread-safe in *t. */
int auth_check(const struct head *head, const struct peer *peer, struct throttle *t, struct token_info *ret,
	struct fcm_error *err) must_check;

/* Is it still good, some time later? FCM_UNAUTHORIZED when it has ended or been revoked. */
int auth_still(const struct token_info *token, struct fcm_error *err) must_check;

/* Pure: is the token good for such a route? FCM_FORBIDDEN. Whether it sees the VM in question is another matter. */
int auth_permit(const struct route *route, const struct token_info *token, struct fcm_error *err) must_check;
