/*
 * Bearer tokens: fcm_<id>_<43 characters of base64url of 32 random bytes>. Kept as keyed hashes, compared in constant
 * time, never logged. A token is 256 random bits, so a slow password hash would add nothing.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"

struct token_info {
	char id[9];
	char name[64]; /* who it is for */
	int64_t created;
};

/* Load tokens.json (and its hash key), or, on the first run, make it and <state>/.token. A file of the wrong mode or
 * owner, or a link, is refused: rather no service than an open one. */
int token_init(int state_dirfd, struct fcm_error *err) must_check;

/* Make one. *ret_secret is the token itself, the caller's; it is shown once. */
int token_create(const char *name, struct token_info *ret, char **ret_secret, struct fcm_error *err) must_check;

/* Is this the secret of a token? Constant time; an empty one never is. */
bool token_check(const char *secret, size_t n, struct token_info *ret);
