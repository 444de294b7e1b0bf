#include "client/report.h"

#include <stdio.h>
#include <string.h>

#include "client/command.h"
#include "client/out.h"
#include "client/term.h"

void report(const struct fcm_error *err)
{
	char text[sizeof err->msg + sizeof err->hint];

	term_progress_end();
	fflush(stdout);
	fcm_copy(text, sizeof text, err->msg);
	fprintf(stderr, "fcm: %s\n", fcm_make_printable(text));
	fcm_copy(text, sizeof text, err->hint);
	fcm_make_printable(text);
	if (*text)
		fprintf(stderr, "     %s\n", text);
}

int report_status(const struct fcm_error *err)
{
	return fcm_code_info(err->code)->exit_status;
}

/* Of several failures the exit status is that of the gravest: what the user did wrong and what isn't there weigh less
 * than an operation that failed. */
int report_worse(int a, int b)
{
	static const int rank[] = {
		[0] = 0, [3] = 1, [4] = 2, [2] = 3, [7] = 4, [8] = 5, [1] = 6, [5] = 7, [6] = 8};

	return rank[a] >= rank[b] ? a : b;
}

void report_note(const char *what, const char *name, const char *text)
{
	_cleanup_(buf_done) struct buf b = {0};

	term_progress_end();
	out_text(&b, text);
	fprintf(stderr, "fcm: %s %s: %s\n", what, name, b.p);
}

void report_step(const struct step_text *table, const char *step, const char **text)
{
	for (; table->step; table++)
		if (strcmp(table->step, step) == 0)
			*text = table->text;
}

int each_argument(struct cli *cli,
	int (*one)(struct cli *cli, const char *name, void *options, struct fcm_error *err), void *options)
{
	for (int i = 0; i < cli->argc; i++) {
		struct fcm_error err = {0};
		if (one(cli, cli->argv[i], options, &err) == 0)
			continue;
		report(&err);
		cli->status = report_worse(cli->status, report_status(&err));
	}
	return 0;
}
