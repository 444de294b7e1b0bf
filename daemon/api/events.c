/*
 * What happened, as server-sent events (HTML Living Standard, "Server-sent events"): those that are kept, and with follow what
 * comes. A reader that is slower than what happens, or comes back late, is told what it missed (`gone`).
 */
#include <inttypes.h>
#include <string.h>

#include "common/core/clock.h"
#include "daemon/api/api.h"
#include "daemon/engine/events.h"

enum {
	LOOK_MS = 500,	       /* between two looks whether the client is still there */
	KEEP_ALIVE_MS = 15000, /* a comment, so that nothing between us and the client takes it for dead */
};

struct stream {
	struct request *rq;
	bool follow;
	struct event_filter filter;
	uint64_t after, seen;
	int64_t quiet_until;
	struct buf out;
};

static void add_event(struct stream *s)
{
	struct event e;
	uint64_t lost;
	bool found = events_next(&s->after, &s->filter, &e, &lost);

	if (lost)
		buf_printf(&s->out, "event: gone\ndata: {\"oldest\":%" PRIu64 "}\n\n", lost);
	if (!found)
		return;
	buf_printf(&s->out, "id: %" PRIu64 "\nevent: %s\ndata: %s\n\n", e.number, e.name, e.text);
	free(e.text);
}

/* False when nothing more comes. */
static bool wait_more(struct stream *s)
{
	for (;;) {
		add_event(s);
		if (s->out.n)
			return true;
		if (!s->follow || http_cancelled(s->rq))
			return false;
		if (clock_left(s->quiet_until) == 0) {
			buf_str(&s->out, ":\n\n");
			return true;
		}
		registry_wait(&s->seen, clock_in(LOOK_MS));
	}
}

static ssize_t more(void *arg, char *p, size_t max)
{
	struct stream *s = arg;

	if (s->out.n == 0 && !wait_more(s))
		return 0;
	size_t n = MIN(max, s->out.n);
	memcpy(p, s->out.p, n);
	buf_drop(&s->out, n);
	s->quiet_until = clock_in(KEEP_ALIVE_MS);
	return (ssize_t)n;
}

static void stream_free(void *arg)
{
	struct stream *s = arg;

	buf_done(&s->out);
	free(s);
}

static int check_name(const char *name, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf known = {0};

	for (size_t i = 0; event_names[i]; i++) {
		if (name == NULL || strcmp(name, event_names[i]) == 0)
			return 0;
		buf_printf(&known, "%s%s", i ? ", " : "", event_names[i]);
	}
	return fcm_fail_field(err, FCM_INVALID, "event", "event: not one of %s", known.p);
}

/* Where to begin: behind what the client has, as it says (a browser does in Last-Event-ID), else with all that is kept; but who
 * only wants to follow is told what comes from now on. */
static int begin(struct stream *s, struct fcm_error *err)
{
	const char *header = http_header(s->rq, "Last-Event-ID");
	int64_t after = -1;

	if (header && !fcm_parse_i64(header, 0, INT64_MAX, &after))
		return fcm_fail(err, FCM_INVALID, "Last-Event-ID: not the number of an event");
	if (api_number(s->rq, "after", 0, INT64_MAX, after, &after, err) < 0 ||
		api_time(s->rq, "since", &s->filter.since, err) < 0 || check_name(s->filter.name, err) < 0)
		return -1;
	if (after < 0 && s->follow && s->filter.since == 0)
		s->after = events_last();
	else
		s->after = (uint64_t)MAX(after, 0);
	return 0;
}

int api_events(struct request *rq, struct fcm_error *err)
{
	struct stream *s = xalloc(sizeof *s);

	*s = (struct stream){.rq = rq,
		.follow = api_flag(rq, "follow"),
		.filter = {.vm = http_query(rq, "vm"),
			.name = http_query(rq, "event"),
			.only = http_only(rq)},
		.quiet_until = clock_in(KEEP_ALIVE_MS)};
	if (begin(s, err) < 0) {
		stream_free(s);
		return -1;
	}
	return http_reply_stream(rq, "text/event-stream", more, stream_free, s);
}
