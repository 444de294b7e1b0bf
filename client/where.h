/*
 * Which daemon, and with which token. Decisions, apart from the files that they read.
 *
 * The daemon: --url or --context, else FCM_URL, else FCM_CONTEXT, else the context in use (context.h), else this host's: the
 * unix socket if this user may connect to it, else http://127.0.0.1:7777.
 * The token: --token-file, else that of the context; without a context FCM_TOKEN, else that of a context with the same URL, else
 * ~/.fcm-token, else the daemon's own where it is readable. The unix socket needs none (its mode is the check) and gets only one
 * that was named. A token is never sent in plain HTTP to another host; that of a context goes to its URL alone; and the two files
 * that nobody named belong to this machine: they go to loopback.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/names.h"
#include "common/core/util.h"

#define FCM_SOCKET "/run/fcm/fcmd.sock"
#define FCM_DEFAULT_URL "http://127.0.0.1:7777"
#define FCM_ROOT_TOKEN "/var/lib/firecracker/.token"

struct where {
	char url[256];		   /* without a '/' at the end; for a unix socket http://localhost */
	char socket[256];	   /* or "" */
	bool loopback;		   /* a unix socket or this machine's own address */
	bool secure;		   /* loopback or https: a token may go there */
	struct asset_name context; /* or "" */
};

/* Parse "http://host[:port]", "https://host[:port]" or "unix:///path". FCM_USAGE. */
int where_parse(const char *text, struct where *ret, struct fcm_error *err) must_check;

/* Choose, as said above; `url` is --url or NULL, `context` --context or NULL. FCM_USAGE, FCM_NOT_FOUND, FCM_FORBIDDEN. */
int where_find(const char *url, const char *context, struct where *ret, struct fcm_error *err) must_check;

/* The daemon of this host. */
void where_local(struct where *ret);

/* The context that where_find() takes when no URL is given; "" for this host. */
int where_context(const char *context, struct asset_name *ret, struct fcm_error *err) must_check;

/* The URL that where_parse() takes; the caller's. */
char *where_url(const struct where *w);

/* May a token go there? FCM_FORBIDDEN. */
int where_secure(const struct where *w, struct fcm_error *err) must_check;

/* What a user calls it. */
const char *where_name(const struct where *w);

/* The token for `w`, or NULL when none is needed; the caller's, and *ret_set only on success. `file` is --token-file
 * or NULL. FCM_NO_TOKEN; FCM_FORBIDDEN when a token file is readable by others or a token would go out in the clear. */
int where_token(const struct where *w, const char *file, char **ret, struct fcm_error *err) must_check;

/* The user's home directory: HOME, else the password file. */
const char *home_dir(void);

/* The user's login name; never NULL. */
const char *user_name(void);
