/*
 * What the image runs, and its environment.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/core/error.h"
#include "common/core/util.h"

/* What an image runs: an executable, called once a boot with nothing on stdin and the console as output. */
#define START_RC "/etc/fcm/rc"

/* The environment as one K=V a line, 0600 of root: the format of sshd's ~/.ssh/environment, to which images
 * link it. Values stand there as they are, so none may hold a newline. */
#define START_ENV "/etc/fcm/env"

enum { START_ENV_COUNT = 256 };

/* Where programs are looked for. */
#define START_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* Is `s` NAME=value on one line? A name is [A-Za-z_][A-Za-z0-9_]*. */
bool start_env_valid(const char *s);

/* Collect the `env` entries of a kv list. -1 with FCM_INVALID. */
int start_env_parse(const void *kv, size_t n, struct strv *ret, struct fcm_error *err) must_check;

/* Write START_ENV. */
int start_env_write(const struct strv *env, struct fcm_error *err) must_check;

/* Write START_ENV and start START_RC with that environment. Doesn't wait for it. */
int start_rc(const struct strv *env, struct fcm_error *err) must_check;
