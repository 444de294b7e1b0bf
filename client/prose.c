/*
 * From docs/API.md to a manual page: the part of Markdown that is used there, which is headings, paragraphs, lists, tables,
 * fenced and indented code, `code` and **bold**.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "client/document.h"

enum kind { BLANK, HEADING, FENCE, TABLE, LIST, CODE, TEXT };

/* What a line is, unless it goes on what was before. */
static enum kind kind_of(const char *line)
{
	if (*line == '\0')
		return BLANK;
	if (*line == '#')
		return HEADING;
	if (strncmp(line, "```", 3) == 0)
		return FENCE;
	if (*line == '|')
		return TABLE;
	if (strncmp(line, "- ", 2) == 0)
		return LIST;
	return strncmp(line, "    ", 4) == 0 ? CODE : TEXT;
}

/* One character; in code a line may be broken behind a comma or a slash, for some words are longer than a line. */
static void put(char c, bool code)
{
	if (c == '-')
		fputs("\\-", stdout);
	else if (c == '\\')
		fputs("\\e", stdout);
	else
		putchar(c);
	if (code && strchr(",/|}", c))
		fputs("\\:", stdout);
}

/* Text with `code` and **bold**, which may go over several lines; *ret_bold is what holds at its end. A pipe of a table's cell
 * has a backslash before it. */
static void inline_text(const char *s, bool *code, bool *bold)
{
	if (*s == '.' || *s == '\'')
		fputs("\\&", stdout);
	for (; *s; s++) {
		if (*s == '`') {
			*code = !*code;
			fputs(*code ? "\\fB" : "\\fR", stdout);
		} else if (!*code && s[0] == '*' && s[1] == '*') {
			*bold = !*bold;
			fputs(*bold ? "\\fB" : "\\fR", stdout);
			s++;
		} else {
			s += s[0] == '\\' && s[1] == '|';
			put(*s, *code);
		}
	}
	putchar('\n');
}

static void whole_text(const char *s)
{
	bool code = false, bold = false;

	inline_text(s, &code, &bold);
}

/* ---- tables: the first cell names, the others say, under their heading ---- */

/* Cut off the next cell; NULL when there is none. */
static char *next_cell(char **line)
{
	char *cell = *line + strspn(*line, " "), *end = cell;

	if (*cell == '\0')
		return NULL;
	while (*end && !(*end == '|' && end[-1] != '\\'))
		end++;
	*line = *end ? end + 1 : end;
	*end = '\0';
	while (end > cell && end[-1] == ' ')
		*--end = '\0';
	return cell;
}

enum { CELLS = 6 };

static size_t cut_row(char *line, char *ret[CELLS])
{
	size_t n = 0;

	line++; /* the pipe at its beginning */
	while (n < CELLS && (ret[n] = next_cell(&line)))
		n++;
	return n;
}

static void table_row(char *line, char *heads[CELLS], size_t n_heads)
{
	char *cells[CELLS];
	size_t n = cut_row(line, cells);
	bool first = true;

	puts(".TP");
	whole_text(n ? cells[0] : "");
	for (size_t i = 1; i < n; i++) {
		if (*cells[i] == '\0')
			continue;
		if (!first)
			puts(".br");
		first = false;
		if (i < n_heads && *heads[i])
			printf("\\fI%s\\fR: ", heads[i]);
		whole_text(cells[i]);
	}
	if (first)
		puts("\\&");
}

/* The line is the table's first; *rest leads to the others. */
static void table(char *line, char **rest)
{
	char *heads[CELLS];
	size_t n = cut_row(line, heads);

	strsep(rest, "\n"); /* |---|---| */
	while (*rest && **rest == '|')
		table_row(strsep(rest, "\n"), heads, n);
	puts(".PP");
}

/* ---- blocks ---- */

static void heading(const char *line)
{
	if (strncmp(line, "## ", 3) != 0)
		return; /* the page has a name of its own */
	fputs(".SH ", stdout);
	for (line += 3; *line; line++)
		putchar(toupper((unsigned char)*line));
	putchar('\n');
}

/* Lines as they stand, until one that ends them. */
static void set_lines(char *line, char **rest, bool fenced)
{
	puts(".PP\n.nf");
	if (fenced)
		line = strsep(rest, "\n");
	for (; line; line = strsep(rest, "\n")) {
		if (fenced ? kind_of(line) == FENCE : kind_of(line) != CODE)
			break;
		man_text(stdout, fenced ? line : line + 4);
		putchar('\n');
	}
	puts(".fi");
}

/* A paragraph or an entry of a list, until another block begins. */
static void fill(char *line, char **rest)
{
	bool code = false, bold = false;

	inline_text(line, &code, &bold);
	while (*rest && **rest != '\n' && (kind_of(*rest) == TEXT || kind_of(*rest) == CODE)) {
		line = strsep(rest, "\n");
		inline_text(line + strspn(line, " "), &code, &bold);
	}
}

static void block(char *line, char **rest)
{
	switch (kind_of(line)) {
	case BLANK:
		break;
	case HEADING:
		heading(line);
		break;
	case FENCE:
	case CODE:
		set_lines(line, rest, kind_of(line) == FENCE);
		break;
	case TABLE:
		table(line, rest);
		break;
	case LIST:
		puts(".IP \\(bu 2");
		fill(line + 2, rest);
		break;
	case TEXT:
		puts(".PP");
		fill(line, rest);
		break;
	}
}

void man_prose(char *text)
{
	char *rest = text;

	for (char *line; (line = strsep(&rest, "\n"));)
		block(line, &rest);
}
