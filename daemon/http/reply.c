/*
 * Answers. All of them carry X-Request-Id and Connection: close (gate.c says why), and none may be cached, for a list
 * of VMs is a secret. An error is always the JSON object of docs/API.md, whether libmicrohttpd sends it or, for a
 * request that was never handed to it, we ourselves.
 */
#include <string.h>
#include <sys/socket.h>

#include "daemon/http/internal.h"

enum { STREAM_BLOCK = 16384, LINE_MAX_KEPT = 1 << 20 };

/* ---- errors ---- */

static void set_unless_empty(field_json *object, const char *key, const char *value)
{
	if (*value)
		fj_set_str(object, key, value);
}

field_json *http_error_json(const struct request *rq, const struct fcm_error *err)
{
	field_json *e = fj_object(), *all = fj_object();
	bool veiled = err->veiled[0] && http_only(rq);

	fj_set_str(e, "code", fcm_code_info(err->code)->wire);
	fj_set_str(e, "message", veiled ? fcm_veiled(err) : err->msg);
	set_unless_empty(e, "field", err->field);
	set_unless_empty(e, "step", err->step);
	set_unless_empty(e, "hint", veiled ? fcm_code_info(err->code)->hint : err->hint);
	fj_set_str(e, "request_id", rq->id);
	fj_set(all, "error", e);
	return all;
}

char *reply_error_text(const struct request *rq, const struct fcm_error *err)
{
	auto_json field_json *all = http_error_json(rq, err);
	auto_free char *text = fj_print(all, false);

	return xprintf("%s\n", text);
}

/* The header field that belongs to a code. Returns its name, or NULL. */
static const char *extra_header(const struct request *rq, enum fcm_code code, const char **ret_value)
{
	if (code == FCM_UNAUTHORIZED) {
		*ret_value = "Bearer realm=\"fcm\"";
		return "WWW-Authenticate";
	}
	if (code == FCM_METHOD) {
		*ret_value = rq->match.allow;
		return "Allow";
	}
	if (code == FCM_THROTTLED || code == FCM_UNAVAILABLE) {
		*ret_value = "1";
		return "Retry-After";
	}
	return NULL;
}

void reply_direct(struct request *rq, const struct fcm_error *err)
{
	auto_free char *text = reply_error_text(rq, err);
	int status = fcm_code_info(err->code)->http;
	const char *value = "", *name = extra_header(rq, err->code, &value);
	struct buf b = {0};

	buf_printf(&b,
		"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nConnection: "
		"close\r\n"
		"Cache-Control: no-store\r\nX-Request-Id: %s\r\n",
		status, MHD_get_reason_phrase_for((unsigned)status), strlen(text), rq->id);
	if (name)
		buf_printf(&b, "%s: %s\r\n", name, value);
	buf_printf(&b, "\r\n%s", text);
	/* A fresh socket has room for it; one that hasn't belongs to a client that doesn't read. */
	(void)!send(rq->fd, b.p, b.n, MSG_DONTWAIT | MSG_NOSIGNAL);
	buf_done(&b);
}

int reply_error(struct request *rq, const struct fcm_error *err)
{
	char *text = reply_error_text(rq, err);
	size_t n = strlen(text);
	const char *value, *name = extra_header(rq, err->code, &value);
	int status = fcm_code_info(err->code)->http;

	if (rq->replied) {
		free(text);
		return 0;
	}
	idem_answer(rq, status, text, n);
	request_audit(rq, status, fcm_code_info(err->code)->wire);
	struct MHD_Response *r = MHD_create_response_from_buffer(n, text, MHD_RESPMEM_MUST_FREE);
	if (r && name)
		MHD_add_response_header(r, name, value);
	return reply_queue(rq, status, "application/json", r, clock_in(PATIENCE_MS));
}

/* ---- answers ---- */

int reply_queue(
	struct request *rq, int status, const char *type, struct MHD_Response *response, int64_t deadline)
{
	if (!response || rq->replied) {
		if (response)
			MHD_destroy_response(response);
		return 0;
	}
	if (type)
		MHD_add_response_header(response, "Content-Type", type);
	if (status != 101)
		MHD_add_response_header(response, "Connection", "close");
	MHD_add_response_header(response, "Cache-Control", "no-store");
	MHD_add_response_header(response, "X-Request-Id", rq->id);
	rq->replied = true;
	if (!rq->stream || !http_wants_progress(rq)) /* else its end says */
		request_audit(rq, status, "");
	pthread_mutex_lock(&server.lock);
	bool aborted = rq->aborted;
	rq->answered = true;
	rq->deadline = deadline;
	pthread_mutex_unlock(&server.lock);
	if (!aborted)
		MHD_queue_response(rq->mhd, (unsigned)status, response);
	MHD_destroy_response(response);
	return 0;
}

int reply_text(struct request *rq, int status, const char *type, char *text, size_t n)
{
	int64_t deadline = clock_in(PATIENCE_MS + (int64_t)(n * 1000 / RATE_MIN));

	idem_answer(rq, status, text, n);
	struct MHD_Response *r = MHD_create_response_from_buffer(n, text, MHD_RESPMEM_MUST_FREE);
	if (!r)
		free(text);
	return reply_queue(rq, status, type, r, deadline);
}

int http_reply(struct request *rq, int status, field_json *body)
{
	auto_free char *text = fj_print(body, false);

	fj_free(body);
	char *line = xprintf("%s\n", text);
	return reply_text(rq, status, "application/json", line, strlen(line));
}

int http_reply_text(struct request *rq, int status, const char *type, const char *text, size_t n)
{
	char *copy = malloc(n + 1);
	struct fcm_error err;

	if (!copy) {
		fcm_fail(&err, FCM_UNAVAILABLE, "out of memory for an answer of %zu bytes", n);
		return reply_error(rq, &err);
	}
	memcpy(copy, text, n);
	return reply_text(rq, status, type, copy, n);
}

/* ---- streams ---- */

struct stream {
	struct request *rq; /* NULL once it has ended */
	ssize_t (*more)(void *arg, char *p, size_t max);
	void (*done)(void *arg); /* or NULL */
	void *arg;
	bool ended;
	struct buf line; /* the last line so far, when an Idempotency-Key wants it */
};

static void keep_last_line(struct stream *s, const char *p, size_t n)
{
	if (!s->rq->idem || s->line.n + n > LINE_MAX_KEPT)
		return;
	buf_add(&s->line, p, n);
	for (char *end; (end = memchr(s->line.p, '\n', s->line.n - 1));)
		buf_drop(&s->line, (size_t)(end - s->line.p) + 1);
}

static ssize_t stream_more(void *cls, uint64_t pos, char *p, size_t max)
{
	struct stream *s = cls;

	(void)pos;
	if (!request_deadline(s->rq, FCM_FOREVER))
		return MHD_CONTENT_READER_END_WITH_ERROR;
	ssize_t n = s->more(s->arg, p, max);
	if (n > 0)
		keep_last_line(s, p, (size_t)n);
	else
		s->ended = true;
	request_deadline(s->rq, clock_in(STALL_MS));
	if (n == 0)
		return MHD_CONTENT_READER_END_OF_STREAM;
	return n < 0 ? MHD_CONTENT_READER_END_WITH_ERROR : n;
}

/* A client that went away may come back with the same Idempotency-Key: hear the operation out. */
static void hear_out(struct stream *s)
{
	char p[STREAM_BLOCK];

	for (ssize_t n; !s->ended && (n = s->more(s->arg, p, sizeof p)) > 0;)
		keep_last_line(s, p, (size_t)n);
	if (s->line.n)
		idem_answer_line(s->rq, s->line.p, s->line.n);
}

void stream_end(struct request *rq)
{
	struct stream *s = STEAL(rq->stream);

	if (!s)
		return;
	if (rq->idem)
		hear_out(s);
	if (s->done)
		s->done(s->arg);
	s->rq = NULL;
}

/* Usually the request has ended before libmicrohttpd drops the answer, and may be gone. */
static void stream_free(void *cls)
{
	struct stream *s = cls;

	if (s->rq)
		stream_end(s->rq);
	buf_done(&s->line);
	free(s);
}

int http_reply_stream(struct request *rq, const char *type, ssize_t (*more)(void *arg, char *p, size_t max),
	void (*done)(void *arg), void *arg)
{
	if (rq->replied) {
		done(arg);
		return 0;
	}
	struct stream *s = xalloc(sizeof *s);
	*s = (struct stream){.rq = rq, .more = more, .done = done, .arg = arg};
	rq->stream = s;
	struct MHD_Response *r = MHD_create_response_from_callback(
		MHD_SIZE_UNKNOWN, STREAM_BLOCK, stream_more, s, stream_free);
	if (!r)
		stream_free(s);
	return reply_queue(rq, 200, type, r, clock_in(STALL_MS));
}
