#include "common/httpc.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/httpc_internal.h"

struct httpc {
	CURL *curl;
	char why[CURL_ERROR_SIZE];
};

struct httpc_tunnel {
	CURL *curl;
	curl_socket_t fd;
	bool tls;
	struct buf early; /* bytes that came with the 101 */
};

/* One transfer, as libcurl's callbacks see it. */
struct transfer {
	const struct httpc_request *rq;
	CURL *curl;
	struct httpc_answer answer;
	uint64_t read; /* of the file that is sent */
	bool too_large, stopped;
};

static void slist_free(struct curl_slist **l)
{
	curl_slist_free_all(*l);
}

struct httpc *httpc_new(void)
{
	struct httpc *c = xalloc(sizeof *c);

	curl_global_init(CURL_GLOBAL_DEFAULT);
	c->curl = curl_easy_init();
	if (c->curl == NULL)
		abort();
	return c;
}

void httpc_free(struct httpc *c)
{
	if (c == NULL)
		return;
	curl_easy_cleanup(c->curl);
	free(c);
}

void httpc_answer_done(struct httpc_answer *a)
{
	buf_done(&a->body);
	*a = (struct httpc_answer){0};
}

/* "http://host:port" of a URL, or the path of the unix socket: what a user knows the server by. */
static void place_of(const struct httpc_request *rq, char *place, size_t size)
{
	const char *slash = strstr(rq->url, "://");

	slash = slash ? strchr(slash + 3, '/') : NULL;
	if (rq->socket)
		fcm_format(place, size, "%s", rq->socket);
	else
		fcm_format(
			place, size, "%.*s", slash ? (int)(slash - rq->url) : (int)strlen(rq->url), rq->url);
}

static int fail_connect(CURL *curl, const struct httpc_request *rq, const char *why, struct fcm_error *err)
{
	char place[160], reason[160];
	long os = 0;

	curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &os);
	fcm_copy(reason, sizeof reason, os ? strerror((int)os) : why);
	reason[0] = (char)tolower((unsigned char)reason[0]);
	place_of(rq, place, sizeof place);
	return fcm_fail(err, FCM_NO_DAEMON, "no daemon at %s (%s)", place, reason);
}

static int fail_curl(
	CURL *curl, CURLcode code, const struct httpc_request *rq, const char *why, struct fcm_error *err)
{
	char place[160];
	double connected = 0;

	place_of(rq, place, sizeof place);
	if (why[0] == '\0')
		why = curl_easy_strerror(code);
	curl_easy_getinfo(curl, CURLINFO_CONNECT_TIME, &connected);
	/* an enum of a hundred values, of which a few need words of their own */
	if (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST)
		return fail_connect(curl, rq, why, err);
	if (code == CURLE_OPERATION_TIMEDOUT)
		return connected > 0 ? fcm_fail(err, FCM_TIMEOUT, "no answer from %s in time", place)
				     : fcm_fail(err, FCM_NO_DAEMON, "no daemon at %s (timed out)", place);
	if (code == CURLE_GOT_NOTHING || code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR ||
		code == CURLE_PARTIAL_FILE)
		return fcm_fail(err, FCM_UNAVAILABLE, "%s closed the connection", place);
	if (code == CURLE_PEER_FAILED_VERIFICATION) {
		fcm_fail(err, FCM_HOST, "the certificate of %s isn't trusted (%s)", place, why);
		return fcm_hint(err, "add its CA to the system's, or name its file in SSL_CERT_FILE");
	}
	if (code == CURLE_URL_MALFORMAT || code == CURLE_UNSUPPORTED_PROTOCOL)
		return fcm_fail(err, FCM_USAGE, "%s isn't an http or https URL", place);
	fcm_fail(err, FCM_HOST, "%s: %s", place, why);
	return fcm_hint(err, "%s", "");
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	long status = 0;

	n *= size;
	curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
	if (t->rq->data && status < 300) {
		t->stopped = t->rq->data(t->rq->arg, p, n) < 0;
		return t->stopped ? 0 : n;
	}
	if (t->answer.body.n + n > HTTPC_MAX_BODY) {
		t->too_large = true;
		return 0;
	}
	buf_add(&t->answer.body, p, n);
	return n;
}

/* The value of header `name` in the line of n bytes, into `ret`, up to a ';'. */
static void header_value(const char *line, size_t n, const char *name, char *ret, size_t size)
{
	size_t len = strlen(name);

	if (n <= len || strncasecmp(line, name, len) != 0 || line[len] != ':')
		return;
	for (line += len + 1, n -= len + 1; n && isspace((unsigned char)*line); n--)
		line++;
	for (len = 0; len < n && line[len] != ';' && !iscntrl((unsigned char)line[len]);)
		len++;
	fcm_format(ret, size, "%.*s", (int)len, line);
}

static void take_header(struct httpc_answer *a, const char *line, size_t n)
{
	header_value(line, n, "Content-Type", a->type, sizeof a->type);
	header_value(line, n, "X-Request-Id", a->request_id, sizeof a->request_id);
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;

	take_header(&t->answer, p, size * n);
	if (t->rq->head)
		t->rq->head(t->rq->arg, p, size * n);
	return size * n;
}

static size_t on_upload(char *p, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	ssize_t got = pread(t->rq->upload_fd, p, size * n, (off_t)t->read);

	if (got < 0)
		return CURL_READFUNC_ABORT;
	t->read += (uint64_t)got;
	return (size_t)got;
}

static size_t on_source(char *p, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	ssize_t got = t->rq->source(t->rq->arg, p, size * n);

	t->stopped = got < 0;
	return got < 0 ? CURL_READFUNC_ABORT : (size_t)got;
}

static int on_sent(void *arg, curl_off_t dltotal, curl_off_t dlnow, curl_off_t ultotal, curl_off_t ulnow)
{
	struct transfer *t = arg;

	(void)dltotal;
	(void)dlnow;
	if (ultotal > 0)
		t->rq->sent(t->rq->arg, (uint64_t)ulnow, (uint64_t)ultotal);
	return 0;
}

void httpc_set_common(CURL *curl, const char *url, char *why)
{
	const char *ca = getenv("SSL_CERT_FILE");

	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)HTTPC_CONNECT_MS);
	curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
	if (ca && *ca)
		curl_easy_setopt(curl, CURLOPT_CAINFO, ca);
}

/* What every connection to a daemon needs: where it goes, and nothing that the environment slips in. */
static void set_place(CURL *curl, const struct httpc_request *rq, char *why)
{
	bool local = rq->socket || strncmp(rq->url, "http://", 7) == 0;

	httpc_set_common(curl, rq->url, why);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, rq->socket);
	if (local) /* http_proxy is for other people's servers */
		curl_easy_setopt(curl, CURLOPT_PROXY, "");
}

static struct curl_slist *header_list(const struct httpc_request *rq)
{
	/* "Expect:" without a value: don't wait a second for a 100 Continue */
	struct curl_slist *l = curl_slist_append(NULL, "Expect:");

	for (size_t i = 0; rq->headers && rq->headers[i]; i++)
		l = curl_slist_append(l, rq->headers[i]);
	return l;
}

static void set_body(CURL *curl, struct transfer *t)
{
	const struct httpc_request *rq = t->rq;

	if (rq->upload_size > 0) {
		curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)rq->upload_size);
		curl_easy_setopt(curl, CURLOPT_READFUNCTION, on_upload);
		curl_easy_setopt(curl, CURLOPT_READDATA, t);
	} else if (rq->source) {
		curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(curl, CURLOPT_READFUNCTION, on_source);
		curl_easy_setopt(curl, CURLOPT_READDATA, t);
	} else if (rq->body) {
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)rq->body_size);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, rq->body);
	} else if (strcmp(rq->method, "GET") != 0) {
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)0);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, "");
	}
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, rq->method);
}

static void set_callbacks(CURL *curl, struct transfer *t)
{
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
	curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(curl, CURLOPT_HEADERDATA, t);
	if (t->rq->sent) {
		curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
		curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_sent);
		curl_easy_setopt(curl, CURLOPT_XFERINFODATA, t);
	}
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)t->rq->timeout_ms);
}

int httpc_request(
	struct httpc *c, const struct httpc_request *rq, struct httpc_answer *ret, struct fcm_error *err)
{
	_cleanup_(slist_free) struct curl_slist *headers = header_list(rq);
	struct transfer t = {.rq = rq, .curl = c->curl};
	long status = 0;

	curl_easy_reset(c->curl);
	c->why[0] = '\0';
	set_place(c->curl, rq, c->why);
	set_body(c->curl, &t);
	set_callbacks(c->curl, &t);
	curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, headers);
	CURLcode code = curl_easy_perform(c->curl);
	curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
	/* a server that refuses an upload answers and closes before it has read all of it: the answer is what
	 * counts */
	bool refused = status >= 400 && (code == CURLE_SEND_ERROR || code == CURLE_RECV_ERROR);
	if (code == CURLE_OK || refused) {
		t.answer.status = (int)status;
		*ret = t.answer;
		return 0;
	}
	httpc_answer_done(&t.answer);
	if (t.stopped)
		return fcm_fail(err, FCM_CANCELLED, "stopped");
	if (t.too_large)
		return fcm_fail(err, FCM_TOO_LARGE, "the answer is larger than %d MiB", HTTPC_MAX_BODY >> 20);
	return fail_curl(c->curl, code, rq, c->why, err);
}

char *httpc_escape(const char *s)
{
	struct buf b = {0};

	buf_str(&b, "");
	for (; *s; s++)
		if (isalnum((unsigned char)*s) || strchr("-._~", *s))
			buf_add(&b, s, 1);
		else
			buf_printf(&b, "%%%02X", (unsigned char)*s);
	return b.p ? b.p : xstrdup("");
}

/* ---- tunnels ---- */

void httpc_tunnel_free(struct httpc_tunnel *t)
{
	if (t == NULL)
		return;
	curl_easy_cleanup(t->curl);
	buf_done(&t->early);
	free(t);
}

static void tunnel_freep(struct httpc_tunnel **t)
{
	httpc_tunnel_free(*t);
}

int httpc_tunnel_fd(const struct httpc_tunnel *t)
{
	return t->fd;
}

static ssize_t result_of(CURLcode code, size_t n)
{
	if (code == CURLE_OK)
		return (ssize_t)n;
	errno = code == CURLE_AGAIN ? EAGAIN : ECONNRESET;
	return -1;
}

ssize_t httpc_tunnel_recv(struct httpc_tunnel *t, void *p, size_t n)
{
	if (t->early.n) {
		n = MIN(n, t->early.n);
		memcpy(p, t->early.p, n);
		buf_drop(&t->early, n);
		return (ssize_t)n;
	}
	size_t got = 0;
	CURLcode code = curl_easy_recv(t->curl, p, n, &got);
	return result_of(code, got);
}

ssize_t httpc_tunnel_send(struct httpc_tunnel *t, const void *p, size_t n)
{
	size_t sent = 0;
	CURLcode code = curl_easy_send(t->curl, p, n, &sent);

	return result_of(code, sent);
}

void httpc_tunnel_shutdown(struct httpc_tunnel *t)
{
	if (!t->tls)
		shutdown(t->fd, SHUT_WR);
}

static struct httpc_tunnel *tunnel_connect(const struct httpc_request *rq, struct fcm_error *err)
{
	_cleanup_(tunnel_freep) struct httpc_tunnel *t = xalloc(sizeof *t);
	char why[CURL_ERROR_SIZE] = "";

	curl_global_init(CURL_GLOBAL_DEFAULT);
	t->curl = curl_easy_init();
	if (t->curl == NULL)
		abort();
	t->tls = strncmp(rq->url, "https://", 8) == 0;
	set_place(t->curl, rq, why);
	curl_easy_setopt(t->curl, CURLOPT_CONNECT_ONLY, 1L);
	CURLcode code = curl_easy_perform(t->curl);
	if (code == CURLE_OK)
		code = curl_easy_getinfo(t->curl, CURLINFO_ACTIVESOCKET, &t->fd);
	curl_easy_setopt(t->curl, CURLOPT_ERRORBUFFER, NULL);
	if (code != CURLE_OK) {
		(void)!fail_curl(t->curl, code, rq, why, err);
		return NULL;
	}
	return STEAL(t);
}

/* Wait for `events` until the deadline, after a call that said EAGAIN. */
static int tunnel_wait(const struct httpc_tunnel *t, short events, int64_t deadline, struct fcm_error *err)
{
	struct pollfd p = {.fd = t->fd, .events = events};

	if (errno != EAGAIN)
		return fcm_fail(err, FCM_UNAVAILABLE, "the connection broke");
	if (poll(&p, 1, clock_left(deadline)) == 0)
		return fcm_fail(err, FCM_TIMEOUT, "no answer in time");
	return 0;
}

static int tunnel_send_all(
	struct httpc_tunnel *t, const struct buf *b, int64_t deadline, struct fcm_error *err)
{
	for (size_t done = 0; done < b->n;) {
		ssize_t n = httpc_tunnel_send(t, b->p + done, b->n - done);
		if (n < 0 && tunnel_wait(t, POLLOUT, deadline, err) < 0)
			return -1;
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

/* Add what comes to b: 1, or 0 at the end of the stream. */
static int tunnel_more(struct httpc_tunnel *t, struct buf *b, int64_t deadline, struct fcm_error *err)
{
	char piece[4096];
	ssize_t n;

	while ((n = httpc_tunnel_recv(t, piece, sizeof piece)) < 0)
		if (tunnel_wait(t, POLLIN, deadline, err) < 0)
			return -1;
	buf_add(b, piece, (size_t)n);
	return n > 0;
}

/* The request line's target and Host of a URL (RFC 9112, section 3.2.1). */
static void upgrade_request(const struct httpc_request *rq, const char *upgrade, struct buf *b)
{
	const char *host = strstr(rq->url, "://") + 3;
	const char *target = strchrnul(host, '/');

	buf_printf(b, "%s %s HTTP/1.1\r\nHost: %.*s\r\n", rq->method, *target ? target : "/",
		(int)(target - host), host);
	buf_printf(b, "Connection: Upgrade\r\nUpgrade: %s\r\n", upgrade);
	for (size_t i = 0; rq->headers && rq->headers[i]; i++)
		buf_printf(b, "%s\r\n", rq->headers[i]);
	if (rq->body)
		buf_printf(b, "Content-Length: %zu\r\n", rq->body_size);
	buf_str(b, "\r\n");
	buf_add(b, rq->body, rq->body_size);
}

/* Read up to the empty line behind the headers; b then begins behind it. */
static int upgrade_headers(struct httpc_tunnel *t, struct buf *b, struct httpc_answer *a, size_t *ret_length,
	int64_t deadline, struct fcm_error *err)
{
	char *end;

	while ((end = b->n ? memmem(b->p, b->n, "\r\n\r\n", 4) : NULL) == NULL) {
		if (b->n > HTTPC_MAX_HEADERS)
			return fcm_fail(err, FCM_TOO_LARGE, "the answer's headers are too large");
		int more = tunnel_more(t, b, deadline, err);
		if (more < 0)
			return -1;
		if (more == 0)
			return fcm_fail(err, FCM_UNAVAILABLE, "the daemon closed the connection");
	}
	char length[24] = "";
	int64_t n = HTTPC_MAX_BODY;
	if (b->n < 12 || sscanf(b->p, "HTTP/1.%*1[01] %3d", &a->status) != 1)
		return fcm_fail(err, FCM_UNAVAILABLE, "what answers there isn't HTTP");
	for (char *line = b->p; line < end;
		line = (char *)memmem(line, (size_t)(end - line) + 2, "\r\n", 2) + 2) {
		take_header(a, line, (size_t)(end - line));
		header_value(line, (size_t)(end - line), "Content-Length", length, sizeof length);
	}
	if (*length && !fcm_parse_i64(length, 0, HTTPC_MAX_BODY, &n))
		return fcm_fail(err, FCM_UNAVAILABLE, "the answer's length is '%s'", length);
	*ret_length = (size_t)n;
	buf_drop(b, (size_t)(end - b->p) + 4);
	return 0;
}

int httpc_upgrade(const struct httpc_request *rq, const char *upgrade, struct httpc_tunnel **ret,
	struct httpc_answer *answer, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf b = {0};
	struct httpc_answer a = {0};
	int64_t deadline = clock_in(rq->timeout_ms ? rq->timeout_ms : 30000);
	size_t length = 0;
	int more = 1;

	_cleanup_(tunnel_freep) struct httpc_tunnel *t = tunnel_connect(rq, err);
	if (t == NULL)
		return -1;
	upgrade_request(rq, upgrade, &b);
	if (tunnel_send_all(t, &b, deadline, err) < 0)
		return -1;
	buf_done(&b);
	if (upgrade_headers(t, &b, &a, &length, deadline, err) < 0)
		return -1;
	if (a.status == 101) {
		t->early = b;
		b = (struct buf){0};
		*ret = STEAL(t);
		*answer = a;
		return 0;
	}
	while (b.n < length && more > 0)
		more = tunnel_more(t, &b, deadline, err);
	if (more < 0)
		return -1;
	a.body = b;
	b = (struct buf){0};
	*ret = NULL;
	*answer = a;
	return 0;
}
