#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "common/httpc.h"
#include "common/httpc_internal.h"

/* One download, as libcurl's callbacks see it. */
struct download {
	const struct httpc_download *d;
	CURL *curl;
	uint64_t had;	   /* bytes of the file before */
	uint64_t at;	   /* and now */
	bool begun;	   /* a body has come */
	int64_t from, all; /* of the answer's Content-Range; -1: it doesn't say */
	enum { STOP_NO, STOP_TOO_LARGE, STOP_WRONG_RANGE, STOP_WRITE } stop;
	int sys; /* errno of STOP_WRITE */
};

static void curl_done(CURL **curl)
{
	curl_easy_cleanup(*curl);
}

static long status_of(const struct download *dl)
{
	long status = 0;

	curl_easy_getinfo(dl->curl, CURLINFO_RESPONSE_CODE, &status);
	return status;
}

/* "bytes 100-199/200" or "bytes * /200" (RFC 9110, section 14.4). */
static void take_range(struct download *dl, const char *value)
{
	long long from, to, all;

	if (sscanf(value, " bytes %lld-%lld/%lld", &from, &to, &all) == 3) {
		dl->from = from;
		dl->all = all;
	} else if (sscanf(value, " bytes */%lld", &all) == 1) {
		dl->all = all;
	}
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
	static const char name[] = "Content-Range:";
	struct download *dl = arg;
	char line[128];

	n *= size;
	fcm_format(line, sizeof line, "%.*s", (int)MIN(n, sizeof line - 1), p);
	if (strncmp(line, "HTTP/", 5) == 0) /* another answer, behind a redirect */
		dl->from = dl->all = -1;
	if (strncasecmp(line, name, sizeof name - 1) == 0)
		take_range(dl, line + sizeof name - 1);
	return n;
}

/* Where the answer's first byte belongs: behind what we have, or at the beginning when all of it comes again. */
static int begin_body(struct download *dl)
{
	if (status_of(dl) == 206 && dl->from == (int64_t)dl->had)
		return 0;
	if (status_of(dl) == 206) {
		dl->stop = STOP_WRONG_RANGE;
		return -1;
	}
	dl->at = 0;
	if (ftruncate(dl->d->fd, 0) == 0)
		return 0;
	dl->stop = STOP_WRITE;
	dl->sys = errno;
	return -1;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
	struct download *dl = arg;

	n *= size;
	if (!dl->begun && begin_body(dl) < 0)
		return 0;
	dl->begun = true;
	if (n > dl->d->max - dl->at) {
		dl->stop = STOP_TOO_LARGE;
		return 0;
	}
	for (size_t done = 0; done < n;) {
		ssize_t k = pwrite(dl->d->fd, p + done, n - done, (off_t)dl->at);
		if (k < 0) {
			dl->stop = STOP_WRITE;
			dl->sys = errno;
			return 0;
		}
		done += (size_t)k;
		dl->at += (uint64_t)k;
	}
	return n;
}

static int on_progress(void *arg, curl_off_t dltotal, curl_off_t dlnow, curl_off_t ultotal, curl_off_t ulnow)
{
	struct download *dl = arg;

	(void)ultotal;
	(void)ulnow;
	if (dl->begun && dl->at >= (uint64_t)dlnow) {
		uint64_t kept = dl->at - (uint64_t)dlnow;
		dl->d->got(dl->d->arg, dl->at, dltotal > 0 ? kept + (uint64_t)dltotal : 0);
	}
	return 0;
}

static void set_options(struct download *dl, char *why)
{
	CURL *curl = dl->curl;

	httpc_set_common(curl, dl->d->url, why);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "fcm");
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "https"); /* of redirects as well */
	curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
	curl_easy_setopt(curl, CURLOPT_MAXREDIRS, (long)HTTPC_MAX_REDIRECTS);
	curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)HTTPC_STALL_SECONDS);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, dl);
	curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(curl, CURLOPT_HEADERDATA, dl);
	if (dl->d->got) {
		curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
		curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
		curl_easy_setopt(curl, CURLOPT_XFERINFODATA, dl);
	}
}

/* The server answered, but not with the file. */
static int fail_status(struct download *dl, struct fcm_error *err)
{
	const char *url = dl->d->url;
	long status = status_of(dl);

	if (status == 416 && dl->all == (int64_t)dl->had)
		return 0; /* nothing is missing */
	if (status == 416) {
		if (ftruncate(dl->d->fd, 0) < 0)
			return fcm_fail_errno(err, "empty what came");
		return fcm_fail(err, FCM_UNAVAILABLE, "%s: what was there already is no part of it", url);
	}
	if (status == 404 || status == 410)
		return fcm_fail(err, FCM_NOT_FOUND, "%s: there is no such file (%ld)", url, status);
	if (status >= 500 || status == 429)
		return fcm_fail(err, FCM_UNAVAILABLE, "%s: the server can't now (%ld)", url, status);
	return fcm_fail(err, FCM_HOST, "%s: the server answers %ld", url, status);
}

/* We ended it ourselves. */
static int fail_stop(const struct download *dl, struct fcm_error *err)
{
	const char *url = dl->d->url;

	errno = dl->sys;
	switch (dl->stop) {
	case STOP_NO:
		break;
	case STOP_TOO_LARGE:
		return fcm_fail(err, FCM_TOO_LARGE, "%s: is larger than %llu bytes", url,
			(unsigned long long)dl->d->max);
	case STOP_WRONG_RANGE:
		return fcm_fail(
			err, FCM_HOST, "%s: the server sends another part than it was asked for", url);
	case STOP_WRITE:
		return fcm_fail_errno(err, "write what came");
	}
	return 0;
}

static int fail_transfer(struct download *dl, CURLcode code, const char *why, struct fcm_error *err)
{
	const char *url = dl->d->url;
	bool broken = code == CURLE_PARTIAL_FILE || code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR ||
		      code == CURLE_GOT_NOTHING;
	curl_off_t spent = 0;

	/* an enum of a hundred values, of which a few need words of their own */
	if (code == CURLE_HTTP_RETURNED_ERROR)
		return fail_status(dl, err);
	if (dl->stop != STOP_NO)
		return fail_stop(dl, err);
	if (broken)
		return fcm_fail(err, FCM_UNAVAILABLE, "%s: the connection broke", url);
	curl_easy_getinfo(dl->curl, CURLINFO_PRETRANSFER_TIME_T, &spent);
	if (code == CURLE_OPERATION_TIMEDOUT && spent > 0)
		return fcm_fail(err, FCM_UNAVAILABLE, "%s: nothing came for %d s", url, HTTPC_STALL_SECONDS);
	if (code == CURLE_UNSUPPORTED_PROTOCOL)
		return fcm_fail(err, FCM_HOST, "%s: leads away from https, which is refused", url);
	if (code == CURLE_PEER_FAILED_VERIFICATION) {
		fcm_fail(err, FCM_HOST, "%s: the certificate isn't trusted (%s)", url, why);
		return fcm_hint(err, "add its CA to the system's, or name its file in SSL_CERT_FILE");
	}
	return fcm_fail(err, FCM_HOST, "%s: %s", url, *why ? why : curl_easy_strerror(code));
}

int httpc_download(const struct httpc_download *d, struct fcm_error *err)
{
	char why[CURL_ERROR_SIZE] = "";
	struct stat st;

	if (fstat(d->fd, &st) < 0)
		return fcm_fail_errno(err, "look at what is there");
	struct download dl = {.d = d, .had = (uint64_t)st.st_size, .from = -1, .all = -1};
	if (dl.had > d->max)
		return fcm_fail(err, FCM_TOO_LARGE, "what is there is larger than %llu bytes already",
			(unsigned long long)d->max);
	dl.at = dl.had;
	curl_global_init(CURL_GLOBAL_DEFAULT);
	_cleanup_(curl_done) CURL *curl = curl_easy_init();
	if (curl == NULL)
		abort();
	dl.curl = curl;
	set_options(&dl, why);
	/* not CURLOPT_RESUME_FROM: that fails where the server sends all of it again */
	auto_free char *range = xprintf("%llu-", (unsigned long long)dl.had);
	if (dl.had)
		curl_easy_setopt(curl, CURLOPT_RANGE, range);
	CURLcode code = curl_easy_perform(curl);
	return code == CURLE_OK ? 0 : fail_transfer(&dl, code, why, err);
}
