/*
 * fcm events: what happened to VMs, a line each.
 */
#include <string.h>

#include "client/command.h"
#include "client/out.h"

enum { LINE_MAX_BYTES = 64 << 10, NAME_WIDTH = 16, EVENT_WIDTH = 10 };

struct events_options {
	bool follow;
	char *since;
	struct strv filters;
};

static const struct field events_fields[] = {
	F(struct events_options, follow, FIELD_BOOL),
	F(struct events_options, since, FIELD_STR, .max = 64),
	F(struct events_options, filters, FIELD_STRV, .max = 2),
	FIELD_END,
};

static const struct option_row options[] = {
	{"follow", 'f', NULL, NULL, "what happens from now on (or since --since)"},
	{"since", 0, "TIME", NULL, "since 5m ago, or 2026-11-25T16:48:13Z"},
	{"filter", 0, "KEY=VALUE", "filters", "vm=NAME, event=NAME: one of each"},
	{0},
};

struct events {
	bool json;
	struct buf line;
	struct fcm_error err; /* of a line that can't be read */
};

/* A value, and what is missing to `width` and two spaces. */
static void add_column(struct buf *b, const char *s, size_t width)
{
	size_t before = b->n;

	out_text(b, s);
	buf_printf(b, "%*s  ", (int)(width - MIN(width, b->n - before)), "");
}

static void print_event(const field_json *o)
{
	_cleanup_(buf_done) struct buf b = {0};
	const char *message = fj_get_str(o, "message");

	add_column(&b, fj_get_str(o, "time"), 0);
	add_column(&b, fj_get_str(o, "name"), NAME_WIDTH);
	if (*message) {
		add_column(&b, fj_get_str(o, "event"), EVENT_WIDTH);
		out_text(&b, message);
	} else {
		out_text(&b, fj_get_str(o, "event"));
	}
	puts(b.p);
}

/* A line of the stream: "data:" has the event, "event: gone" says that some are lost. */
static int take_line(struct events *e, const char *line, size_t n)
{
	static const char data[] = "data: ", gone[] = "event: gone";

	if (n == sizeof gone - 1 && memcmp(line, gone, n) == 0)
		fputs("fcm: some events are gone: more happened than is kept\n", stderr);
	if (n < sizeof data || memcmp(line, data, sizeof data - 1) != 0)
		return 0;
	auto_json field_json *o = fj_parse(line + sizeof data - 1, n - sizeof data + 1, &e->err);
	if (o == NULL)
		return -1;
	if (fj_get(o, "event") == NULL)
		return 0;
	if (e->json) {
		auto_free char *text = fj_print(o, false);
		puts(text);
	} else {
		print_event(o);
	}
	return fflush(stdout) == 0 ? 0 : -1;
}

static int take_piece(void *arg, const char *p, size_t n)
{
	struct events *e = arg;
	char *end;

	buf_add(&e->line, p, n);
	while (e->line.n && (end = memchr(e->line.p, '\n', e->line.n)) != NULL) {
		size_t len = (size_t)(end - e->line.p);
		if (take_line(e, e->line.p, len) < 0)
			return -1;
		buf_drop(&e->line, len + 1);
	}
	if (e->line.n > LINE_MAX_BYTES)
		return fcm_fail(&e->err, FCM_TOO_LARGE, "an event is longer than %d bytes", LINE_MAX_BYTES);
	return 0;
}

static int add_filter(struct buf *query, const char *filter, struct fcm_error *err)
{
	static const char *const keys[] = {"vm", "event"};

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		size_t n = strlen(keys[i]);
		if (strncmp(filter, keys[i], n) != 0 || filter[n] != '=' || filter[n + 1] == '\0')
			continue;
		auto_free char *value = httpc_escape(filter + n + 1);
		buf_printf(query, "&%s=%s", keys[i], value);
		return 0;
	}
	return fcm_fail_field(
		err, FCM_USAGE, "--filter", "--filter: '%s' is not vm=NAME or event=NAME", filter);
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	const struct events_options *o = options_;
	_cleanup_(buf_done) struct buf query = {0};
	struct events e = {.json = cli->globals.json};

	if (o->follow)
		buf_str(&query, "&follow=1");
	if (o->since) {
		auto_free char *since = httpc_escape(o->since);
		buf_printf(&query, "&since=%s", since);
	}
	for (size_t i = 0; i < o->filters.n; i++)
		if (add_filter(&query, o->filters.v[i], err) < 0)
			return -1;
	auto_free char *path = xprintf("/v1/events%s%s", query.n ? "?" : "", query.n ? query.p + 1 : "");
	int r = api_stream(cli->api, path, take_piece, &e, err);
	buf_done(&e.line);
	if (r == 0 && e.err.code) {
		*err = e.err;
		return -1;
	}
	return r;
}

const struct command cmd_events = {
	.name = "events",
	.summary = "what happened to VMs",
	.example = "fcm events -f --filter vm=web",
	.details = "Events are the states of VMs (creating, starting, running, paused, stopping,\n"
		   "stopped, suspending, suspended, failed, destroying), destroyed, renamed,\n"
		   "healthy, unhealthy, exposed, pending, unexposed.\n"
		   "With --json each is a line of JSON. The last 1024 are kept.",
	.options = options,
	.fields = events_fields,
	.size = sizeof(struct events_options),
	.run = run,
};
