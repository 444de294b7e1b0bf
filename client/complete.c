/*
 * The shells' completions. What a word may be is decided once, here; the templates have a function for each kind.
 */
#include <ctype.h>
#include <string.h>

#include "client/document.h"
#include "common/model.h"

/* Words of `args` that a shell can find values for. What isn't here has none. */
static const char *const kinds[] = {
	"VM", "IMAGE", "VOLUME", "SNAPSHOT", "CONTEXT", "FILE", "METHOD", "PATH", NULL};

/* Options whose word says too little. */
static const struct {
	const char *option, *kind;
} by_option[] = {{"image", "IMAGE"}, {"volume", "VOLUME"}};

/* And arguments. */
static const struct {
	const char *command, *word, *kind;
} by_place[] = {
	{"help", "COMMAND", "COMMAND"},
	{"cp", "SRC", "SRC"},
	{"cp", "DST", "SRC"},
	{"snapshot", "VM", "VM|SNAPSHOT|FILE"}, /* its verbs take one of them */
	{"image", "IMAGE", "IMAGE|FILE"},
};

/* One of the kinds, or several with '|' between them? */
static bool is_kind(const char *word)
{
	auto_free char *copy = xstrdup(word);
	char *rest = copy;

	for (char *part; (part = strsep(&rest, "|"));) {
		size_t i = 0;
		while (kinds[i] && strcmp(kinds[i], part) != 0)
			i++;
		if (kinds[i] == NULL)
			return false;
	}
	return true;
}

static bool is_literal(const char *word)
{
	for (const char *p = word; *p; p++)
		if (islower((unsigned char)*p))
			return true;
	return false;
}

/* ---- places ---- */

static void name_place(const struct command *c, struct place *p)
{
	if (is_literal(p->word) || is_kind(p->word))
		fcm_copy(p->kind, sizeof p->kind, p->word);
	for (size_t i = 0; i < ARRAY_SIZE(by_place); i++)
		if (strcmp(by_place[i].command, c->name) == 0 && strcmp(by_place[i].word, p->word) == 0)
			fcm_copy(p->kind, sizeof p->kind, by_place[i].kind);
	p->other = *p->kind == '\0' && strcmp(p->word, "COMMAND") == 0;
}

size_t complete_places(const struct command *c, struct place ret[PLACES_MAX])
{
	auto_free char *copy = xstrdup(c->args ? c->args : "");
	char *rest = copy;
	size_t n = 0;

	for (char *word; n < PLACES_MAX && (word = strsep(&rest, " "));) {
		struct place p = {.kind = ""};
		word += strspn(word, "[");
		char *dots = strstr(word, "...");
		p.many = dots != NULL;
		word[dots ? (size_t)(dots - word) : strcspn(word, "]")] = '\0';
		if (*word == '\0' || strcmp(word, "--") == 0)
			continue;
		fcm_copy(p.word, sizeof p.word, word);
		name_place(c, &p);
		ret[n++] = p;
	}
	return n;
}

static void join_names(const char *const *names, struct place *ret)
{
	_cleanup_(buf_done) struct buf b = {0};

	for (size_t i = 0; names[i]; i++)
		buf_printf(&b, "%s%s", i ? "|" : "", names[i]);
	fcm_copy(ret->kind, sizeof ret->kind, b.p ? b.p : "");
}

/* The row that has the documentation: `row`, or one above it. */
static const struct option_row *meaning_of(const struct option_row *row)
{
	while (row->doc == NULL)
		row--;
	return row;
}

/* Does it take the next word? A value that may be left out is no reason to wait for one. */
static bool takes_word(const struct option_row *row)
{
	const char *arg = meaning_of(row)->arg;

	return arg && *arg != '[';
}

void complete_value(const struct field *fields, const struct option_row *row, struct place *ret)
{
	const struct option_row *m = meaning_of(row);
	const struct field *f = field_find(fields, "", m->key ? m->key : m->name, NULL);

	*ret = (struct place){.many = f && (f->type == FIELD_STRV || f->type == FIELD_MAP)};
	fcm_copy(ret->word, sizeof ret->word, m->arg);
	if (f && f->type == FIELD_ENUM)
		join_names(f->names, ret);
	else if (strcmp(m->arg, "POLICY") == 0)
		join_names(vm_restart_names, ret);
	else if (is_kind(m->arg))
		fcm_copy(ret->kind, sizeof ret->kind, m->arg);
	for (size_t i = 0; i < ARRAY_SIZE(by_option); i++)
		if (strcmp(by_option[i].option, m->name) == 0)
			fcm_copy(ret->kind, sizeof ret->kind, by_option[i].kind);
}

/* "ls list": a command's names, with `between`. */
static void print_names(const struct command *c, const char *between)
{
	fputs(c->name, stdout);
	for (const char *p = c->aliases; p && *p;) {
		int n = (int)strcspn(p, " ");
		printf("%s%.*s", between, n, p);
		p += n + (p[n] == ' ');
	}
}

void shell_routes(void)
{
	static const char *const patterns[] = {
#define X(method, pattern, handler, need, subject, query, body, size, max, flags) pattern,
#include "common/routes.def"
#undef X
	};

	for (size_t i = 0; i < ARRAY_SIZE(patterns); i++)
		if (strchr(patterns[i], '{') == NULL && (i == 0 || strcmp(patterns[i], patterns[i - 1]) != 0))
			printf("\t\t%s\n", patterns[i]);
}

/* ---- bash ---- */

static void bash_values(const struct field *fields, const struct option_row *rows)
{
	for (const struct option_row *row = rows; row && row->name; row++) {
		struct place value;
		if (!takes_word(row))
			continue;
		complete_value(fields, row, &value);
		printf(" --%s:%s", row->name, value.kind);
		if (row->letter)
			printf(" -%c:%s", row->letter, value.kind);
	}
}

static void bash_lists(const struct field *fields, const struct option_row *rows)
{
	fputs("options+='", stdout);
	for (const struct option_row *row = rows; row && row->name; row++)
		printf(" --%s", row->name);
	fputs("' values+='", stdout);
	bash_values(fields, rows);
	fputs("'", stdout);
}

void bash_global_options(void)
{
	putchar('\t');
	bash_lists(global_fields, global_options);
	putchar('\n');
}

void bash_cases(void)
{
	for (size_t i = 0; commands[i]; i++) {
		const struct command *c = commands[i];
		struct place places[PLACES_MAX];
		size_t n = complete_places(c, places);
		putchar('\t');
		print_names(c, " | ");
		fputs(") ", stdout);
		bash_lists(c->fields, c->options);
		fputs(" places=(", stdout);
		for (size_t k = 0; k < n; k++)
			printf("%s'%s%s'", k ? " " : "", places[k].kind, places[k].many ? "..." : "");
		puts(") ;;");
	}
}

void bash_commands(void)
{
	fputs("\tcommands='", stdout);
	for (size_t i = 0; commands[i]; i++)
		printf("%s%s", i ? " " : "", commands[i]->name);
	puts("'");
}

/* ---- zsh: specifications of _arguments (zshcompsys(1)), in single quotes ---- */

static void zsh_text(const char *s)
{
	for (; *s; s++) {
		if (*s == '\'')
			fputs("'\\''", stdout);
		else if (strchr("[]:\\", *s))
			printf("\\%c", *s);
		else
			putchar(*s);
	}
}

/* "a|b" as "a b". */
static void spaced(const char *kind)
{
	for (; *kind; kind++)
		putchar(*kind == '|' ? ' ' : *kind);
}

/* ":what it is:who knows the values" */
static void zsh_message(const struct place *p)
{
	putchar(':');
	zsh_text(p->word);
	putchar(':');
	if (p->other) {
		fputs("_normal", stdout);
	} else if (is_literal(p->kind)) {
		putchar('(');
		spaced(p->kind);
		putchar(')');
	} else if (*p->kind) {
		fputs(" _fcm_any ", stdout);
		spaced(p->kind);
	} else {
		putchar(' ');
	}
}

/* All names of the option that `row` is one of: "-m --mem --memory". */
static void zsh_all_names(const struct option_row *row)
{
	const struct option_row *first = meaning_of(row);

	for (row = first; row->name && (row == first || row->doc == NULL); row++) {
		if (row->letter)
			printf("%s-%c", row == first ? "" : " ", row->letter);
		printf("%s--%s", row == first && !row->letter ? "" : " ", row->name);
	}
}

/* One of its names, which takes the others' place unless it can be given again. */
static void zsh_option(
	const struct field *fields, const struct option_row *row, const char *name, const char *sign)
{
	const struct option_row *m = meaning_of(row);
	struct place value = {.kind = ""};

	if (takes_word(row))
		complete_value(fields, row, &value);
	fputs("\t\t\t'", stdout);
	if (value.many) {
		putchar('*');
	} else {
		putchar('(');
		zsh_all_names(row);
		putchar(')');
	}
	printf("%s%s[", name, takes_word(row) ? sign : "");
	zsh_text(m->doc);
	putchar(']');
	if (takes_word(row))
		zsh_message(&value);
	puts("'");
}

static void zsh_options(const struct field *fields, const struct option_row *rows)
{
	for (const struct option_row *row = rows; row && row->name; row++) {
		auto_free char *name = xprintf("--%s", row->name);
		if (row->letter)
			zsh_option(fields, row, (char[]){'-', row->letter, '\0'}, "+");
		zsh_option(fields, row, name, "=");
	}
}

void zsh_global_options(void)
{
	zsh_options(global_fields, global_options);
}

static void zsh_places(const struct command *c)
{
	struct place places[PLACES_MAX];
	size_t n = complete_places(c, places);

	for (size_t i = 0; i < n; i++) {
		if (places[i].other)
			fputs("\t\t\t'*:", stdout);
		else if (places[i].many)
			fputs("\t\t\t'*", stdout);
		else
			printf("\t\t\t'%zu", i + 1);
		zsh_message(&places[i]);
		puts("'");
	}
}

void zsh_cases(void)
{
	for (size_t i = 0; commands[i]; i++) {
		fputs("\t(", stdout);
		print_names(commands[i], "|");
		puts(")\n\t\tspecs=(");
		zsh_options(commands[i]->fields, commands[i]->options);
		zsh_places(commands[i]);
		puts("\t\t)\n\t\t;;");
	}
}

void zsh_commands(void)
{
	for (size_t i = 0; commands[i]; i++) {
		printf("\t\t'%s:", commands[i]->name);
		zsh_text(commands[i]->summary);
		puts("'");
	}
}

/* ---- fish ---- */

static void fish_text(const char *s)
{
	putchar('\'');
	for (; *s; s++)
		printf(*s == '\'' || *s == '\\' ? "\\%c" : "%c", *s);
	putchar('\'');
}

/* -a and what it takes. */
static void fish_kind(const char *kind)
{
	if (is_literal(kind)) {
		fputs(" -a '", stdout);
		spaced(kind);
		putchar('\'');
	} else if (strcmp(kind, "FILE") == 0) {
		fputs(" -F", stdout);
	} else if (*kind) {
		fputs(" -a '(__fcm_any ", stdout);
		spaced(kind);
		fputs(")'", stdout);
	}
}

static void fish_option(const struct command *c, const struct option_row *row)
{
	const struct option_row *m = meaning_of(row);

	fputs("complete -c fcm", stdout);
	if (c) {
		fputs(" -n '__fcm_in ", stdout);
		print_names(c, " ");
		putchar('\'');
	}
	printf(" -l %s", row->name);
	if (row->letter)
		printf(" -s %c", row->letter);
	if (takes_word(row)) {
		struct place value;
		complete_value(c ? c->fields : global_fields, row, &value);
		fputs(strcmp(value.kind, "FILE") == 0 ? " -r" : " -x", stdout);
		fish_kind(value.kind);
	}
	fputs(" -d ", stdout);
	fish_text(m->doc);
	putchar('\n');
}

static void fish_options(const struct command *c, const struct option_row *rows)
{
	for (const struct option_row *row = rows; row && row->name; row++)
		fish_option(c, row);
}

static void fish_places(const struct command *c)
{
	struct place places[PLACES_MAX];
	size_t n = complete_places(c, places);

	for (size_t i = 0; i < n; i++) {
		if (places[i].kind[0] == '\0')
			continue;
		fputs("complete -c fcm -n '__fcm_in ", stdout);
		print_names(c, " ");
		printf("; and __fcm_at %zu%s'", i + 1, places[i].many ? " more" : "");
		fish_kind(places[i].kind);
		putchar('\n');
	}
}

void fish_lines(void)
{
	fish_options(NULL, global_options);
	for (size_t i = 0; commands[i]; i++) {
		const struct command *c = commands[i];
		printf("complete -c fcm -n __fcm_none -a %s -d ", c->name);
		fish_text(c->summary);
		putchar('\n');
		fish_options(c, c->options);
		fish_places(c);
	}
}

static void fish_valued(const struct option_row *rows)
{
	for (const struct option_row *row = rows; row && row->name; row++) {
		if (!takes_word(row))
			continue;
		printf(" --%s", row->name);
		if (row->letter)
			printf(" -%c", row->letter);
	}
}

/* Options that take the next word, by command. */
void fish_values(void)
{
	fputs("\t\tcase ''\n\t\t\techo", stdout);
	fish_valued(global_options);
	for (size_t i = 0; commands[i]; i++) {
		fputs("\n\t\tcase ", stdout);
		print_names(commands[i], " ");
		fputs("\n\t\t\techo", stdout);
		fish_valued(global_options);
		fish_valued(commands[i]->options);
	}
	putchar('\n');
}
