/*
 * One request on its connection's thread: libmicrohttpd calls once when the head is in, once for each piece of the body,
 * and once more at its end. JSON bodies are collected and decoded, then the handler is called; the handler of a RAW route
 * is called at the head and says who takes the pieces.
 *
 * What the client can delay has a deadline, which the gate enforces: a JSON body has header_seconds in all, a raw one
 * must keep up RATE_MIN on average after the first PATIENCE_MS, not counting the time that our own side takes. A handler
 * has none.
 */
#include "daemon/http/internal.h"

#include <poll.h>
#include <string.h>

#include "common/core/log.h"

/* ---- what a handler asks ---- */

const char *http_param(const struct request *rq, const char *name)
{
	return match_param(&rq->match, name);
}

const char *http_query(const struct request *rq, const char *name)
{
	return query_get(&rq->query, name);
}

const char *http_query_at(const struct request *rq, unsigned i, const char **ret_value)
{
	if (i >= rq->query.n)
		return NULL;
	*ret_value = rq->query.fields[i].value;
	return rq->query.fields[i].name;
}

const char *http_header(const struct request *rq, const char *name)
{
	return head_get(&rq->head, name);
}

void *http_body(struct request *rq)
{
	return rq->body;
}

struct vm *http_vm(struct request *rq)
{
	return rq->vm;
}

const struct token_info *http_token(const struct request *rq)
{
	return &rq->token;
}

const char *http_only(const struct request *rq)
{
	return *rq->token.vms ? rq->token.vms : NULL;
}

const char *http_request_id(const struct request *rq)
{
	return rq->id;
}

bool http_wants_progress(const struct request *rq)
{
	return rq->match.route->flags & ROUTE_PROGRESS &&
	       head_has_word(&rq->head, "accept", "application/x-ndjson");
}

int http_connection_fd(const struct request *rq)
{
	return rq->fd;
}

bool http_keeps_answer(const struct request *rq)
{
	return rq->idem != NULL;
}

bool http_cancelled(struct request *rq)
{
	struct pollfd p = {.fd = rq->fd, .events = POLLRDHUP};

	return atomic_load(&server.stopping) || poll(&p, 1, 0) > 0;
}

/* ---- the log ---- */

/* The pattern with what stands for its {name}s. */
static void add_path(struct buf *b, const struct match *m)
{
	unsigned n = 0;

	for (const char *p = m->route->pattern; *p; p++) {
		if (*p != '{') {
			buf_add(b, p, 1);
			continue;
		}
		buf_str(b, m->params[n++].value);
		p = strchr(p, '}');
	}
}

void request_audit(struct request *rq, int status, const char *code)
{
	const struct route *route = rq->match.route;
	_cleanup_(buf_done) struct buf what = {0};

	if (rq->audited || !route || route->need != NEED_FULL || !*rq->token.name)
		return;
	rq->audited = true;
	add_path(&what, &rq->match);
	if (*rq->about)
		buf_printf(&what, " (%s)", rq->about);
	const char *how = *code ? code : status ? "done" : "nobody waited for the end";
	log_line(LOG_LEVEL_INFO, rq->vm ? server.config.vm_id(rq->vm) : NULL,
		"audit: %s%s%s %s %s: %d %s, request %s", rq->token.name, *rq->token.id ? " " : "",
		rq->token.id, route->method, what.p, status, how, rq->id);
}

void http_about(struct request *rq, const char *what)
{
	fcm_copy(rq->about, sizeof rq->about, what);
}

void http_outcome(struct request *rq, const struct fcm_error *err)
{
	if (err)
		request_audit(rq, fcm_code_info(err->code)->http, fcm_code_info(err->code)->wire);
	else
		request_audit(rq, 200, "");
}

/* ---- deadlines ---- */

bool request_deadline(struct request *rq, int64_t deadline)
{
	pthread_mutex_lock(&server.lock);
	rq->deadline = deadline;
	bool aborted = rq->aborted;
	pthread_mutex_unlock(&server.lock);
	return !aborted;
}

static bool is_aborted(struct request *rq)
{
	pthread_mutex_lock(&server.lock);
	bool aborted = rq->aborted;
	pthread_mutex_unlock(&server.lock);
	return aborted;
}

void request_abort_locked(struct request *rq, const struct fcm_error *err)
{
	if (rq->answered)
		return;
	rq->answered = rq->aborted = true;
	reply_direct(rq, err);
}

void request_abort(struct request *rq, const struct fcm_error *err)
{
	pthread_mutex_lock(&server.lock);
	request_abort_locked(rq, err);
	pthread_mutex_unlock(&server.lock);
}

static enum MHD_Result refuse(struct request *rq, const struct fcm_error *err)
{
	request_abort(rq, err);
	return MHD_NO;
}

/* ---- calling the handler ---- */

static int decode_body(struct request *rq, struct fcm_error *err)
{
	const struct route *route = rq->match.route;

	if (!route->body)
		return 0;
	rq->body = xalloc(route->body_size);
	route_body_init(route, rq->body);
	return field_decode(route->body, rq->raw.n ? rq->raw.p : "", rq->raw.n, FIELD_WIRE, rq->body, err);
}

static int resolve(struct request *rq, struct fcm_error *err)
{
	const struct route *route = rq->match.route;

	if (route->subject != SUBJECT_VM)
		return 0;
	rq->vm = server.config.resolve(http_param(rq, "vm"), route->flags & ROUTE_EXACT, &rq->token, err);
	return rq->vm ? 0 : -1;
}

static int call(struct request *rq, struct fcm_error *err)
{
	/* again: whoever revoked it may have missed this request, which wasn't on the list yet */
	if (auth_still(&rq->token, err) < 0 || decode_body(rq, err) < 0 || resolve(rq, err) < 0)
		return -1;
	int first = idem_claim(rq, err);
	return first > 0 ? rq->match.route->handle(rq, err) : first;
}

/* Run a part of the request that ends with an answer, or else with an error of it. */
static enum MHD_Result conclude(struct request *rq, int r, const struct fcm_error *err)
{
	struct fcm_error missing;

	if (r < 0) {
		reply_error(rq, err);
	} else if (!rq->replied) {
		fcm_fail(
			&missing, FCM_INTERNAL, "the handler of %s gave no answer", rq->match.route->pattern);
		reply_error(rq, &missing);
	}
	return is_aborted(rq) ? MHD_NO : MHD_YES;
}

static enum MHD_Result begin(struct request *rq)
{
	struct fcm_error err;

	rq->began = true;
	if (!(rq->match.route->flags & ROUTE_RAW))
		return MHD_YES;
	if (!request_deadline(rq, FCM_FOREVER))
		return MHD_NO;
	int r = call(rq, &err);
	if (r < 0 || !rq->receive.feed)
		return conclude(rq, r, &err);
	rq->receive.since = clock_ms();
	return request_deadline(rq, rq->receive.since + PATIENCE_MS) ? MHD_YES : MHD_NO;
}

static enum MHD_Result end(struct request *rq)
{
	struct fcm_error err;

	rq->body_ended = true;
	if (!request_deadline(rq, FCM_FOREVER))
		return MHD_NO;
	int r = rq->receive.finish ? rq->receive.finish(rq->receive.arg, rq, &err) : call(rq, &err);
	return conclude(rq, r, &err);
}

/* ---- bodies ---- */

int http_receive(struct request *rq, int (*feed)(void *arg, const void *p, size_t n, struct fcm_error *err),
	int (*finish)(void *arg, struct request *rq, struct fcm_error *err), void (*done)(void *arg),
	void *arg)
{
	rq->receive.feed = feed;
	rq->receive.finish = finish;
	rq->receive.done = done;
	rq->receive.arg = arg;
	return 0;
}

static enum MHD_Result take_raw(struct request *rq, const char *data, size_t n)
{
	struct fcm_error err;

	if (!request_deadline(rq, FCM_FOREVER))
		return MHD_NO;
	int64_t began = clock_ms();
	if (rq->receive.feed(rq->receive.arg, data, n, &err) < 0)
		return refuse(rq, &err);
	rq->receive.since += clock_ms() - began;
	int64_t deadline = rq->receive.since + PATIENCE_MS + (int64_t)(rq->receive.bytes * 1000 / RATE_MIN);
	return request_deadline(rq, deadline) ? MHD_YES : MHD_NO;
}

static enum MHD_Result take(struct request *rq, const char *data, size_t n)
{
	struct fcm_error err;

	rq->receive.bytes += n;
	if (rq->receive.bytes > rq->match.route->body_max) {
		fcm_fail(&err, FCM_TOO_LARGE, "the body is larger than %llu bytes",
			(unsigned long long)rq->match.route->body_max);
		return refuse(rq, &err);
	}
	if (rq->receive.feed)
		return take_raw(rq, data, n);
	buf_add(&rq->raw, data, n);
	return MHD_YES;
}

enum MHD_Result request_step(struct request *rq, const char *data, size_t *n)
{
	if (!rq->began)
		return begin(rq);
	if (*n == 0)
		return rq->body_ended ? MHD_NO : end(rq);
	enum MHD_Result r = rq->replied ? MHD_YES : take(rq, data, *n);
	*n = 0;
	return r;
}

void request_end(struct request *rq)
{
	stream_end(rq);
	upgrade_end(rq);
	idem_answer(rq, 0, NULL, 0);
	request_audit(rq, 0, "");
	if (rq->receive.done)
		rq->receive.done(rq->receive.arg);
	rq->receive.done = NULL;
	if (rq->vm)
		server.config.release(STEAL(rq->vm));
	if (rq->body) {
		field_done(rq->match.route->body, rq->body);
		free(STEAL(rq->body));
	}
}
