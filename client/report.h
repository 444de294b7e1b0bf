/*
 * Errors as the user sees them, and the exit status that they amount to (common/core/errors.def); and how far a job is that
 * the daemon tells of.
 */
#pragma once

#include "common/core/error.h"

/* Two lines on stderr: the cause, then what to do. */
void report(const struct fcm_error *err);

/* The exit status of that error's code. */
int report_status(const struct fcm_error *err);

/* The worse of two exit statuses. */
int report_worse(int a, int b);

/* A line on stderr about a job: what the command is, of what, and the daemon's words, which come from outside. */
void report_note(const char *what, const char *name, const char *text);

/* What a job does in each of its steps, for the line of progress; NULL: nothing is said. Ended by {0}. */
struct step_text {
	const char *step, *text;
};

/* The text of that step; *text stays as it is when the table has none. */
void report_step(const struct step_text *table, const char *step, const char **text);
