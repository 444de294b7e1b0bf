/*
 * What is made of the tables while building (document.c), by what it is for. Each function prints to stdout.
 */
#pragma once

#include <stdio.h>

#include "client/command.h"

/* A word that stands for something, of a command's `args` or an option's `arg`: one of those that the templates' functions know
 * (VM, IMAGE, VOLUME, SNAPSHOT, SRC, FILE, METHOD, PATH, COMMAND; several with '|' between them), words to choose from with '|' between them, or "". */
struct place {
	char kind[128];
	char word[128]; /* as the help says it */
	bool many;	/* and any number of the same behind it */
	bool other;	/* from here on it is somebody else's command */
};

enum { PLACES_MAX = 6 };

/* The places of a command, in their order; returns how many. */
size_t complete_places(const struct command *c, struct place ret[PLACES_MAX]);

/* What the value of an option is; `fields` are the command's. */
void complete_value(const struct field *fields, const struct option_row *row, struct place *ret);

/* Text that reads the same in a manual page: a minus is no hyphen, and a dot at a line's beginning no request. */
void man_text(FILE *f, const char *s);

/* Write DIR/fcm-COMMAND.1 for each. -1 with errno. */
int man_pages(const char *dir) must_check;

/* What stands for the marks in the templates of the other pages. */
void man_commands(void);
void man_global_options(void);
void man_keys(void);
void man_api_bodies(void);
void man_api_errors(void);

/* The file docs/API.md, which is cut up. */
void man_prose(char *text);

/* A text of YAML in quotes; a line that is indented. */
void yaml_text(const char *s);
void yaml_line(int indent, const char *s);

/* A request may leave out what isn't needed and must keep to the ranges; an answer has what isn't left out when empty. */
enum schema_side { SIDE_REQUEST, SIDE_ANSWER };

/* Of one row, without its braces and no object; of all rows, as lines; the list of those that are needed. */
void schema_value(const struct field *f, enum schema_side side);
void schema_members(const struct field *t, int indent, enum schema_side side);
void schema_needed(const struct field *t, int indent, enum schema_side side);

/* What stands for the marks in docs/openapi.yaml.in. */
void openapi_paths(void);
void openapi_bodies(void);
void openapi_vm(void);
void openapi_common(void);
void openapi_errors(void);

/* common/core/errors.def for documents; the last row has no wire code. */
struct error_row {
	const char *wire;
	int status, exit_status;
	const char *hint, *meaning;
};
extern const struct error_row error_rows[];

/* What stands for the mark in docs/TROUBLESHOOTING.md.in. */
void troubleshooting(void);

/* Lines of the completions' templates: names of commands, their options and places, what the API has. */
void bash_commands(void);
void bash_global_options(void);
void bash_cases(void);
void zsh_commands(void);
void zsh_global_options(void);
void zsh_cases(void);
void fish_lines(void);
void fish_values(void);
void shell_routes(void);
