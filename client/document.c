/*
 * Runs while building: fills the templates of the manual pages and of the shells' completions from the tables of commands,
 * options and config keys, so that none of them can be forgotten.
 *
 *	fcm-document TEMPLATE >OUTPUT
 *
 * A line of the template that is one of the marks below is replaced by what the tables say.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "client/document.h"
#include "common/config.h"
#include "common/core/fileio.h"

enum { TEMPLATE_MAX = 1 << 20 };

/* ---- groff_man(7) ---- */

/* Text that reads the same in a manual page: a minus is no hyphen, and a dot at a line's beginning no request. */
static void man_text(const char *s)
{
	bool begins = true;

	for (; *s; s++) {
		if (begins && (*s == '.' || *s == '\''))
			fputs("\\&", stdout);
		if (*s == '-')
			fputs("\\-", stdout);
		else if (*s == '\\')
			fputs("\\e", stdout);
		else
			putchar(*s);
		begins = *s == '\n';
	}
}

static void man_bold(const char *prefix, const char *s)
{
	fputs("\\fB", stdout);
	man_text(prefix);
	man_text(s);
	fputs("\\fR", stdout);
}

/* A row and the other names below it. Returns the row behind them. */
static const struct option_row *man_option(const struct option_row *row)
{
	const struct option_row *m = row;

	puts(".TP");
	do {
		if (row != m)
			fputs(", ", stdout);
		if (row->letter) {
			man_bold("-", (char[]){row->letter, '\0'});
			fputs(", ", stdout);
		}
		man_bold("--", row->name);
	} while ((++row)->name && row->doc == NULL);
	if (m->arg)
		printf(" \\fI%s\\fR", m->arg);
	putchar('\n');
	man_text(m->doc);
	putchar('\n');
	return row;
}

static void man_options(const struct option_row *rows)
{
	while (rows && rows->name)
		rows = man_option(rows);
}

static void man_command(const struct command *c)
{
	fputs(".SS ", stdout);
	man_bold("fcm ", c->name);
	if (c->options)
		fputs(" [\\fIOPTION\\fR...]", stdout);
	putchar(' ');
	man_text(c->args ? c->args : "");
	putchar('\n');
	putchar(toupper((unsigned char)c->summary[0]));
	man_text(c->summary + 1);
	puts(".");
	if (c->aliases) {
		fputs("Also: ", stdout);
		man_bold("", c->aliases);
		puts(".");
	}
	if (c->details) {
		man_text(c->details);
		putchar('\n');
	}
	man_options(c->options);
}

static void man_commands(void)
{
	for (size_t i = 0; commands[i]; i++)
		man_command(commands[i]);
}

static void man_global_options(void)
{
	man_options(global_options);
}

/* The example config holds pairs of lines, "# what it is" and "#key = default", and "#[section]". */
static void man_keys(void)
{
	_cleanup_(buf_done) struct buf text = {0};
	const char *what = "";
	char *rest;

	config_document(&text);
	rest = text.p;
	for (char *line; (line = strsep(&rest, "\n"));) {
		if (strncmp(line, "# ", 2) == 0) {
			what = line + 2;
		} else if (strncmp(line, "#[", 2) == 0) {
			printf(".SS %s\n", line + 1);
		} else if (*line == '#') {
			char *value = strstr(line, " =");
			*value = '\0';
			puts(".TP");
			man_bold("", line + 1);
			putchar('\n');
			man_text(what);
			fputs(value[2] ? ".\nDefault: " : ".\nDefault: none", stdout);
			man_text(value[2] ? value + 3 : "");
			puts(".");
		}
	}
}

/* ---- templates ---- */

static const struct {
	const char *mark;
	void (*print)(void);
} marks[] = {
	{"@man-commands@", man_commands},
	{"@man-options@", man_global_options},
	{"@man-keys@", man_keys},
	{"@bash-commands@", bash_commands},
	{"@bash-options@", bash_global_options},
	{"@bash-cases@", bash_cases},
	{"@zsh-commands@", zsh_commands},
	{"@zsh-options@", zsh_global_options},
	{"@zsh-cases@", zsh_cases},
	{"@fish-lines@", fish_lines},
	{"@fish-values@", fish_values},
	{"@routes@", shell_routes},
};

static void print_line(const char *line)
{
	for (size_t i = 0; i < ARRAY_SIZE(marks); i++) {
		if (strcmp(line, marks[i].mark) == 0) {
			marks[i].print();
			return;
		}
	}
	puts(line);
}

int main(int argc, char **argv)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error err;

	if (argc != 2 || file_read(AT_FDCWD, argv[1], TEMPLATE_MAX, &text, &err) < 0) {
		fprintf(stderr, "fcm-document: %s\n", argc == 2 ? err.msg : "usage: fcm-document TEMPLATE");
		return 1;
	}
	char *rest = text.p;
	for (char *line; (line = strsep(&rest, "\n")) && (*line || rest);)
		print_line(line);
	return fflush(stdout) == 0 ? 0 : 1;
}
