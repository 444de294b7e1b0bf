/*
 * Idempotency-Key: a client that doesn't know whether its request arrived sends it again with the same key, and gets
 * what the first one was answered.
 *
 * An entry is made when the first request with a key begins; others with that key wait until it has an answer. The
 * answer is kept as the plain JSON body and its status; a stream's is in its last line, {"result":...} or
 * {"error":...}, so either form can be given to either kind of client. Answers of 5xx aren't kept: what they report has
 * been rolled back, and trying again is what the client wants.
 *
 * Entries live in memory only: a daemon that was restarted has forgotten them.
 */
#include <ctype.h>
#include <string.h>

#include "common/crypt.h"
#include "daemon/http/internal.h"

enum {
	IDEM_MAX = 1024,	      /* entries */
	IDEM_BYTES = 8 * 1024 * 1024, /* of answers, all together */
	IDEM_KEY = 128,
	IDEM_KEEP_MS = 24 * 3600 * 1000,
	WAIT_MS = 200, /* between two looks whether the client that waits is still there */
};

struct idem {
	TAILQ_ENTRY(idem) entry;
	char scope[65], body[65]; /* SHA-256 of token, route and key; of what it was asked for */
	int64_t since;
	int status; /* 0: the first one is still at it */
	char *text;
	size_t n;
};

/* Least recently used first. */
TAILQ_HEAD(idem_list, idem);
static struct idem_list entries = TAILQ_HEAD_INITIALIZER(entries);
static unsigned n_entries;
static size_t n_bytes;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void scope_of(const struct request *rq, const char *key, char ret[65])
{
	struct crypt_sha256 *h = crypt_sha256_new();
	const char *parts[] = {rq->token.id, rq->match.route->method, rq->match.route->pattern, key};

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		crypt_sha256_add(h, parts[i], strlen(parts[i]) + 1);
	crypt_sha256_hex(h, ret);
}

static void add_pairs(struct crypt_sha256 *h, const struct pair *pairs, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		crypt_sha256_add(h, pairs[i].name, strlen(pairs[i].name) + 1);
		crypt_sha256_add(h, pairs[i].value, strlen(pairs[i].value) + 1);
	}
}

/* What the path names and the query are part of what is asked. */
static void hash_body(const struct request *rq, char ret[65])
{
	struct crypt_sha256 *h = crypt_sha256_new();

	add_pairs(h, rq->match.params, rq->match.n);
	add_pairs(h, rq->query.fields, rq->query.n);
	crypt_sha256_add(h, rq->raw.n ? rq->raw.p : "", rq->raw.n);
	crypt_sha256_hex(h, ret);
}

static void drop(struct idem *e)
{
	TAILQ_REMOVE(&entries, e, entry);
	n_entries--;
	n_bytes -= e->n;
	free(e->text);
	free(e);
}

static struct idem *find(const char *scope)
{
	struct idem *e;

	for (e = TAILQ_FIRST(&entries); e; e = TAILQ_NEXT(e, entry))
		if (strcmp(e->scope, scope) == 0)
			return e;
	return NULL;
}

/* Make room for one more entry and `bytes` of an answer. Those without an answer stay. */
static bool make_room(size_t bytes)
{
	struct idem *e, *next;
	int64_t oldest = clock_ms() - IDEM_KEEP_MS;

	for (e = TAILQ_FIRST(&entries); e; e = next) {
		next = TAILQ_NEXT(e, entry);
		bool full = n_entries >= IDEM_MAX || n_bytes + bytes > IDEM_BYTES;
		if (e->status && (full || e->since < oldest))
			drop(e);
	}
	return n_entries < IDEM_MAX && n_bytes + bytes <= IDEM_BYTES;
}

static void add(struct request *rq, const char *scope, const char *body)
{
	struct idem *e = xalloc(sizeof *e);

	memcpy(e->scope, scope, sizeof e->scope);
	memcpy(e->body, body, sizeof e->body);
	e->since = clock_ms();
	TAILQ_INSERT_TAIL(&entries, e, entry);
	n_entries++;
	rq->idem = e;
}

/* Give a kept answer to this request, in the form that it asked for. */
static int replay(struct request *rq, int status, char *text, size_t n)
{
	if (!http_wants_progress(rq))
		return reply_text(rq, status, "application/json", text, n);
	char *line = status < 400 ? xprintf("{\"result\":%.*s}\n", (int)(n - (text[n - 1] == '\n')), text)
				  : xstrdup(text);
	free(text);
	return reply_text(rq, 200, "application/x-ndjson", line, strlen(line));
}

static int wait_a_moment(struct request *rq, struct fcm_error *err)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_nsec += WAIT_MS * 1000 * 1000;
	t.tv_sec += t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	pthread_cond_timedwait(&changed, &lock, &t);
	return http_cancelled(rq) ? fcm_fail(err, FCM_CANCELLED, "the client went away, or the daemon stops")
				  : 0;
}

/* With the lock held. Returns 1: first; 0: *ret has a kept answer; -1. */
static int claim_locked(
	struct request *rq, const char *scope, const char *body, struct idem **ret, struct fcm_error *err)
{
	for (struct idem *e; (e = find(scope));) {
		if (strcmp(e->body, body) != 0)
			return fcm_fail(
				err, FCM_KEY_REUSED, "this Idempotency-Key came with another request before");
		if (e->status && clock_ms() - e->since < IDEM_KEEP_MS) {
			TAILQ_REMOVE(&entries, e, entry);
			TAILQ_INSERT_TAIL(&entries, e, entry);
			*ret = e;
			return 0;
		}
		if (e->status)
			drop(e);
		else if (wait_a_moment(rq, err) < 0)
			return -1;
	}
	if (!make_room(0))
		return fcm_fail(err, FCM_UNAVAILABLE, "%d requests with an Idempotency-Key are in progress",
			IDEM_MAX);
	add(rq, scope, body);
	return 1;
}

int idem_claim(struct request *rq, struct fcm_error *err)
{
	const char *key = http_header(rq, "idempotency-key");
	char scope[65], body[65], *text = NULL;
	struct idem *kept = NULL;
	size_t n = 0;
	int status = 0;

	if (!(rq->match.route->flags & ROUTE_IDEMPOTENT) || !key)
		return 1;
	for (const char *c = key; *c; c++)
		if (!isgraph((unsigned char)*c) && *c != ' ')
			return fcm_fail(err, FCM_INVALID, "the Idempotency-Key isn't printable ASCII");
	if (!*key || strlen(key) > IDEM_KEY)
		return fcm_fail(err, FCM_INVALID, "an Idempotency-Key has 1 to %d bytes", IDEM_KEY);
	scope_of(rq, key, scope);
	hash_body(rq, body);
	pthread_mutex_lock(&lock);
	int r = claim_locked(rq, scope, body, &kept, err);
	if (r == 0) {
		status = kept->status;
		n = kept->n;
		text = xprintf("%.*s", (int)n, kept->text);
	}
	pthread_mutex_unlock(&lock);
	return r == 0 ? replay(rq, status, text, n) : r;
}

void idem_answer(struct request *rq, int status, const char *text, size_t n)
{
	if (!rq->idem)
		return;
	struct idem *e = STEAL(rq->idem);

	pthread_mutex_lock(&lock);
	if (status == 0 || status >= 500 || n == 0 || n > IDEM_BYTES / 8 || !make_room(n)) {
		drop(e);
	} else {
		e->text = xprintf("%.*s", (int)n, text);
		e->n = strlen(e->text);
		n_bytes += e->n;
		e->status = status;
	}
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

/* The status that a stream's last line would have had as a plain answer. The routes with a key are creates: 201. */
static int status_of(const field_json *line)
{
	const field_json *error = fj_get(line, "error");

	if (error)
		return fcm_code_info(fcm_code_from_wire(fj_get_str(error, "code")))->http;
	return fj_get(line, "result") ? 201 : 0;
}

void idem_answer_line(struct request *rq, const char *line, size_t n)
{
	struct fcm_error ignored;
	field_json *v = fj_parse(line, n, &ignored);
	int status = v ? status_of(v) : 0;
	auto_free char *text = status == 201 ? fj_print(fj_get(v, "result"), false) : NULL;

	if (text)
		idem_answer(rq, status, text, strlen(text));
	else
		idem_answer(rq, status, line, n);
	fj_free(v);
}

void idem_clear(void)
{
	pthread_mutex_lock(&lock);
	while (!TAILQ_EMPTY(&entries))
		drop(TAILQ_FIRST(&entries));
	pthread_mutex_unlock(&lock);
}
