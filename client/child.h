/*
 * A program of others that a command runs.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"

/* Run a program, which is found in PATH unless its name has a slash, to its end: without stdin, its stdout to our stderr, in a process
 * group of its own. Meanwhile a signal that would end us ends that group. FCM_NOT_FOUND when there is no such program; FCM_CANCELLED
 * when a signal ended it; FCM_HOST when it failed, which it has explained on stderr. */
int child_run(const char *const argv[], struct fcm_error *err) must_check;

/* A new directory for what is large and goes again, in TMPDIR or /var/tmp; its path is the caller's. NULL. */
char *child_directory(const char *name, struct fcm_error *err);
