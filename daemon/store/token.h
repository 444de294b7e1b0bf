/*
 * Bearer tokens: fcm_<id>_<43 characters of base64url of 32 random bytes>. Kept as keyed hashes, compared in constant
 * time, never logged. A token is 256 random bits, so a slow password hash would add nothing.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"
#include "common/model.h"

struct token_info {
	char id[9];
	char name[64]; /* who it is for */
	enum token_scope scope;
	char vms[128];		  /* "K=V": it sees the VMs with that label alone; "": all */
	int64_t created, expires; /* expires 0: never */
	bool first;		  /* the one in .token, which can't be revoked */
};

/* Has it ended? */
static inline bool token_expired(const struct token_info *t, int64_t now)
{
	return t->expires && t->expires <= now;
}

/* Load tokens.json (hash key and entries) and check that <state>/.token, the first token in the clear, is one of them. On
 * the first run both are made; a .token that was removed is made anew, and the old one is no longer valid. FCM_CONFIG when
 * either is empty, broken, a link, somebody else's, or open to others: rather no service than an open one. Keeps
 * state_dirfd, which stays the caller's. */
int token_init(int state_dirfd, struct fcm_error *err) must_check;
void token_done(void);

/* Make one, of a request that has been checked; it is valid once it is on the disk. *ret_secret is the token itself, the
 * caller's; it is shown once. FCM_INSUFFICIENT at 1,024 tokens. From any thread. */
int token_create(const struct token_request *rq, struct token_info *ret, char **ret_secret,
	struct fcm_error *err) must_check;

/* The tokens, in order of creation; *ret is the caller's. Those that ended more than a week ago go when one is made. */
size_t token_list(struct token_info **ret);

/* Revoke the one with that id: from now on it is unknown. FCM_NOT_FOUND; FCM_WRONG_STATE for the first one. */
int token_revoke(const char *id, struct token_info *ret, struct fcm_error *err) must_check;

/* Is this the secret (n bytes) of a token, perhaps one that has ended? Compares with all of them, in constant time; an empty
 * one never is. *ret is written only when it is. From any thread. */
bool token_check(const char *secret, size_t n, struct token_info *ret);

/* Is there still a token with that id? */
bool token_known(const char *id);
