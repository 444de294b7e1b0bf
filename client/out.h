/*
 * What the commands print. stdout is data; everything else goes to stderr, hints only when that is a terminal.
 */
#pragma once

#include "client/command.h"

enum {
	COLUMN_WIDE = 1 << 0,  /* shown only by -o wide */
	COLUMN_RIGHT = 1 << 1, /* to the right */
	COLUMN_CUT = 1 << 2,   /* may be cut to fit the terminal */
	COLUMN_SPARE = 1 << 3, /* may be left out to fit the terminal, the last one first */
	COLUMN_STATE = 1 << 4, /* coloured as a VM's state */
	COLUMN_EMPTY = 1 << 5, /* left out when all that it says is nothing */
	COLUMN_WHOLE = 1 << 6, /* cut only when nothing can be left out any more */
};

/* A column of a table of JSON objects. Nothing is cut or left out when -o names the columns. */
struct column {
	const char *name;  /* for -o, lower case */
	const char *title; /* "ON DISK" */
	unsigned flags;
	void (*text)(const field_json *row, struct buf *out);
};

/* Print the array `rows` as the global options say: JSON, the first column alone (-q), or a table. `columns` is ended
 * by one without a name. FCM_USAGE when -o names none of them. */
int out_list(const struct cli *cli, const struct column *columns, const field_json *rows,
	struct fcm_error *err) must_check;

/* The table that out_list() would print; the caller's. NULL on failure. */
char *out_table(const struct cli *cli, const struct column *columns, const field_json *rows,
	struct fcm_error *err) must_check;

/* Print a JSON value, indented. */
void out_json(const field_json *v);

/* The result of an operation on `name`: the name on stdout, what happened on stderr when that is a terminal; on one
 * line when both are. With --json the value instead. */
void out_result(const struct cli *cli, const char *name, const field_json *v, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* A line on stderr, on a terminal only. */
void out_hint(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* "412 MB", "4.3 MB", "0 B": powers of ten, as disks are sold and docker prints. */
void out_bytes(struct buf *b, int64_t bytes);

/* "[====      ]  40%  5 MB of 12 MB", or "5 MB" where total is 0: not known. */
void out_bar(struct buf *b, uint64_t done, uint64_t total);

/* The line of progress (term.h) of bytes that move: a bar where the total is known (else 0), how much, how fast. */
void out_progress(const char *what, uint64_t done, uint64_t total);

/* "512M", "2G": powers of two, as --mem takes it. */
void out_mib(struct buf *b, int64_t mib);

/* How long ago the RFC 3339 time is: "2m", or "-" when it is none. */
void out_age(struct buf *b, const char *rfc3339);

/* A string of the daemon or "-", printable. */
void out_text(struct buf *b, const char *s);
