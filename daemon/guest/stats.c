/*
 * A request on a stream is sent without waiting for its answer, so one thread asks all guests and then waits for whichever
 * answers: a deaf one costs the others nothing, and its stream is closed at the deadline.
 */
#include "daemon/guest/stats.h"

#include <poll.h>

#include "common/core/clock.h"
#include "common/core/kv.h"

static const struct guest_stats unknown = {-1, -1, -1, -1, -1};

void guest_stats_parse(const void *p, size_t n, struct guest_stats *ret)
{
	const int64_t most = INT64_C(1) << 50; /* bytes: beyond any machine, and exact in a double */

	*ret = unknown;
	ret->memory = kv_i64(p, n, "memory", 1, most, -1);
	ret->available = kv_i64(p, n, "available", 0, MAX(ret->memory, (int64_t)0), -1);
	ret->load = kv_i64(p, n, "load", 0, GUEST_LOAD_MAX, -1);
	ret->disk = kv_i64(p, n, "disk", 1, most, -1);
	ret->disk_used = kv_i64(p, n, "disk_used", 0, MAX(ret->disk, (int64_t)0), -1);
}

static struct guest_stream *ask(struct guest *g)
{
	_cleanup_(buf_done) struct buf request = {0};
	struct guest_stream *s = NULL;
	struct fcm_error silent;

	kv_add(&request, "op", "stats");
	return g && guest_stream_open(g, &request, 0, &s, &silent) == 0 ? s : NULL;
}

/* Is it over? Then ret is what it said. */
static bool take(struct guest_stream *s, struct guest_piece *piece, struct guest_stats *ret)
{
	const struct buf *answer;
	struct fcm_error silent;

	guest_stream_clear(s);
	for (;;) {
		switch (guest_stream_read(s, piece)) {
		case GUEST_LATER:
			return false;
		case GUEST_END:
			break;
		case GUEST_RESULT:
			if (guest_stream_result(s, &answer, &silent) == 0 &&
				kv_get(answer->p, answer->n, "ok"))
				guest_stats_parse(answer->p, answer->n, ret);
			return true;
		case GUEST_DATA: /* what nobody asked for: it has had its turn */
		case GUEST_BROKEN:
			return true;
		}
	}
}

void guest_stats_ask(struct guest *const *guests, size_t n, int64_t deadline, struct guest_stats *ret)
{
	auto_free struct guest_stream **streams = xalloc((n + 1) * sizeof(struct guest_stream *));
	auto_free struct pollfd *wait = xalloc((n + 1) * sizeof *wait);
	auto_free struct guest_piece *piece = xalloc(sizeof *piece);
	size_t open = 0;

	for (size_t i = 0; i < n; i++) {
		ret[i] = unknown;
		streams[i] = ask(guests[i]);
		wait[i] = (struct pollfd){streams[i] ? guest_stream_fd(streams[i]) : -1, POLLIN, 0};
		open += streams[i] != NULL;
	}
	while (open && clock_left(deadline) > 0) {
		if (poll(wait, n, clock_left(deadline)) <= 0)
			continue;
		for (size_t i = 0; i < n; i++) {
			if (!(wait[i].revents & POLLIN) || !take(streams[i], piece, &ret[i]))
				continue;
			wait[i] = (struct pollfd){-1, 0, 0};
			open--;
		}
	}
	for (size_t i = 0; i < n; i++)
		guest_stream_close(streams[i]);
}
