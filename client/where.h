/*
 * Which daemon, and with which token. Decisions, apart from the files that they read.
 *
 * The daemon: --url, else FCM_URL, else the unix socket if this user may connect to it, else http://127.0.0.1:7777.
 * The token: --token-file, else FCM_TOKEN, else ~/.fcm-token, else the daemon's own where it is readable. The unix
 * socket needs none (its mode is the check) and gets only one that was named. A token is never sent in plain HTTP to
 * another host, and the two files that nobody named belong to this machine: they go to loopback alone.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"

#define FCM_SOCKET "/run/fcm/fcmd.sock"
#define FCM_DEFAULT_URL "http://127.0.0.1:7777"
#define FCM_ROOT_TOKEN "/var/lib/firecracker/.token"

struct where {
	char url[256];	  /* without a '/' at the end; for a unix socket http://localhost */
	char socket[256]; /* or "" */
	bool loopback;	  /* a unix socket or this machine's own address */
	bool secure;	  /* loopback or https: a token may go there */
	bool named;	  /* by --url or FCM_URL */
};

/* Parse "http://host[:port]", "https://host[:port]" or "unix:///path". FCM_USAGE. */
int where_parse(const char *text, struct where *ret, struct fcm_error *err) must_check;

/* Choose, as said above; `url` is --url or NULL. */
int where_find(const char *url, struct where *ret, struct fcm_error *err) must_check;

/* What a user calls it. */
const char *where_name(const struct where *w);

/* The token for `w`, or NULL when none is needed; the caller's, and *ret_set only on success. `file` is --token-file
 * or NULL. FCM_NO_TOKEN; FCM_FORBIDDEN when a token file is readable by others or a token would go out in the clear. */
int where_token(const struct where *w, const char *file, char **ret, struct fcm_error *err) must_check;

/* The user's home directory: HOME, else the password file. */
const char *home_dir(void);

/* The user's login name; never NULL. */
const char *user_name(void);
