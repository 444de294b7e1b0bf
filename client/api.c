#include "client/api.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/out.h"
#include "client/term.h"
#include "client/where.h"
#include "common/core/clock.h"

enum { READ_MS = 30000, MAX_LINE = 1 << 20, TOKEN_SECRET = 43 };

#define NDJSON "application/x-ndjson"

struct api {
	const char *url, *context, *token_file;
	struct where where;
	char *bearer; /* the whole header, or NULL */
	struct httpc *http;
	bool debug;
};

struct api *api_new(const char *url, const char *context, const char *token_file)
{
	struct api *a = xalloc(sizeof *a);
	const char *debug = getenv("FCM_DEBUG");

	a->url = url;
	a->context = context;
	a->token_file = token_file;
	a->debug = debug && *debug && strcmp(debug, "0") != 0;
	return a;
}

void api_free(struct api *a)
{
	if (a == NULL)
		return;
	httpc_free(a->http);
	free(a->bearer);
	free(a);
}

static void found(struct api *a, const char *token)
{
	if (token)
		a->bearer = xprintf("Authorization: Bearer %s", token);
	a->http = httpc_new();
}

struct api *api_at(const struct where *w, const char *token)
{
	struct api *a = api_new(NULL, NULL, NULL);

	a->where = *w;
	found(a, token);
	return a;
}

static int find(struct api *a, struct fcm_error *err)
{
	auto_free char *token = NULL;

	if (a->http)
		return 0;
	if (where_find(a->url, a->context, &a->where, err) < 0 ||
		where_token(&a->where, a->token_file, &token, err) < 0)
		return -1;
	found(a, token);
	return 0;
}

const char *api_context(struct api *a)
{
	struct fcm_error ignored;

	return find(a, &ignored) == 0 ? a->where.context.s : "";
}

const char *api_place(struct api *a)
{
	struct fcm_error ignored;

	return find(a, &ignored) == 0 ? where_name(&a->where) : FCM_DEFAULT_URL;
}

bool api_is_here(struct api *a)
{
	struct fcm_error ignored;
	struct where w;

	return where_find(a->url, a->context, &w, &ignored) == 0 && w.loopback && w.context.s[0] == '\0';
}

char *api_vm_path(const char *vm, const char *rest)
{
	auto_free char *escaped = httpc_escape(vm);

	return xprintf("/v1/vms/%s%s", escaped, rest);
}

char *api_snapshot_path(const char *snapshot, const char *rest)
{
	auto_free char *escaped = httpc_escape(snapshot);

	return xprintf("/v1/snapshots/%s%s", escaped, rest);
}

/* ---- what FCM_DEBUG=1 shows ---- */

char *api_redact(const char *s)
{
	static const char secret[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
	char *copy = xstrdup(s);

	for (char *p = copy; (p = strstr(p, "fcm_")) != NULL;) {
		p = strchrnul(p + 4, '_');
		size_t n = strspn(p, secret);
		if (n <= TOKEN_SECRET)
			continue;
		memcpy(p + 1, "***", 3);
		memmove(p + 4, p + n, strlen(p + n) + 1);
	}
	return copy;
}

/* A body for people: its password isn't theirs. */
static char *redact_body(const char *body)
{
	struct fcm_error ignored;
	auto_json field_json *v = fj_parse(body, strlen(body), &ignored);

	if (fj_get(v, "password") == NULL)
		return xstrdup(body);
	fj_set_str(v, "password", "***");
	return fj_print(v, false);
}

static void debug_request(const struct api *a, const struct httpc_request *rq)
{
	if (!a->debug)
		return;
	fprintf(stderr, "> %s %s%s%s\n", rq->method, rq->url, rq->socket ? " through " : "",
		rq->socket ? rq->socket : "");
	if (a->bearer)
		fprintf(stderr, "> Authorization: Bearer ***\n");
	if (rq->body) {
		auto_free char *body = redact_body(rq->body);
		fprintf(stderr, "> %s\n", body);
	}
	if (rq->upload_size || rq->source)
		fprintf(stderr, "> (%" PRIu64 " bytes)\n", rq->upload_size);
}

static void debug_answer(const struct api *a, const struct httpc_answer *answer, int64_t ms)
{
	auto_free char *body = api_redact(answer->body.p ? answer->body.p : "");

	if (!a->debug)
		return;
	fcm_printable(body, strlen(body));
	fprintf(stderr, "< %d in %" PRId64 " ms, %s, request %s\n", answer->status, ms, answer->type,
		answer->request_id);
	if (*body)
		fprintf(stderr, "< %s%s", body, body[strlen(body) - 1] == '\n' ? "" : "\n");
}

/* ---- errors ---- */

/* Text of the daemon, which may quote a guest, into a bounded member. */
static void take_text(char *dst, size_t size, const char *src)
{
	fcm_copy(dst, size, src);
	fcm_make_printable(dst);
}

static void hint_token(const struct api *a, struct fcm_error *err)
{
	const char *env = getenv("FCM_TOKEN");

	if (!a->where.loopback)
		fcm_hint(err, "ask root there for another: fcm token create; then: fcm connect %s",
			a->where.url);
	else
		fcm_hint(err, "%sask root: sudo fcm token create --for %s",
			!a->token_file && env && *env ? "unset FCM_TOKEN, or " : "", user_name());
}

/* The error object {"code","message","field","step","hint","request_id"}. */
static int fail_object(const struct api *a, const field_json *e, struct fcm_error *err)
{
	enum fcm_code code = fcm_code_from_wire(fj_get_str(e, "code"));
	const char *id = fj_get_str(e, "request_id");

	fcm_fail(err, code, "%s", fj_get_str(e, "message"));
	take_text(err->msg, sizeof err->msg, fj_get_str(e, "message"));
	take_text(err->field, sizeof err->field, fj_get_str(e, "field"));
	take_text(err->step, sizeof err->step, fj_get_str(e, "step"));
	if (*fj_get_str(e, "hint"))
		take_text(err->hint, sizeof err->hint, fj_get_str(e, "hint"));
	if (code == FCM_UNAUTHORIZED)
		hint_token(a, err);
	if (code == FCM_INTERNAL && *id)
		fcm_hint(err, "look for request %.64s in the daemon's log: sudo journalctl -u fcmd", id);
	return -1;
}

/* An error status without the object: something else than fcmd answered. */
static int fail_status(struct api *a, const struct httpc_answer *answer, struct fcm_error *err)
{
	switch (answer->status) {
	case 401:
	case 403:
		return fcm_fail(err, FCM_UNAUTHORIZED, "%s refused the token (HTTP %d)", api_place(a),
			answer->status);
	case 502:
	case 503:
	case 504:
		return fcm_fail(
			err, FCM_NO_DAEMON, "no daemon behind %s (HTTP %d)", api_place(a), answer->status);
	default:
		fcm_fail(err, FCM_UNAVAILABLE, "what answers at %s isn't fcmd (HTTP %d)", api_place(a),
			answer->status);
		return fcm_hint(err, "see what it says: FCM_DEBUG=1");
	}
}

static int fail_answer(struct api *a, const struct httpc_answer *answer, struct fcm_error *err)
{
	struct fcm_error ignored;
	field_json *body = fj_parse(answer->body.p ? answer->body.p : "", answer->body.n, &ignored);
	const field_json *e = body ? fj_get(body, "error") : NULL;

	if (e && *fj_get_str(e, "code"))
		(void)!fail_object(a, e, err);
	else
		(void)!fail_status(a, answer, err);
	fj_free(body);
	return -1;
}

/* ---- requests ---- */

/* A request that got no answer: what libcurl can't know about the reason. */
static int fail_request(const struct api *a, struct fcm_error *err)
{
	const char *socket = a->where.socket;

	if (err->code != FCM_NO_DAEMON)
		return -1;
	if (*socket && access(socket, W_OK) < 0 && errno == EACCES) {
		fcm_fail(err, FCM_FORBIDDEN, "you may not use %s", socket);
		return fcm_hint(err, "ask root: sudo adduser %s fcm, then log in again", user_name());
	}
	return a->where.loopback ? -1 : fcm_hint(err, "is the URL right, and does fcmd run there?");
}

static int perform(struct api *a, struct httpc_request *rq, const char *path, const char *accept,
	struct httpc_answer *ret, struct fcm_error *err)
{
	const char *headers[5] = {accept};
	int64_t start = clock_ms();
	size_t n = 1;

	if (find(a, err) < 0)
		return -1;
	if (rq->body)
		headers[n++] = "Content-Type: application/json";
	if (rq->upload_size || rq->source)
		headers[n++] = "Content-Type: application/x-tar";
	if (a->bearer)
		headers[n++] = a->bearer;
	auto_free char *url = xprintf("%s%s", a->where.url, path);
	rq->url = url;
	rq->socket = a->where.socket[0] ? a->where.socket : NULL;
	rq->headers = headers;
	debug_request(a, rq);
	int r = httpc_request(a->http, rq, ret, err);
	rq->url = NULL;
	rq->headers = NULL;
	if (r < 0)
		return fail_request(a, err);
	debug_answer(a, ret, clock_ms() - start);
	return 0;
}

/* One request whose answer is a JSON value. */
static int perform_json(
	struct api *a, struct httpc_request *rq, const char *path, field_json **ret, struct fcm_error *err)
{
	_cleanup_(httpc_answer_done) struct httpc_answer answer = {0};

	if (perform(a, rq, path, "Accept: application/json", &answer, err) < 0)
		return -1;
	if (answer.status >= 300)
		return fail_answer(a, &answer, err);
	field_json *v = fj_parse(answer.body.p ? answer.body.p : "", answer.body.n, err);
	if (v == NULL)
		return fail_status(a, &answer, err);
	*ret = v;
	return 0;
}

int api_get(struct api *a, const char *path, field_json **ret, struct fcm_error *err)
{
	struct httpc_request rq = {.method = "GET", .timeout_ms = READ_MS};

	return perform_json(a, &rq, path, ret, err);
}

int api_wait(struct api *a, const char *path, uint32_t seconds, field_json **ret, struct fcm_error *err)
{
	struct httpc_request rq = {.method = "GET", .timeout_ms = seconds * 1000ll + READ_MS};

	return perform_json(a, &rq, path, ret, err);
}

/* ---- progress: lines of JSON, the last of which is the result or the error; where there is none, that is all ---- */

struct progress {
	const struct api *api;
	const char *doing; /* NULL: `event` says what is shown */
	void (*event)(void *arg, const field_json *line);
	void *arg;
	struct buf line;
	field_json *last;
	struct fcm_error err; /* of a line that can't be read */
};

/* What a user waits for. All other steps take milliseconds, and their names are the daemon's own affair. */
static const char *phase_of(const char *step)
{
	static const struct {
		const char *step, *phase;
	} phases[] = {
		{"quiet", "the guest shuts down"},
		{"boot", "the guest boots"},
		{"ready", "it becomes ready"},
		{"save", "its memory is written down"},
		{"copy", "its memory and disk are copied"},
		{"seal", "the snapshot is written down"},
		{"unpack", "the snapshot's disk is copied"},
		{"site", "Caddy reloads"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(phases); i++)
		if (strcmp(phases[i].step, step) == 0)
			return phases[i].phase;
	return NULL;
}

static int take_line(struct progress *p, const char *line, size_t n)
{
	field_json *v = fj_parse(line, n, &p->err);

	if (v == NULL)
		return -1;
	if (p->api->debug)
		fprintf(stderr, "< %.*s\n", (int)n, line);
	if (*fj_get_str(v, "event") == '\0') {
		fj_free(p->last);
		p->last = v;
		return 0;
	}
	if (p->event)
		p->event(p->arg, v);
	const char *phase = p->event ? NULL : phase_of(fj_get_str(v, "step"));
	if (phase && strcmp(fj_get_str(v, "status"), "begin") == 0)
		term_progress("%s: %s", p->doing, phase);
	fj_free(v);
	return 0;
}

static int take_piece(void *arg, const char *data, size_t n)
{
	struct progress *p = arg;
	char *end;

	buf_add(&p->line, data, n);
	while (p->line.n && (end = memchr(p->line.p, '\n', p->line.n)) != NULL) {
		size_t len = (size_t)(end - p->line.p);
		if (len > 0 && take_line(p, p->line.p, len) < 0)
			return -1;
		buf_drop(&p->line, len + 1);
	}
	if (p->line.n > MAX_LINE)
		return fcm_fail(
			&p->err, FCM_TOO_LARGE, "a line of progress is longer than %d bytes", MAX_LINE);
	return 0;
}

/* What a stream that has ended amounts to. */
static int progress_end(struct progress *p, field_json **ret, struct fcm_error *err)
{
	if (p->line.n && take_line(p, p->line.p, p->line.n) < 0) {
		*err = p->err;
		return -1;
	}
	if (p->last == NULL)
		return fcm_fail(err, FCM_UNAVAILABLE, "the daemon stopped in the middle%s",
			p->event ? "" : "; fcm ls shows what became of it");
	const field_json *e = fj_get(p->last, "error");
	if (e)
		return fail_object(p->api, e, err);
	field_json *result = fj_get(p->last, "result");
	*ret = fj_ref(result ? result : p->last);
	return 0;
}

/* `p` says what is shown of it. */
static int perform_progress(struct api *a, const struct httpc_request *plain, const char *path,
	struct progress *p, field_json **ret, struct fcm_error *err)
{
	_cleanup_(httpc_answer_done) struct httpc_answer answer = {0};
	struct httpc_request rq = *plain;

	rq.data = take_piece;
	rq.arg = p;
	int r = perform(a, &rq, path, "Accept: " NDJSON ", application/json", &answer, err);
	term_progress_end();
	if (r == 0)
		r = answer.status >= 300 ? fail_answer(a, &answer, err) : progress_end(p, ret, err);
	else if (err->code == FCM_CANCELLED)
		*err = p->err;
	buf_done(&p->line);
	fj_free(p->last);
	return r;
}

int api_change(struct api *a, const char *method, const char *path, const field_json *body, const char *doing,
	field_json **ret, struct fcm_error *err)
{
	auto_free char *text = body ? fj_print(body, false) : NULL;
	struct httpc_request rq = {.method = method, .body = text, .body_size = text ? strlen(text) : 0};
	struct progress p = {.api = a, .doing = doing};

	if (doing == NULL || !(term_has_progress() || a->debug))
		return perform_json(a, &rq, path, ret, err);
	term_progress("%s", doing);
	term_progress_note("fcm: the daemon goes on with it; fcm ls shows how it ends\n");
	return perform_progress(a, &rq, path, &p, ret, err);
}

int api_watch(struct api *a, const char *path, const field_json *body,
	void (*event)(void *arg, const field_json *line), void *arg, field_json **ret, struct fcm_error *err)
{
	auto_free char *text = fj_print(body, false);
	struct httpc_request rq = {.method = "POST", .body = text, .body_size = strlen(text)};
	struct progress p = {.api = a, .event = event, .arg = arg};

	return perform_progress(a, &rq, path, &p, ret, err);
}

static void upload_progress(void *arg, uint64_t now, uint64_t total)
{
	if (now < total)
		out_progress(arg, now, total);
	else
		term_progress("%s: the daemon works on it", (const char *)arg);
}

int api_upload(struct api *a, const char *method, const char *path, int fd, uint64_t size, const char *doing,
	field_json **ret, struct fcm_error *err)
{
	struct httpc_request rq = {.method = method,
		.upload_fd = fd,
		.upload_size = size,
		.sent = upload_progress,
		.arg = (void *)doing};

	int r = perform_json(a, &rq, path, ret, err);
	term_progress_end();
	return r;
}

int api_send(struct api *a, const char *method, const char *path,
	ssize_t (*source)(void *arg, char *p, size_t n), void *arg, field_json **ret, struct fcm_error *err)
{
	struct httpc_request rq = {.method = method, .source = source, .arg = arg};

	return perform_json(a, &rq, path, ret, err);
}

int api_stream(struct api *a, const char *path, int (*data)(void *arg, const char *p, size_t n), void *arg,
	struct fcm_error *err)
{
	_cleanup_(httpc_answer_done) struct httpc_answer answer = {0};
	struct httpc_request rq = {.method = "GET", .data = data, .arg = arg};

	if (perform(a, &rq, path,
		    "Accept: text/plain, text/event-stream, application/x-tar, application/json", &answer,
		    err) < 0)
		return err->code == FCM_CANCELLED ? 0 : -1;
	return answer.status >= 300 ? fail_answer(a, &answer, err) : 0;
}

int api_do(
	struct api *a, struct httpc_request *rq, const char *path, struct buf *failed, struct fcm_error *err)
{
	_cleanup_(httpc_answer_done) struct httpc_answer answer = {0};

	if (perform(a, rq, path, "Accept: */*", &answer, err) < 0)
		return err->code == FCM_CANCELLED ? 0 : -1;
	buf_add(failed, answer.body.p, answer.body.n);
	return answer.status >= 300 ? fail_answer(a, &answer, err) : 0;
}

int api_upgrade(struct api *a, const char *path, const field_json *body, const char *protocol,
	struct httpc_tunnel **ret, struct fcm_error *err)
{
	_cleanup_(httpc_answer_done) struct httpc_answer answer = {0};

	if (find(a, err) < 0)
		return -1;
	auto_free char *url = xprintf("%s%s", a->where.url, path),
		       *text = body ? fj_print(body, false) : NULL;
	const char *headers[3] = {NULL};
	size_t n = 0;
	if (body)
		headers[n++] = "Content-Type: application/json";
	if (a->bearer)
		headers[n++] = a->bearer;
	struct httpc_request rq = {.method = body ? "POST" : "GET",
		.url = url,
		.body = text,
		.body_size = text ? strlen(text) : 0,
		.headers = headers,
		.timeout_ms = READ_MS,
		.socket = a->where.socket[0] ? a->where.socket : NULL};
	debug_request(a, &rq);
	if (httpc_upgrade(&rq, protocol, ret, &answer, err) < 0)
		return fail_request(a, err);
	debug_answer(a, &answer, 0);
	return *ret ? 0 : fail_answer(a, &answer, err);
}
