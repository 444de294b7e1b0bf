#include "daemon/oci/registry.h"

#include <curl/curl.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/core/kv.h"
#include "common/field.h"
#include "common/model.h"
#include "daemon/oci/wire.h"

enum {
	HOPS = 5,
	TRIES = 5, /* in a row that bring nothing */
	TRIES_MIRROR = 2,
	TRIES_ALL = 50,
	PAUSE_MS = 200,
	CONNECT_S = 15,
	CONNECT_MIRROR_S = 5,
	SLOW_S = 30, /* so long below SLOW_BYTES a second ends a try */
	SLOW_BYTES = 100,
	REQUEST_S = 3600,
	TOKEN_BYTES = 64 << 10,
	URL_MAX = 4096,
	ID = 12, /* digits of a digest that are shown */
};

struct registry {
	CURL *curl;
	const struct oci_job *job;
	const char *name; /* for people: "docker.io"; of a mirror "it", since pull.c says which */
	char base[640];	  /* "https://registry:5000/v2/library/x/" */
	const char *path, *user, *password, *pool;
	const atomic_llong *left; /* NULL, or below 0: it is to end */
	bool is_mirror;		  /* there is another place to ask */
	char *token;
	bool basic;
	bool identity;	/* the password is an identity token, and there is no user */
	bool refused;	/* an address was */
	bool plain_hop; /* where it goes now is allowed by name */
};

/* One answer: into `body`, or into `fd` behind the `got` bytes that are in it. */
struct answer {
	struct registry *r;
	struct buf *body;
	size_t max;
	int fd;
	uint64_t got;
	const struct descriptor *blob;
	const char *form; /* NULL, or what is posted */
	long status;
	bool ours; /* it is the registry's, not of one that it leads to */
	bool begun, too_long;
	int sys;
	char challenge[2048];
};

static bool insecure(const struct registry *r, const char *host)
{
	for (const char *s = NULL; (s = kv_next(r->job->plan, r->job->plan_n, "insecure", s));)
		if (strcasecmp(s, host) == 0)
			return true;
	return false;
}

/* ---- what libcurl calls ---- */

static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *a)
{
	struct registry *r = arg;

	(void)purpose;
	if (!r->plain_hop && !address_allowed(&a->addr, r->pool)) {
		r->refused = true;
		return CURL_SOCKET_BAD;
	}
	return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

static bool must_end(const struct registry *r)
{
	return r->left && atomic_load(r->left) < 0;
}

static int look(void *arg, curl_off_t total, curl_off_t now, curl_off_t up_total, curl_off_t up)
{
	(void)total, (void)now, (void)up_total, (void)up;
	return must_end(arg);
}

static size_t take_header(char *p, size_t size, size_t n, void *arg)
{
	static const char name[] = "www-authenticate:";
	struct answer *a = arg;
	size_t used = strlen(a->challenge), len = size * n, skip = sizeof name - 1, end = len;

	if (len > 5 && strncasecmp(p, "HTTP/", 5) == 0)
		a->challenge[0] = '\0';
	while (end > skip && (p[end - 1] == '\r' || p[end - 1] == '\n'))
		end--;
	if (end > skip && strncasecmp(p, name, skip) == 0)
		(void)fcm_format(a->challenge + used, sizeof a->challenge - used, "%s%.*s", used ? ", " : "",
			(int)(end - skip), p + skip);
	return len;
}

/* The server sends from the begin though it was asked to go on. */
static bool start_over(struct answer *a)
{
	a->got = 0;
	if (ftruncate(a->fd, 0) == 0 && lseek(a->fd, 0, SEEK_SET) == 0)
		return true;
	a->sys = errno;
	return false;
}

static size_t to_file(struct answer *a, const char *p, size_t n)
{
	if (!a->begun && a->status == 200 && a->got && !start_over(a))
		return 0;
	a->begun = true;
	if (n > a->blob->size - a->got) {
		a->too_long = true;
		return 0;
	}
	for (size_t done = 0; done < n;) {
		ssize_t k = write(a->fd, p + done, n - done);
		if (k < 0 && errno != EINTR) {
			a->sys = errno;
			return 0;
		}
		done += k > 0 ? (size_t)k : 0;
	}
	a->got += n;
	auto_free char *id = xprintf("%.*s", ID, a->blob->digest);
	oci_progress("downloading", id, a->got, a->blob->size);
	return n;
}

static size_t take_body(char *p, size_t size, size_t n, void *arg)
{
	struct answer *a = arg;
	size_t len = size * n;

	curl_easy_getinfo(a->r->curl, CURLINFO_RESPONSE_CODE, &a->status);
	if (a->status != 200 && a->status != 206)
		return len;
	if (a->fd >= 0)
		return to_file(a, p, len);
	if (len > a->max - a->body->n) {
		a->too_long = true;
		return 0;
	}
	buf_add(a->body, p, len);
	return len;
}

/* ---- one request ---- */

static const char *const accepted[] = {
	"Accept: application/vnd.oci.image.index.v1+json",
	"Accept: application/vnd.oci.image.manifest.v1+json",
	"Accept: application/vnd.docker.distribution.manifest.list.v2+json",
	"Accept: application/vnd.docker.distribution.manifest.v2+json",
	"Accept: */*;q=0.1",
};

static void prepare(struct registry *r, const char *url, struct curl_slist *headers, struct answer *a)
{
	CURL *c = r->curl;

	curl_easy_reset(c);
	curl_easy_setopt(c, CURLOPT_URL, url);
	curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, r->plain_hop ? "http,https" : "https");
	curl_easy_setopt(c, CURLOPT_PROXY, "");
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c, CURLOPT_USERAGENT, "fcm");
	curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)(r->is_mirror ? CONNECT_MIRROR_S : CONNECT_S));
	curl_easy_setopt(c, CURLOPT_TIMEOUT, (long)REQUEST_S);
	curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, (long)SLOW_BYTES);
	curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)SLOW_S);
	curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
	curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, look);
	curl_easy_setopt(c, CURLOPT_XFERINFODATA, r);
	curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, r);
	curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, take_header);
	curl_easy_setopt(c, CURLOPT_HEADERDATA, a);
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take_body);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, a);
	if (a->fd >= 0 && a->got) {
		/* Not CURLOPT_RESUME_FROM: that fails when the server sends all of it. */
		auto_free char *range = xprintf("%llu-", (unsigned long long)a->got);
		curl_easy_setopt(c, CURLOPT_RANGE, range);
	}
}

static void set_user(const struct registry *r)
{
	curl_easy_setopt(r->curl, CURLOPT_HTTPAUTH, CURLAUTH_BASIC);
	curl_easy_setopt(r->curl, CURLOPT_USERNAME, r->user);
	curl_easy_setopt(r->curl, CURLOPT_PASSWORD, r->password ? r->password : "");
}

static void freep_slist(struct curl_slist **l)
{
	curl_slist_free_all(*l); /* NULL-safe */
}

/* GET of one URL, or POST of a form, without following it. `token_server`: the user's name goes there. */
static CURLcode get_once(struct registry *r, const char *url, bool token_server, struct answer *a)
{
	_cleanup_(freep_slist) struct curl_slist *headers = NULL;
	char host[256];

	if (!url_host(url, host, sizeof host))
		return CURLE_URL_MALFORMAT;
	for (size_t i = 0; i < ARRAY_SIZE(accepted); i++)
		headers = curl_slist_append(headers, accepted[i]);
	r->plain_hop = insecure(r, host);
	a->begun = false, a->status = 0, a->challenge[0] = '\0';
	prepare(r, url, headers, a);
	a->ours = strncmp(url, r->base, strlen(r->base)) == 0;
	if (a->form)
		curl_easy_setopt(r->curl, CURLOPT_POSTFIELDS, a->form);
	if (token_server ? r->user != NULL && a->form == NULL : a->ours && r->basic)
		set_user(r);
	if (!token_server && a->ours && r->token) {
		curl_easy_setopt(r->curl, CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
		curl_easy_setopt(r->curl, CURLOPT_XOAUTH2_BEARER, r->token);
	}
	CURLcode code = curl_easy_perform(r->curl);
	curl_easy_getinfo(r->curl, CURLINFO_RESPONSE_CODE, &a->status);
	return code;
}

static CURLcode get_hops(struct registry *r, const char *from, struct answer *a)
{
	char url[URL_MAX], *next = NULL;

	if (!fcm_copy(url, sizeof url, from))
		return CURLE_URL_MALFORMAT;
	for (int i = 0; i <= HOPS; i++) {
		CURLcode code = get_once(r, url, false, a);
		if (code || a->status < 300 || a->status > 399)
			return code;
		if (curl_easy_getinfo(r->curl, CURLINFO_REDIRECT_URL, &next) || next == NULL ||
			!fcm_copy(url, sizeof url, next))
			return CURLE_URL_MALFORMAT;
	}
	return CURLE_TOO_MANY_REDIRECTS;
}

/* ---- authorization ---- */

static int keep_token(struct registry *r, const struct buf *body, struct fcm_error *err)
{
	auto_json field_json *v = fj_parse(body->p ? body->p : "", body->n, err);
	const char *token = v ? fj_get_str(v, "token") : "";

	if (v == NULL)
		return fcm_wrap(err, "the token server's answer");
	if (*token == '\0')
		token = fj_get_str(v, "access_token");
	if (*token == '\0' || strpbrk(token, "\r\n"))
		return fcm_fail(err, FCM_INVALID, "the token server's answer has no good token");
	free(r->token);
	r->token = xstrdup(token);
	return 0;
}

static int refuse(const struct registry *r, struct fcm_error *err)
{
	if (r->user)
		return fcm_fail(err, FCM_FORBIDDEN, "%s doesn't take these credentials", r->name);
	fcm_fail(err, FCM_FORBIDDEN, "%s wants credentials", r->name);
	return fcm_hint(err, "fcm login %s", r->name);
}

static void add_pair(const struct registry *r, struct buf *b, char before, const char *key, const char *value)
{
	char *escaped = curl_easy_escape(r->curl, value, 0);

	buf_printf(b, "%c%s=%s", before, key, escaped ? escaped : "");
	curl_free(escaped);
}

/* What is wanted, "&service=...&scope=..."; without a path nothing but to know whether it takes the user. */
static void add_wish(const struct registry *r, struct buf *b, char before, const struct challenge *c)
{
	auto_free char *scope = xprintf("repository:%s:pull", r->path);

	add_pair(r, b, before, "service", c->service);
	if (*r->path)
		add_pair(r, b, '&', "scope", scope);
}

/* By the user's name and password it is a GET (distribution's docs/spec/auth/token.md), by an identity token a POST (oauth.md). */
static int fetch_token(struct registry *r, const struct challenge *c, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf body = {0}, url = {0}, form = {0};
	struct answer a = {.r = r, .body = &body, .max = TOKEN_BYTES, .fd = -1};

	buf_str(&url, c->realm);
	if (r->identity) {
		buf_str(&form, "grant_type=refresh_token&client_id=fcm");
		add_wish(r, &form, '&', c);
		add_pair(r, &form, '&', "refresh_token", r->password);
		a.form = form.p;
	} else {
		add_wish(r, &url, strchr(url.p, '?') ? '&' : '?', c);
	}
	CURLcode code = get_once(r, url.p, true, &a);
	if (r->refused)
		return fcm_fail(err, FCM_FORBIDDEN, "the token server has an address that isn't allowed");
	if (code)
		return fcm_fail(err, FCM_UNAVAILABLE, "token server: %s", curl_easy_strerror(code));
	if (a.status == 401 || a.status == 403)
		return refuse(r, err);
	if (a.status != 200)
		return fcm_fail(err, FCM_UNAVAILABLE, "the token server answered %ld", a.status);
	return keep_token(r, &body, err);
}

/* 1: try again with what we have now. */
static int authorize(struct registry *r, const struct answer *a, struct fcm_error *err)
{
	struct challenge c = challenge_parse(a->challenge);

	if (c.kind == CHALLENGE_BASIC && r->user && !r->identity && !r->basic) {
		r->basic = true;
		return 1;
	}
	if (c.kind == CHALLENGE_BEARER)
		return fetch_token(r, &c, err) < 0 ? -1 : 1;
	return refuse(r, err);
}

/* ---- what came of it ---- */

static int fail_status(const struct registry *r, const struct answer *a, struct fcm_error *err)
{
	if (a->status == 404) {
		fcm_fail(err, FCM_NO_IMAGE, "%s has no such image", r->name);
		return fcm_hint(err, "look at its name and tag");
	}
	if (a->status == 401 || a->status == 403) {
		/* that is what some say of a name that isn't there, too */
		fcm_fail(err, FCM_FORBIDDEN, "%s doesn't give it to us (%ld)", r->name, a->status);
		return fcm_hint(err, "look at its name; if it is private: fcm login %s", r->name);
	}
	return fcm_fail(err, FCM_UNAVAILABLE, "%s answered %ld", r->name, a->status);
}

static int judge(const struct registry *r, const struct answer *a, CURLcode code, struct fcm_error *err)
{
	if (r->refused)
		return fcm_fail(err, FCM_FORBIDDEN, "%s leads to an address that isn't allowed", r->name);
	if (a->too_long)
		return fcm_fail(err, FCM_TOO_LARGE, "%s sends more than it may", r->name);
	if (a->sys) {
		errno = a->sys;
		return fcm_fail_errno(err, "write a layer");
	}
	if (code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_URL_MALFORMAT)
		return fcm_fail(err, FCM_FORBIDDEN, "%s leads to an address that isn't https", r->name);
	if (code)
		return fcm_fail(
			err, FCM_UNAVAILABLE, "%s can't be asked: %s", r->name, curl_easy_strerror(code));
	if (a->status != 200 && a->status != 206)
		return fail_status(r, a, err);
	if (a->blob && a->got < a->blob->size)
		return fcm_fail(
			err, FCM_INVALID, "layer %.12s is shorter than the manifest says", a->blob->digest);
	return 0;
}

/* Is it worth another try? What was asked and answered whole isn't; a host that isn't there and a certificate that isn't trusted
 * only when others came before. */
static bool passing(const struct answer *a, CURLcode code, const struct fcm_error *err)
{
	if (a->blob == NULL && (code == CURLE_COULDNT_RESOLVE_HOST || code == CURLE_PEER_FAILED_VERIFICATION))
		return false;
	return err->code == FCM_UNAVAILABLE && (a->status == 0 || a->status == 200 || a->status == 206 ||
						       a->status == 429 || a->status >= 500);
}

static void pause_after(int tries)
{
	long ms = (long)PAUSE_MS << tries;

	nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static int get(struct registry *r, const char *what, struct answer *a, struct fcm_error *err)
{
	auto_free char *url = xprintf("%s%s", r->base, what);
	int tries = 0, all = 0, asked = 0;

	while (!must_end(r)) {
		uint64_t before = a->got;
		if (a->body)
			buf_drop(a->body, a->body->n);
		CURLcode code = get_hops(r, url, a);
		/* who it leads to doesn't say where the credentials go (CVE-2020-15157) */
		if (code == 0 && a->status == 401 && a->ours && asked++ < 2) {
			if (authorize(r, a, err) < 0)
				return -1;
			continue;
		}
		if (judge(r, a, code, err) == 0)
			return 0;
		if (a->got > before)
			tries = 0;
		if (!passing(a, code, err) || ++tries == (r->is_mirror ? TRIES_MIRROR : TRIES) ||
			++all == TRIES_ALL)
			return -1;
		pause_after(tries);
	}
	return fcm_fail(err, FCM_CANCELLED, "another layer failed");
}

/* ---- the interface ---- */

static const char *plan_get(const struct oci_job *job, const char *key)
{
	return kv_get(job->plan, job->plan_n, key);
}

static void set_place(struct registry *r, const struct ref *ref, const char *mirror)
{
	const char *host = strcmp(ref->domain, REF_HUB) == 0 ? "registry-1.docker.io" : ref->domain;
	auto_free char *url = xprintf("%s://%s", insecure(r, host) ? "http" : "https", host);

	(void)fcm_format(r->base, sizeof r->base, "%s/v2/%s%s", mirror ? mirror : url, ref->path,
		*ref->path ? "/" : "");
	r->name = mirror ? "it" : ref->domain;
	r->path = ref->path;
	r->is_mirror = mirror != NULL;
}

/* They are the registry's own, and no mirror's. */
static void set_credentials(struct registry *r)
{
	const char *token = plan_get(r->job, "token");

	r->user = plan_get(r->job, "user");
	r->password = plan_get(r->job, "password");
	r->identity = r->user && r->password && strcmp(r->user, REGISTRY_IDENTITY) == 0;
	r->token = token ? xstrdup(token) : NULL;
}

int registry_open(const struct oci_job *job, const struct ref *ref, const char *mirror, struct registry **ret,
	struct fcm_error *err)
{
	struct registry *r = xalloc(sizeof *r);

	r->job = job;
	r->pool = plan_get(job, "pool");
	set_place(r, ref, mirror);
	if (mirror == NULL)
		set_credentials(r);
	signal(SIGPIPE, SIG_IGN); /* a TLS library writes with write() */
	if (curl_global_init(CURL_GLOBAL_ALL) || (r->curl = curl_easy_init()) == NULL) {
		registry_free(r);
		return fcm_fail(err, FCM_UNAVAILABLE, "out of memory");
	}
	*ret = r;
	return 0;
}

struct registry *registry_copy(const struct registry *r, const atomic_llong *left)
{
	struct registry *copy = xalloc(sizeof *copy);

	*copy = *r;
	copy->token = xstrdup(r->token);
	copy->left = left;
	copy->curl = curl_easy_init();
	if (copy->curl)
		return copy;
	registry_free(copy);
	return NULL;
}

void registry_free(struct registry *r)
{
	if (r == NULL)
		return;
	curl_easy_cleanup(r->curl);
	free(r->token);
	free(r);
}

int registry_get(struct registry *r, const char *what, size_t max, struct buf *ret, struct fcm_error *err)
{
	struct answer a = {.r = r, .body = ret, .max = max, .fd = -1};

	return get(r, what, &a, err);
}

int registry_blob(struct registry *r, const struct descriptor *d, int fd, struct fcm_error *err)
{
	auto_free char *what = xprintf("blobs/sha256:%s", d->digest);
	struct answer a = {.r = r, .fd = fd, .blob = d};

	return get(r, what, &a, err);
}
