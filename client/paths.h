/*
 * Where the parts of fcm are, found from the program itself: installed below one prefix, or in a build tree. And the user's
 * own files.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"

/* The absolute path of this program; the caller's. */
char *path_self(void);

/* The directory that this program is in; the caller's. */
char *path_self_dir(void);

/* The path of fcmd, the caller's; its bare name when it isn't found. */
char *path_daemon(void);

/* The first of `candidates` (NULL-ended, relative to the program's directory unless absolute) that can be executed;
 * the caller's, or NULL. */
char *path_find(const char *const *candidates);

/* Open what the user named, to read it; the caller's descriptor. FCM_USAGE when it isn't there. */
int path_open(const char *path, struct fcm_error *err) must_check;
