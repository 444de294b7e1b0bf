/*
 * Contexts: daemons that `fcm connect` was told of, a name each, with the URL and the token that belongs to it. They are files of the
 * user below $XDG_CONFIG_HOME/fcm, or ~/.config/fcm:
 *
 *	contexts/<name>.json	{"url":"https://api.example.com","token":"fcm_..."}, mode 0600
 *	context			the name of the one in use; without it fcm talks to the daemon of this host
 */
#pragma once

#include "common/core/error.h"
#include "common/core/names.h"
#include "common/core/util.h"

/* What the daemon of this host is called among them; no context can have that name. */
#define CONTEXT_LOCAL "local"

struct context {
	char *url, *token; /* token: NULL where none is needed */
};

/* Free what it owns. */
void context_done(struct context *c);

/* Is that a name for a context? FCM_INVALID. */
int context_name(const char *s, struct asset_name *ret, struct fcm_error *err) must_check;

/* Read one; the caller's. FCM_NOT_FOUND, FCM_FORBIDDEN when others can read its file. */
int context_load(const struct asset_name *name, struct context *ret, struct fcm_error *err) must_check;

/* Write one, also over what is there. */
int context_save(const struct asset_name *name, const struct context *c, struct fcm_error *err) must_check;

/* FCM_NOT_FOUND. */
int context_remove(const struct asset_name *name, struct fcm_error *err) must_check;

/* Their names, sorted. */
int context_list(struct strv *ret, struct fcm_error *err) must_check;

/* The name of the one in use, as the file has it, or "". */
int context_current(struct asset_name *ret, struct fcm_error *err) must_check;

/* Use it from now on; NULL: the daemon of this host. */
int context_use(const struct asset_name *name, struct fcm_error *err) must_check;

/* The token of a context that has that URL; the caller's, or NULL. */
char *context_token_for(const char *url);
