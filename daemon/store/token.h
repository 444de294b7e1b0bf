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

/* Load tokens.json (hash key and entries) and check that <state>/.token, the first token in the clear, is one of them. On
 * the first run both are made; a .token that was removed is made anew, and the old one is no longer valid. FCM_CONFIG when
 * either is empty, broken, a link, somebody else's, or open to others: rather no service than an open one. Keeps
 * state_dirfd, which stays the caller's. */
int token_init(int state_dirfd, struct fcm_error *err) must_check;
void token_done(void);

/* Make one; it is valid once it is on the disk. *ret_secret is the token itself, the caller's; it is shown once.
 * FCM_INVALID for a bad name, FCM_INSUFFICIENT at 1,024 tokens. From any thread. */
int token_create(
	const char *name, struct token_info *ret, char **ret_secret, struct fcm_error *err) must_check;

/* Is this the secret (n bytes) of a token? Compares with all of them, in constant time; an empty one never is. *ret is
 * written only when it is. From any thread. */
bool token_check(const char *secret, size_t n, struct token_info *ret);
