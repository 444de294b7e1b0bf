/*
 * Manual pages, in groff_man(7): one for each command, and what of fcm(1), fcmd.conf(5), fcm-api(7) and
 * docs/TROUBLESHOOTING.md comes from tables.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/document.h"
#include "common/config.h"
#include "common/model.h"

void man_text(FILE *f, const char *s)
{
	bool begins = true;

	for (; *s; s++) {
		if (begins && (*s == '.' || *s == '\''))
			fputs("\\&", f);
		if (*s == '-')
			fputs("\\-", f);
		else if (*s == '\\')
			fputs("\\e", f);
		else
			putc(*s, f);
		begins = *s == '\n';
	}
}

static void man_bold(FILE *f, const char *prefix, const char *s)
{
	fputs("\\fB", f);
	man_text(f, prefix);
	man_text(f, s);
	fputs("\\fR", f);
}

/* A row and the other names below it. Returns the row behind them. */
static const struct option_row *man_option(FILE *f, const struct option_row *row)
{
	const struct option_row *m = row;

	fputs(".TP\n", f);
	do {
		if (row != m)
			fputs(", ", f);
		if (row->letter) {
			man_bold(f, "-", (char[]){row->letter, '\0'});
			fputs(", ", f);
		}
		man_bold(f, "--", row->name);
	} while ((++row)->name && row->doc == NULL);
	if (m->arg)
		fprintf(f, " \\fI%s\\fR", m->arg);
	putc('\n', f);
	man_text(f, m->doc);
	putc('\n', f);
	return row;
}

static void man_options(FILE *f, const struct option_row *rows)
{
	while (rows && rows->name)
		rows = man_option(f, rows);
}

void man_global_options(void)
{
	man_options(stdout, global_options);
}

/* ---- one command ---- */

/* A line that is set as it stands: an example, or two columns. */
static bool is_set(const char *line)
{
	return strstr(line, "  ");
}

/* Lines of the help: text that is filled, and between them those that aren't. */
static void man_details(FILE *f, const char *details)
{
	auto_free char *copy = xstrdup(details);
	bool set = false;
	char *rest = copy;

	for (char *line; (line = strsep(&rest, "\n"));) {
		bool next = rest && is_set(rest);
		if (is_set(line) != set && !(set && next)) {
			fputs(set ? ".fi\n.PP\n" : ".PP\n.nf\n", f);
			set = !set;
		}
		man_text(f, line);
		putc('\n', f);
	}
	if (set)
		fputs(".fi\n", f);
}

static void man_page(FILE *f, const struct command *c)
{
	fputs(".TH FCM\\-", f);
	for (const char *p = c->name; *p; p++)
		fprintf(f, *p == '-' ? "\\-" : "%c", toupper((unsigned char)*p));
	fputs(" 1 \"\" \"fcm\" \"User Commands\"\n.SH NAME\nfcm\\-", f);
	man_text(f, c->name);
	fputs(" \\- ", f);
	man_text(f, c->summary);
	fputs("\n.SH SYNOPSIS\n", f);
	man_bold(f, "fcm ", c->name);
	fputs(c->options ? " [\\fIOPTION\\fR...]" : "", f);
	fputs(c->args ? " " : "", f);
	man_text(f, c->args ? c->args : "");
	fputs("\n.SH DESCRIPTION\n", f);
	putc(toupper((unsigned char)c->summary[0]), f);
	man_text(f, c->summary + 1);
	fputs(".\n", f);
	if (c->aliases) {
		fputs("Also: ", f);
		man_bold(f, "fcm ", c->aliases);
		fputs(".\n", f);
	}
	if (c->details)
		man_details(f, c->details);
	if (c->options)
		fputs(".SH OPTIONS\n", f);
	man_options(f, c->options);
	fputs(".PP\nThe options of every command, the exit status and the environment are in\n.BR fcm (1).\n"
	      ".SH EXAMPLE\n.nf\n",
		f);
	man_text(f, c->example);
	fputs("\n.fi\n.SH SEE ALSO\n.BR fcm (1),\n.BR fcm\\-api (7)\n", f);
}

int man_pages(const char *dir)
{
	for (size_t i = 0; commands[i]; i++) {
		auto_free char *path = xprintf("%s/fcm-%s.1", dir, commands[i]->name);
		FILE *f = fopen(path, "we");
		if (f == NULL)
			return -1;
		man_page(f, commands[i]);
		if (fclose(f) != 0)
			return -1;
	}
	return 0;
}

/* The list of them in fcm(1). */
void man_commands(void)
{
	for (size_t i = 0; commands[i]; i++) {
		fputs(".TP\n.BR fcm\\-", stdout);
		man_text(stdout, commands[i]->name);
		puts(" (1)");
		man_text(stdout, commands[i]->summary);
		putchar('\n');
	}
}

/* ---- the API ---- */

static const char *value_words(const struct field *f)
{
	switch (f->type) {
	case FIELD_BOOL:
		return "true or false";
	case FIELD_U32:
		return f->flags & FIELD_SPAN ? "seconds" : "number";
	case FIELD_I64:
		return "number";
	case FIELD_MIB:
		return "MiB, or text as \"2g\"";
	case FIELD_STR:
	case FIELD_CHARS:
		return "text";
	case FIELD_ENUM:
		return "one of";
	case FIELD_IPV4:
		return "address";
	case FIELD_TIME:
		return "time";
	case FIELD_STRV:
		return "list of texts";
	case FIELD_MAP:
		return "object of texts";
	case FIELD_KEYS:
		return "object, of which the keys count";
	case FIELD_SIGNAL:
		return "number or name of a signal";
	case FIELD_OBJECT:
		return "object";
	}
	return "";
}

static void man_value(const struct field *f)
{
	bool sized = f->type == FIELD_U32 || f->type == FIELD_MIB;
	bool counted = f->type == FIELD_STRV || f->type == FIELD_MAP || f->type == FIELD_KEYS;

	man_text(stdout, value_words(f));
	for (size_t i = 0; f->type == FIELD_ENUM && f->names[i]; i++) {
		fputs(i ? ", " : " ", stdout);
		man_text(stdout, f->names[i]);
	}
	if (sized && f->max)
		printf(", %lld to %lld", (long long)f->min, (long long)f->max);
	else if (counted && f->max)
		printf(", %lld at most", (long long)f->max);
}

static void man_fields(const char *outer, const struct field *t)
{
	for (; t->key; t++) {
		auto_free char *key = xprintf("%s%s", outer, t->key);
		if (t->type == FIELD_OBJECT) {
			auto_free char *inner = xprintf("%s.", key);
			man_fields(inner, t->sub);
			continue;
		}
		puts(".TP");
		man_bold(stdout, "", key);
		fputs(" (", stdout);
		man_value(t);
		puts(t->flags & FIELD_REQUIRED ? "; needed)" : ")");
		man_text(stdout, t->doc ? t->doc : t->key);
		putchar('\n');
	}
}

void man_api_bodies(void)
{
	static const struct {
		const char *method, *pattern;
		const struct field *body;
	} table[] = {
#define X(method_, pattern_, handler, need, subject, query, body_, size, max, flags)                         \
	{method_, pattern_, body_},
#include "common/routes.def"
#undef X
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		if (table[i].body == NULL)
			continue;
		printf(".SS %s ", table[i].method);
		man_text(stdout, table[i].pattern);
		putchar('\n');
		man_fields("", table[i].body);
	}
}

const struct error_row error_rows[] = {
#define X(name, wire, http, exit_status, hint, meaning) {wire, http, exit_status, hint, meaning},
#include "common/core/errors.def"
#undef X
	{.wire = NULL},
};

/* A sentence: the first letter is a capital, and a dot ends it. */
static void put_sentence(const char *s)
{
	putchar(toupper((unsigned char)*s));
	fputs(s + 1, stdout);
	putchar('.');
}

void man_api_errors(void)
{
	for (const struct error_row *e = error_rows; e->wire; e++) {
		puts(".TP");
		man_bold(stdout, "", e->wire);
		printf("\nHTTP %d, exit status %d.\n", e->status, e->exit_status);
		put_sentence(e->meaning);
		putchar('\n');
		if (*e->hint) {
			puts(".br");
			man_text(stdout, e->hint);
			putchar('\n');
		}
	}
}

void troubleshooting(void)
{
	for (const struct error_row *e = error_rows; e->wire; e++) {
		printf("### `%s`\n\nHTTP %d, exit status %d. ", e->wire, e->status, e->exit_status);
		put_sentence(e->meaning);
		printf("\n\n*What to do:* %s\n\n", *e->hint ? e->hint : "what the error itself says");
	}
}

/* ---- the config: pairs of lines, "# what it is" and "#key = default", and "#[section]" ---- */

void man_keys(void)
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
			man_bold(stdout, "", line + 1);
			putchar('\n');
			man_text(stdout, what);
			fputs(value[2] ? ".\nDefault: " : ".\nDefault: none", stdout);
			man_text(stdout, value[2] ? value + 3 : "");
			puts(".");
		}
	}
}
