/*
 * A table that is shown once, or again and again: in its place on a terminal, one below the other on a pipe.
 */
#pragma once

#include "client/out.h"

struct watch_options {
	bool watch;
	uint32_t interval; /* seconds between two */
};
extern const struct field watch_fields[];

/* The rows of a command that has them, for its table; `prefix` is "" or leads to the struct. */
#define WATCH_OPTIONS(prefix, seconds)                                                                       \
	{"watch", 'w', NULL, prefix "watch", "again and again, until q or ^C"},                              \
	{                                                                                                    \
		"interval", 'i', "S", prefix "interval", "seconds between two (" #seconds ")"                \
	}

/* Show what `rows` gives (the caller's array; NULL is a failure), once or as the options say. */
int watch_table(struct cli *cli, const struct watch_options *o, const struct column *columns,
	field_json *(*rows)(struct cli *cli, void *arg, struct fcm_error *err), void *arg,
	struct fcm_error *err) must_check;

/* Is it watched on a screen, so that a first picture should not wait? */
bool watch_on_screen(const struct cli *cli, const struct watch_options *o);

/* Wait for the next. False when the user has seen enough, which needs a screen. */
bool watch_wait(const struct cli *cli, const struct watch_options *o);
