/*
 * The http URL of something in the same machine: what a probe of readiness or health may ask for. The agent in the guest
 * asks; the daemon only looks at the text.
 */
#pragma once

#include <netinet/in.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum { LOCAL_URL_MAX = 255 }; /* bytes of the text */

struct local_url {
	struct in_addr address; /* 0: localhost, in IPv4 or IPv6 */
	uint16_t port;		/* 80 when the text has none */
	char host[32];		/* for the Host header: "127.0.0.1:8080" */
	char path[LOCAL_URL_MAX + 1];
};

/* Parse "http://HOST[:PORT][/PATH]", RFC 3986 without user and fragment. HOST is localhost or an IPv4 address: names would
 * need a resolver, and lead elsewhere. -1 with FCM_INVALID for field `key`. */
int local_url_parse(
	const char *text, const char *key, struct local_url *ret, struct fcm_error *err) must_check;
