#include <string.h>
#include <unistd.h>

#include "client/command.h"
#include "client/term.h"

struct logs_options {
	bool follow, raw, timestamps;
	uint32_t tail;
	char *since, *source;
};

static const struct field logs_fields[] = {
	F(struct logs_options, follow, FIELD_BOOL),
	F(struct logs_options, raw, FIELD_BOOL),
	F(struct logs_options, timestamps, FIELD_BOOL),
	F(struct logs_options, tail, FIELD_U32, .max = 100000), /* the most that the daemon gives */
	F(struct logs_options, since, FIELD_STR, .max = 64),
	F(struct logs_options, source, FIELD_STR, .max = 16),
	FIELD_END,
};

static const struct option_row options[] = {
	{"follow", 'f', NULL, NULL, "go on as more is written"},
	{"tail", 'n', "N", NULL, "only the last N lines"},
	{"since", 0, "TIME", NULL, "only what came since: 5m ago, or 2026-11-25T16:48:13Z"},
	{"source", 0, "WHAT", NULL, "main (its process, the default if any) or console"},
	{"timestamps", 't', NULL, NULL, "the time that each line came, in UTC"},
	{"raw", 0, NULL, NULL, "as the guest wrote it, escape sequences and all"},
	{0},
};

struct logs {
	bool raw, open_line;
	struct guest_text text;
};

static int print_piece(void *arg, const char *p, size_t n)
{
	struct logs *l = arg;
	_cleanup_(buf_done) struct buf out = {0};

	if (l->raw)
		buf_add(&out, p, n);
	else
		guest_text_add(&l->text, p, n, &out);
	if (out.n)
		l->open_line = out.p[out.n - 1] != '\n';
	if (out.n && fwrite(out.p, 1, out.n, stdout) != out.n)
		return -1;
	return fflush(stdout) == 0 ? 0 : -1;
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	const struct logs_options *o = options_;
	_cleanup_(buf_done) struct buf query = {0};
	struct logs l = {.raw = o->raw};

	if (strv_has(&cli->given, "tail"))
		buf_printf(&query, "&tail=%u", o->tail);
	if (o->since) {
		auto_free char *since = httpc_escape(o->since);
		buf_printf(&query, "&since=%s", since);
	}
	if (o->source) {
		auto_free char *source = httpc_escape(o->source);
		buf_printf(&query, "&source=%s", source);
	}
	if (o->timestamps)
		buf_str(&query, "&timestamps=1");
	if (o->follow)
		buf_str(&query, "&follow=1");
	auto_free char *rest = xprintf("/logs%s%s", query.n ? "?" : "", query.n ? query.p + 1 : "");
	auto_free char *path = api_vm_path(cli->argv[0], rest);
	int r = api_stream(cli->api, path, print_piece, &l, err);
	if (l.open_line && isatty(STDOUT_FILENO))
		putchar('\n'); /* the shell's prompt gets a line of its own */
	return r;
}

const struct command cmd_logs = {
	.name = "logs",
	.args = "VM",
	.summary = "print what a VM's main process, or its console, has printed",
	.example = "fcm logs -f --tail 20 web",
	.min_args = 1,
	.max_args = 1,
	.options = options,
	.fields = logs_fields,
	.size = sizeof(struct logs_options),
	.run = run,
};
