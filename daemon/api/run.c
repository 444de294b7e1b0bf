/*
 * Answering with the outcome of an operation. The operation has a thread of its own; the connection's thread
 * waits on its descriptor, on the connection (a client that went away is no longer waited for) and on the
 * server's stop. Who waits no longer gives the operation up, which ends a pull, an import or a build, and no other.
 */
#include <poll.h>
#include <string.h>

#include "common/core/log.h"
#include "daemon/api/api.h"

enum { WAIT_GONE, WAIT_NEWS, WAIT_STOP };

/* The connection to watch for its client's going away; -1 where the outcome is waited for all the same. */
static int client_fd(const struct request *rq)
{
	return http_keeps_answer(rq) ? -1 : http_connection_fd(rq);
}

static int wait_news(struct request *rq, const struct op *op)
{
	struct pollfd p[] = {
		{.fd = op_wake_fd(op), .events = POLLIN},
		{.fd = client_fd(rq), .events = POLLRDHUP},
		{.fd = http_stop_fd(), .events = POLLIN},
	};

	while (poll(p, ARRAY_SIZE(p), -1) < 0)
		;
	if (p[0].revents)
		return WAIT_NEWS;
	return p[1].revents ? WAIT_GONE : WAIT_STOP;
}

static int answer_once(struct request *rq, struct op *op, int status,
	field_json *(*result)(const struct op *op), struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf lines = {0};

	while (!op_poll(op, &lines)) {
		switch (wait_news(rq, op)) {
		case WAIT_NEWS:
			lines.n = 0;
			break;
		case WAIT_STOP:
			return fcm_fail(err, FCM_UNAVAILABLE, "the daemon is stopping%s",
				op->vm ? "; the operation goes on" : "");
		case WAIT_GONE:
			return fcm_fail(err, FCM_CANCELLED, "the client went away");
		}
	}
	http_about(rq, op_subject(op)); /* it may have got its name meanwhile */
	if (op->rc < 0) {
		*err = op->err;
		return -1;
	}
	return http_reply(rq, status, result(op));
}

/* ---- progress ---- */

struct stream {
	struct request *rq;
	struct op *op;
	field_json *(*result)(const struct op *op);
	struct buf out;
	bool over;
};

static void last_line(struct stream *s)
{
	field_json *line;

	http_about(s->rq, op_subject(s->op));
	http_outcome(s->rq, s->op->rc < 0 ? &s->op->err : NULL);
	if (s->op->rc < 0) {
		line = http_error_json(s->rq, &s->op->err);
	} else {
		line = fj_object();
		fj_set(line, "result", s->result(s->op));
	}
	auto_free char *text = fj_print(line, false);
	fj_free(line);
	buf_printf(&s->out, "%s\n", text);
}

static ssize_t stream_more(void *arg, char *p, size_t max)
{
	struct stream *s = arg;

	while (s->out.n == 0 && !s->over) {
		s->over = op_poll(s->op, &s->out);
		if (s->over)
			last_line(s);
		else if (s->out.n == 0 && wait_news(s->rq, s->op) != WAIT_NEWS)
			return -1;
	}
	size_t n = MIN(max, s->out.n);
	memcpy(p, s->out.p, n);
	buf_drop(&s->out, n);
	return (ssize_t)n;
}

static void stream_done(void *arg)
{
	struct stream *s = arg;

	op_give_up(s->op);
	buf_done(&s->out);
	free(s);
}

int api_answer(struct request *rq, struct op *op, int status, field_json *(*result)(const struct op *op),
	struct fcm_error *err)
{
	if (http_wants_progress(rq)) {
		struct stream *s = xalloc(sizeof *s);
		*s = (struct stream){.rq = rq, .op = op, .result = result};
		return http_reply_stream(rq, "application/x-ndjson", stream_more, stream_done, s);
	}
	int rc = answer_once(rq, op, status, result, err);
	op_give_up(op);
	return rc;
}

int api_start(struct request *rq, struct op *op, struct fcm_error *err)
{
	http_about(rq, op_subject(op));
	if (op_start(op, err) == 0)
		return 0;
	op_unref(op);
	return -1;
}

int api_run(struct request *rq, struct op *op, int status, field_json *(*result)(const struct op *op),
	struct fcm_error *err)
{
	return api_start(rq, op, err) < 0 ? -1 : api_answer(rq, op, status, result, err);
}
