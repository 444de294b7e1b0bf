/*
 * Runs while building: fills the templates of the manual pages, of docs/openapi.yaml and of the shells' completions from the
 * tables of commands, options, config keys, routes and errors, so that none of them can be forgotten.
 *
 *	fcm-document TEMPLATE [PROSE] >OUTPUT
 *	fcm-document --pages DIR		a manual page for each command
 *
 * A line of the template that is one of the marks below is replaced by what the tables say, and @prose@ by the file PROSE.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "client/document.h"
#include "common/core/fileio.h"

enum { TEMPLATE_MAX = 1 << 20 };

static struct buf prose;

static void print_prose(void)
{
	man_prose(prose.p);
}

static const struct {
	const char *mark;
	void (*print)(void);
} marks[] = {
	{"@man-commands@", man_commands},
	{"@man-options@", man_global_options},
	{"@man-keys@", man_keys},
	{"@api-bodies@", man_api_bodies},
	{"@api-errors@", man_api_errors},
	{"@prose@", print_prose},
	{"@openapi-paths@", openapi_paths},
	{"@openapi-bodies@", openapi_bodies},
	{"@openapi-vm@", openapi_vm},
	{"@openapi-common@", openapi_common},
	{"@openapi-errors@", openapi_errors},
	{"@troubleshooting@", troubleshooting},
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

static int fill_template(const char *path, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};

	if (file_read(AT_FDCWD, path, TEMPLATE_MAX, &text, err) < 0)
		return -1;
	char *rest = text.p;
	for (char *line; (line = strsep(&rest, "\n")) && (*line || rest);)
		print_line(line);
	return fflush(stdout) == 0 ? 0 : fcm_fail_errno(err, "write");
}

static int run(int argc, char **argv, struct fcm_error *err)
{
	if (argc == 3 && strcmp(argv[1], "--pages") == 0)
		return man_pages(argv[2]) < 0 ? fcm_fail_errno(err, "pages in %s", argv[2]) : 0;
	if (argc != 2 && argc != 3)
		return fcm_fail(err, FCM_USAGE, "usage: fcm-document TEMPLATE [PROSE], or --pages DIR");
	if (argc == 3 && file_read(AT_FDCWD, argv[2], TEMPLATE_MAX, &prose, err) < 0)
		return -1;
	return fill_template(argv[1], err);
}

int main(int argc, char **argv)
{
	struct fcm_error err;
	int r = run(argc, argv, &err);

	if (r < 0)
		fprintf(stderr, "fcm-document: %s\n", err.msg);
	buf_done(&prose);
	return r < 0 ? 1 : 0;
}
