/*
 * Command line options as tables. A row binds an option to a field of a struct (common/field.h), so the range, the
 * suffixes and the words of the error come from the field's row: `--cpus: 99 is outside 1..32`. The same rows make the
 * help text.
 */
#pragma once

#include <stdio.h>

#include "common/core/error.h"
#include "common/core/util.h"
#include "common/field.h"

struct option_row {
	const char *name; /* "cpus" */
	char letter;	  /* 'm', or 0 */
	const char *arg;  /* "N"; "[N]": a number that may be left out; NULL: a flag */
	const char *
		key; /* dotted path of the field; NULL: the name. Of "[N]" two: the second is set where none is given */
	const char *doc; /* NULL: another name of the row above */
};

/* The options of a command, or the global ones: rows (ended by one without a name) and the struct that they fill. */
struct option_set {
	const struct option_row *rows;
	const struct field *fields;
	void *obj;
	struct strv *given; /* keys that were set, or NULL */
};

enum { OPTION_SETS = 2 };

/* Parse argv[1...] with the rows of all sets. What isn't an option is moved to the end of argv, as getopt_long(3) does,
 * unless `first_ends`: then options end at the first word that is none. *ret_first is the index of the first of them.
 * FCM_USAGE or the field's own error, naming the option. */
int options_parse(const struct option_set sets[OPTION_SETS], int argc, char **argv, bool first_ends,
	int *ret_first, struct fcm_error *err) must_check;

/* The name of the option that sets the field `key`. */
const char *options_name(const struct option_row *rows, const char *key);

/* One line a row, aligned, for --help. */
void options_print(FILE *f, const struct option_row *rows);
