#include "client/watch.h"

#include <poll.h>

#include "client/term.h"
#include "common/core/clock.h"

const struct field watch_fields[] = {
	F(struct watch_options, watch, FIELD_BOOL),
	F(struct watch_options, interval, FIELD_U32, .min = 1, .max = 3600),
	FIELD_END,
};

bool watch_on_screen(const struct cli *cli, const struct watch_options *o)
{
	return o->watch && term_width(STDOUT_FILENO) && !cli->globals.json && !cli->globals.quiet;
}

bool watch_wait(const struct cli *cli, const struct watch_options *o)
{
	bool keys = watch_on_screen(cli, o) && isatty(STDIN_FILENO);
	struct pollfd p = {.fd = keys ? STDIN_FILENO : -1, .events = POLLIN};

	for (int64_t until = clock_in(o->interval * 1000ll); clock_left(until) > 0;) {
		char c;
		if (poll(&p, 1, clock_left(until)) <= 0)
			continue;
		ssize_t n = read(STDIN_FILENO, &c, 1);
		if (n == 1 && (c == 'q' || c == 'Q'))
			return false;
		if (n <= 0)
			p.fd = -1;
	}
	return true;
}

static int draw(
	const struct cli *cli, const struct column *columns, const field_json *rows, struct fcm_error *err)
{
	auto_free char *text = out_table(cli, columns, rows, err);

	if (text == NULL)
		return -1;
	term_screen_draw(text);
	return ferror(stdout) ? fcm_fail_errno(err, "write to stdout") : 0;
}

/* On a pipe: lines that can be told apart while more come. */
static int print(struct cli *cli, bool watch, const struct column *columns, const field_json *rows,
	struct fcm_error *err)
{
	int r = 0;

	if (cli->globals.json && watch) {
		auto_free char *text = fj_print(rows, false);
		printf("%s\n", text);
	} else {
		r = out_list(cli, columns, rows, err);
	}
	if (r == 0 && fflush(stdout) != 0)
		return fcm_fail_errno(err, "write to stdout");
	cli->globals.no_headings |= watch;
	return r;
}

static int show(struct cli *cli, const struct watch_options *o, const struct column *columns,
	field_json *(*rows)(struct cli *cli, void *arg, struct fcm_error *err), void *arg,
	struct fcm_error *err)
{
	bool screen = watch_on_screen(cli, o);

	do {
		auto_json field_json *now = rows(cli, arg, err);
		if (now == NULL ||
			(screen ? draw(cli, columns, now, err) : print(cli, o->watch, columns, now, err)) < 0)
			return -1;
	} while (o->watch && watch_wait(cli, o));
	return 0;
}

int watch_table(struct cli *cli, const struct watch_options *o, const struct column *columns,
	field_json *(*rows)(struct cli *cli, void *arg, struct fcm_error *err), void *arg,
	struct fcm_error *err)
{
	bool screen = watch_on_screen(cli, o);

	if (screen && term_screen(err) < 0)
		return -1;
	int r = show(cli, o, columns, rows, arg, err);
	if (screen)
		term_screen_end();
	return r;
}
