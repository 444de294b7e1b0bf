/*
 * What a registry asks for and where it may be, as pure functions.
 */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>

#include "common/core/error.h"
#include "common/core/util.h"

struct challenge {
	enum { CHALLENGE_NONE, CHALLENGE_BASIC, CHALLENGE_BEARER } kind;
	char realm[1024], service[256]; /* of a bearer one */
};

/* Read the value of WWW-Authenticate (RFC 7235; its first challenge of a kind that we know). What is too long, broken or
 * unknown is CHALLENGE_NONE. */
struct challenge challenge_parse(const char *s);

/* "host" or "host:port" of a URL of http or https, in small letters. False when it has none, a user, or is too long. */
bool url_host(const char *url, char *ret, size_t size);

/* May a registry that nobody allowed by name have this address? Not this host's own, link-local ones (where clouds keep
 * their metadata), multicast, unspecified ones, nor one of `pool` ("172.16.0.0/24"; NULL: none). */
bool address_allowed(const struct sockaddr *sa, const char *pool);
