#include "client/where.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pwd.h>
#include <string.h>
#include <sys/socket.h>

#include "client/context.h"
#include "client/secret.h"
#include "common/core/fileio.h"

enum { MAX_TOKEN = 512 };

const char *home_dir(void)
{
	const char *home = getenv("HOME");

	if (home && *home)
		return home;
	const struct passwd *pw = getpwuid(geteuid());
	return pw ? pw->pw_dir : "/";
}

const char *user_name(void)
{
	const struct passwd *pw = getpwuid(geteuid());

	return pw ? pw->pw_name : "USER";
}

/* "localhost", 127.0.0.0/8 or ::1: RFC 6761, section 6.3, and RFC 1122, section 3.2.1.3. */
static bool is_loopback(const char *host)
{
	struct in_addr v4;
	struct in6_addr v6;

	if (strcasecmp(host, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, host, &v4) == 1)
		return ntohl(v4.s_addr) >> 24 == IN_LOOPBACKNET;
	return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

/* The host of "host:port" or "[v6]:port" into ret; false when this is no host and port. */
static bool split_host(const char *s, char *ret, size_t size)
{
	const char *end = s[0] == '[' ? strchr(s, ']') : strchrnul(s, ':');
	int64_t port;

	if (end == NULL || end == s)
		return false;
	if (!fcm_format(ret, size, "%.*s", (int)(end - s - (s[0] == '[')), s + (s[0] == '[')))
		return false;
	if (s[0] == '[')
		end++;
	if (*end != '\0' && (*end != ':' || !fcm_parse_i64(end + 1, 1, 65535, &port)))
		return false;
	return strspn(ret, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:") ==
	       strlen(ret);
}

static int bad_url(const char *text, struct fcm_error *err)
{
	return fcm_fail(err, FCM_USAGE,
		"'%s' isn't a URL like http://127.0.0.1:7777, https://host or unix:///path", text);
}

int where_parse(const char *text, struct where *ret, struct fcm_error *err)
{
	struct where w = {0};
	char host[256];
	bool tls = strncmp(text, "https://", 8) == 0;

	if (strncmp(text, "unix:///", 8) == 0) {
		fcm_copy(w.url, sizeof w.url, "http://localhost");
		if (!fcm_copy(w.socket, sizeof w.socket, text + 7))
			return bad_url(text, err);
		w.loopback = w.secure = true;
		*ret = w;
		return 0;
	}
	if (!tls && strncmp(text, "http://", 7) != 0)
		return bad_url(text, err);
	if (!fcm_copy(w.url, sizeof w.url, text))
		return bad_url(text, err);
	for (size_t n = strlen(w.url); n > 0 && w.url[n - 1] == '/'; n--)
		w.url[n - 1] = '\0';
	if (strlen(w.url) < 8 || !split_host(strstr(w.url, "//") + 2, host, sizeof host))
		return bad_url(text, err);
	w.loopback = is_loopback(host);
	w.secure = tls || w.loopback;
	*ret = w;
	return 0;
}

static bool socket_connects(const char *path)
{
	struct fcm_error ignored;
	auto_close int fd = unix_connect(AT_FDCWD, path, 0, &ignored);

	return fd >= 0;
}

void where_local(struct where *ret)
{
	struct fcm_error ignored;
	bool local = socket_connects(FCM_SOCKET);

	if (where_parse(local ? "unix://" FCM_SOCKET : FCM_DEFAULT_URL, ret, &ignored) < 0)
		abort(); /* they are URLs */
}

int where_context(const char *context, struct asset_name *ret, struct fcm_error *err)
{
	if (context == NULL)
		context = getenv("FCM_CONTEXT");
	if (context == NULL || *context == '\0')
		return context_current(ret, err);
	*ret = (struct asset_name){""};
	return strcmp(context, CONTEXT_LOCAL) == 0 ? 0 : context_name(context, ret, err);
}

static int parse_context(const struct asset_name *name, struct where *ret, struct fcm_error *err)
{
	_cleanup_(context_done) struct context c = {0};

	if (context_load(name, &c, err) < 0)
		return -1;
	if (where_parse(c.url, ret, err) < 0)
		return fcm_wrap(err, "context '%s'", name->s);
	ret->context = *name;
	return 0;
}

int where_find(const char *url, const char *context, struct where *ret, struct fcm_error *err)
{
	struct asset_name name;

	if (url && context)
		return fcm_fail(err, FCM_USAGE, "--url and --context name two daemons");
	if (url == NULL && context == NULL)
		url = getenv("FCM_URL");
	if (url && *url)
		return where_parse(url, ret, err);
	if (where_context(context, &name, err) < 0)
		return -1;
	if (name.s[0])
		return parse_context(&name, ret, err);
	where_local(ret);
	return 0;
}

char *where_url(const struct where *w)
{
	return w->socket[0] ? xprintf("unix://%s", w->socket) : xstrdup(w->url);
}

const char *where_name(const struct where *w)
{
	return w->socket[0] ? w->socket : w->url;
}

/* That of a file. */
static int read_token(const char *path, char **ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};

	return secret_read(path, MAX_TOKEN, &text, err) < 0 ? -1
							    : secret_token(text.p, text.n, path, ret, err);
}

static int no_token(const struct where *w, struct fcm_error *err)
{
	const char *user = user_name();

	fcm_fail(err, FCM_NO_TOKEN, "no token for %s", where_name(w));
	if (!w->loopback)
		return fcm_hint(err, "name a file that holds one: --token-file FILE, or set FCM_TOKEN");
	return fcm_hint(err,
		"ask root: sudo fcm token create --for %s    (or: sudo adduser %s fcm, then log in again)",
		user, user);
}

/* The files that nobody named: the user's own, then the daemon's. */
static int find_token(const struct where *w, char **ret, struct fcm_error *err)
{
	auto_free char *own = xprintf("%s/.fcm-token", home_dir());
	struct fcm_error mine;

	*ret = context_token_for(w->url);
	if (*ret)
		return 0;
	if (!w->loopback)
		return no_token(w, err);
	if (read_token(own, ret, &mine) == 0)
		return 0;
	if (mine.code != FCM_NOT_FOUND) {
		*err = mine;
		return -1;
	}
	if (access(FCM_ROOT_TOKEN, R_OK) == 0)
		return read_token(FCM_ROOT_TOKEN, ret, err);
	return no_token(w, err);
}

int where_secure(const struct where *w, struct fcm_error *err)
{
	if (w->secure)
		return 0;
	fcm_fail(err, FCM_FORBIDDEN, "a token isn't sent in plain http to %s", where_name(w));
	return fcm_hint(err, "use https, or forward a port: ssh -L 7778:127.0.0.1:7777 HOST");
}

/* The one that somebody named, by --token-file, the context or FCM_TOKEN; NULL for none. */
static int given_token(const struct where *w, const char *file, char **ret, struct fcm_error *err)
{
	_cleanup_(context_done) struct context c = {0};
	const char *env = getenv("FCM_TOKEN");

	*ret = NULL;
	if (file) {
		int r = read_token(file, ret, err);
		if (r < 0 && err->code == FCM_NOT_FOUND)
			fcm_fail(err, FCM_NO_TOKEN, "there is no %s", file);
		return r;
	}
	if (w->context.s[0]) {
		if (context_load(&w->context, &c, err) < 0)
			return -1;
		return c.token ? secret_token(c.token, strlen(c.token), "the context", ret, err) : 0;
	}
	return env && *env ? secret_token(env, strlen(env), "FCM_TOKEN", ret, err) : 0;
}

int where_token(const struct where *w, const char *file, char **ret, struct fcm_error *err)
{
	auto_free char *token = NULL;

	if (given_token(w, file, &token, err) < 0)
		return -1;
	if (token == NULL && w->socket[0] == '\0' && find_token(w, &token, err) < 0)
		return -1;
	if (token && where_secure(w, err) < 0)
		return -1;
	*ret = STEAL(token);
	return 0;
}
