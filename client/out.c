#include "client/out.h"

#include <inttypes.h>
#include <libsmartcols.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "client/term.h"
#include "common/core/clock.h"

#define SEPARATOR "  "

enum {
	MAX_COLUMNS = 24,
	RESULT_COLUMN = 12,
	CUT_WIDTH = 20, /* of a column that may be cut, at least */
	RATE_MS = 500,	/* before it says how fast */
};

struct picked {
	const struct column *v[MAX_COLUMNS];
	size_t n;
	bool chosen; /* by -o: nothing is left out or cut */
};

static void table_unref(struct libscols_table **t)
{
	scols_unref_table(*t);
}

void out_text(struct buf *b, const char *s)
{
	auto_free char *copy = xstrdup(*s ? s : "-");
	size_t n = fcm_printable(copy, strlen(copy));

	for (size_t i = 0; i < n; i++)
		if (copy[i] == '\n' || copy[i] == '\t')
			copy[i] = ' ';
	buf_add(b, copy, n);
}

void out_bytes(struct buf *b, int64_t bytes)
{
	static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
	double v = (double)bytes;
	size_t u = 0;

	for (; v >= 999.5 && u + 1 < ARRAY_SIZE(units); u++)
		v /= 1000;
	buf_printf(b, "%.*f %s", u > 0 && v < 9.95 ? 1 : 0, v, units[u]);
}

void out_bar(struct buf *b, uint64_t done, uint64_t total)
{
	static const char full[] = "==============", empty[] = "              ";
	double part = total ? (double)MIN(done, total) / (double)total : 0;
	int width = sizeof full - 1, filled = (int)(part * width);

	if (total)
		buf_printf(b, "[%.*s%.*s] %3d%%  ", filled, full, width - filled, empty, (int)(part * 100));
	out_bytes(b, (int64_t)done);
	if (total) {
		buf_str(b, " of ");
		out_bytes(b, (int64_t)total);
	}
}

void out_progress(const char *what, uint64_t done, uint64_t total)
{
	static struct {
		int64_t begun;
		uint64_t from, last; /* bytes: what was there when it began, and what was shown */
	} moving;
	_cleanup_(buf_done) struct buf b = {0}, rate = {0};

	if (moving.begun == 0 || done < moving.last)
		moving.begun = clock_ms(), moving.from = done;
	moving.last = done;
	out_bar(&b, done, total);
	int64_t ms = clock_ms() - moving.begun;
	if (ms >= RATE_MS && done > moving.from) {
		buf_str(&rate, "  ");
		out_bytes(&rate, (int64_t)((double)(done - moving.from) * 1000 / (double)ms));
		buf_str(&rate, "/s");
	}
	bool fits = strlen(what) + 2 + b.n + rate.n <= term_progress_width();
	term_progress("%.28s  %s%s", what, b.p, fits && rate.n ? rate.p : "");
}

void out_mib(struct buf *b, int64_t mib)
{
	if (mib >= 1024 && mib % 1024 == 0)
		buf_printf(b, "%" PRId64 "G", mib / 1024);
	else
		buf_printf(b, "%" PRId64 "M", mib);
}

void out_age(struct buf *b, const char *rfc3339)
{
	int64_t then;

	if (clock_parse(rfc3339, &then) < 0) {
		buf_str(b, "-");
		return;
	}
	int64_t s = MAX(clock_wall() - then, (int64_t)0);
	if (s < 60) /* whole seconds, as the time is */
		buf_printf(b, "%" PRId64 " s", s);
	else
		buf_str(b, clock_span(s * 1000).s);
}

void out_json(const field_json *v)
{
	auto_free char *text = fj_print(v, true);

	printf("%s\n", text);
}

/* ---- tables ---- */

static const struct column *find_column(const struct column *columns, const char *name, size_t n)
{
	for (; columns->name; columns++)
		if (strlen(columns->name) == n && strncasecmp(columns->name, name, n) == 0)
			return columns;
	return NULL;
}

static int fail_column(const struct column *columns, const char *name, size_t n, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf all = {0};

	for (; columns->name; columns++)
		buf_printf(&all, "%s%s", all.n ? "," : "", columns->name);
	fcm_fail(err, FCM_USAGE, "there is no column '%.*s'", (int)n, name);
	return fcm_hint(err, "columns: %s; or wide", all.p);
}

static int pick(const struct column *columns, const char *list, struct picked *ret, struct fcm_error *err)
{
	bool wide = list && strcmp(list, "wide") == 0;

	ret->chosen = list != NULL;
	for (const struct column *c = columns; c->name && (list == NULL || wide); c++)
		if (wide || !(c->flags & COLUMN_WIDE))
			ret->v[ret->n++] = c;
	while (list && !wide && *list) {
		size_t n = strcspn(list, ",");
		const struct column *c = find_column(columns, list, n);
		if (c == NULL || ret->n == MAX_COLUMNS)
			return fail_column(columns, list, n, err);
		ret->v[ret->n++] = c;
		list += n + (list[n] == ',');
	}
	return ret->n ? 0 : fail_column(columns, "", 0, err);
}

static const char *state_colour(const char *state)
{
	if (strcmp(state, "running") == 0)
		return "green";
	if (strcmp(state, "failed") == 0)
		return "red";
	return strcmp(state, "stopped") == 0 ? NULL : "yellow";
}

static void add_row(struct libscols_table *t, const struct picked *p, const field_json *row)
{
	struct libscols_line *line = scols_table_new_line(t, NULL);

	for (size_t i = 0; i < p->n; i++) {
		_cleanup_(buf_done) struct buf b = {0};
		p->v[i]->text(row, &b);
		scols_line_set_data(line, i, b.n ? b.p : "-");
		if (p->v[i]->flags & COLUMN_STATE && term_has_colour())
			scols_cell_set_color(scols_line_get_cell(line, i), state_colour(b.p));
	}
}

static struct libscols_table *new_table(const struct cli *cli, const struct picked *p)
{
	struct libscols_table *t = scols_new_table();
	unsigned width = term_width(STDOUT_FILENO);

	if (t == NULL)
		abort();
	scols_table_enable_noheadings(t, cli->globals.no_headings);
	scols_table_enable_colors(t, term_has_colour());
	scols_table_set_column_separator(t, SEPARATOR);
	scols_table_set_termforce(t, width ? SCOLS_TERMFORCE_ALWAYS : SCOLS_TERMFORCE_NEVER);
	if (width)
		scols_table_set_termwidth(t, width);
	for (size_t i = 0; i < p->n; i++) {
		int flags = (p->v[i]->flags & COLUMN_RIGHT ? SCOLS_FL_RIGHT : 0) |
			    (p->v[i]->flags & COLUMN_CUT && width && !p->chosen ? SCOLS_FL_TRUNC : 0);
		scols_table_new_column(t, p->v[i]->title, 0, flags);
	}
	return t;
}

/* Columns that a text takes on a terminal; what is no text counts by its bytes. */
static size_t text_width(const char *s)
{
	size_t total = 0, n;
	mbstate_t state = {0};
	wchar_t c;

	for (; (n = mbrtowc(&c, s, MB_CUR_MAX, &state)) != 0; s += n) {
		if (n == (size_t)-1 || n == (size_t)-2)
			return total + strlen(s);
		total += (size_t)MAX(wcwidth(c), 0);
	}
	return total;
}

static size_t column_width(const struct column *c, const field_json *rows)
{
	size_t width = strlen(c->title);

	for (size_t i = 0; i < fj_len(rows); i++) {
		_cleanup_(buf_done) struct buf b = {0};
		c->text(fj_at(rows, i), &b);
		width = MAX(width, b.n ? text_width(b.p) : 0);
	}
	return width;
}

static bool says_nothing(const struct column *c, const field_json *rows)
{
	for (size_t i = 0; i < fj_len(rows); i++) {
		_cleanup_(buf_done) struct buf b = {0};
		c->text(fj_at(rows, i), &b);
		if (b.n)
			return false;
	}
	return true;
}

static void leave_out(struct picked *p, size_t i)
{
	memmove(&p->v[i], &p->v[i + 1], (p->n - i - 1) * sizeof p->v[0]);
	p->n--;
}

static void leave_out_empty(struct picked *p, const field_json *rows)
{
	for (size_t i = p->n; i-- > 0;)
		if (p->v[i]->flags & COLUMN_EMPTY && says_nothing(p->v[i], rows))
			leave_out(p, i);
}

/* What it must have: of one that may be cut that much is enough, but a URL that is cut can't be opened. */
static size_t least_width(const struct column *c, const field_json *rows)
{
	size_t width = column_width(c, rows);

	return c->flags & COLUMN_CUT && !(c->flags & COLUMN_WHOLE) ? MIN(width, (size_t)CUT_WIDTH) : width;
}

/* Leave out columns that can be spared until the rest fits. */
static void fit(struct picked *p, const field_json *rows, size_t width)
{
	size_t total = 0, widths[MAX_COLUMNS];

	for (size_t i = 0; i < p->n; i++)
		total += widths[i] = least_width(p->v[i], rows) + strlen(SEPARATOR);
	for (size_t i = p->n; i-- > 0 && total > width + strlen(SEPARATOR);) {
		if (!(p->v[i]->flags & COLUMN_SPARE))
			continue;
		total -= widths[i];
		leave_out(p, i);
	}
}

static struct libscols_table *make_table(
	const struct cli *cli, const struct column *columns, const field_json *rows, struct fcm_error *err)
{
	struct picked p = {.n = 0};

	if (pick(columns, cli->globals.output, &p, err) < 0)
		return NULL;
	if (!p.chosen)
		leave_out_empty(&p, rows);
	if (!p.chosen && term_width(STDOUT_FILENO))
		fit(&p, rows, term_width(STDOUT_FILENO));
	struct libscols_table *t = new_table(cli, &p);
	for (size_t i = 0; i < fj_len(rows); i++)
		add_row(t, &p, fj_at(rows, i));
	return t;
}

static int print_table(
	const struct cli *cli, const struct column *columns, const field_json *rows, struct fcm_error *err)
{
	_cleanup_(table_unref) struct libscols_table *t = make_table(cli, columns, rows, err);

	if (t == NULL)
		return -1;
	return scols_print_table(t) < 0 ? fcm_fail_errno(err, "write to stdout") : 0;
}

char *out_table(
	const struct cli *cli, const struct column *columns, const field_json *rows, struct fcm_error *err)
{
	_cleanup_(table_unref) struct libscols_table *t = make_table(cli, columns, rows, err);
	char *text = NULL;

	if (t && scols_print_table_to_string(t, &text) < 0)
		fcm_fail_errno(err, "make a table");
	return text;
}

int out_list(
	const struct cli *cli, const struct column *columns, const field_json *rows, struct fcm_error *err)
{
	if (cli->globals.json) {
		out_json(rows);
		return 0;
	}
	if (!cli->globals.quiet)
		return print_table(cli, columns, rows, err);
	for (size_t i = 0; i < fj_len(rows); i++) {
		_cleanup_(buf_done) struct buf b = {0};
		columns->text(fj_at(rows, i), &b);
		printf("%s\n", b.p);
	}
	return 0;
}

/* ---- results ---- */

void out_hint(const char *fmt, ...)
{
	va_list ap;

	if (!isatty(STDERR_FILENO))
		return;
	va_start(ap, fmt);
	auto_free char *text = NULL;
	int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0)
		abort();
	fprintf(stderr, "%.*s\n", (int)fcm_printable(text, (size_t)n), text);
}

void out_result(const struct cli *cli, const char *name, const field_json *v, const char *fmt, ...)
{
	char text[512];
	bool both = isatty(STDOUT_FILENO) && isatty(STDERR_FILENO);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	fcm_make_printable(text);
	auto_free char *shown = xstrdup(name);
	fcm_make_printable(shown);
	if (cli->globals.json) {
		out_json(v);
	} else if (both && !cli->globals.quiet) {
		printf("%-*s", RESULT_COLUMN, shown);
		fflush(stdout);
		fprintf(stderr, "  %s\n", text);
	} else {
		printf("%s\n", shown);
		fflush(stdout);
		if (!cli->globals.quiet)
			out_hint("%s: %s", shown, text);
	}
}
