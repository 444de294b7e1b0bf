/*
 * Errors as the user sees them, and the exit status that they amount to (common/core/errors.def).
 */
#pragma once

#include "common/core/error.h"

/* Two lines on stderr: the cause, then what to do. */
void report(const struct fcm_error *err);

/* The exit status of that error's code. */
int report_status(const struct fcm_error *err);

/* The worse of two exit statuses. */
int report_worse(int a, int b);
