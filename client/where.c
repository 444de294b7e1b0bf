#include "client/where.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pwd.h>
#include <string.h>
#include <sys/socket.h>

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
	struct where w = {.named = true};
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

int where_find(const char *url, struct where *ret, struct fcm_error *err)
{
	if (url == NULL)
		url = getenv("FCM_URL");
	if (url && *url)
		return where_parse(url, ret, err);
	bool local = socket_connects(FCM_SOCKET);
	if (where_parse(local ? "unix://" FCM_SOCKET : FCM_DEFAULT_URL, ret, err) < 0)
		return -1;
	ret->named = false;
	return 0;
}

const char *where_name(const struct where *w)
{
	return w->socket[0] ? w->socket : w->url;
}

/* Text that may stand in a header: printable, without spaces at its ends. */
static int take_token(const char *text, size_t n, const char *from, char **ret, struct fcm_error *err)
{
	while (n && isspace((unsigned char)text[n - 1]))
		n--;
	while (n && isspace((unsigned char)*text))
		text++, n--;
	if (n == 0)
		return fcm_fail(err, FCM_NO_TOKEN, "%s holds no token", from);
	for (size_t i = 0; i < n; i++)
		if (!isgraph((unsigned char)text[i]))
			return fcm_fail(err, FCM_NO_TOKEN, "%s holds something that isn't a token", from);
	*ret = xprintf("%.*s", (int)n, text);
	return 0;
}

/* FCM_NOT_FOUND when it isn't there; a file that others can read is refused. */
static int read_token(const char *path, char **ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	char piece[MAX_TOKEN];

	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
		return fcm_fail(err, FCM_NOT_FOUND, "there is no %s", path);
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		fcm_fail(err, FCM_FORBIDDEN, "no token can be read from %s: %s", path,
			fd < 0 ? strerror(errno) : "not a file");
		return fcm_hint(err, "name a file of yours that holds one");
	}
	if (st.st_mode & 077) {
		fcm_fail(
			err, FCM_FORBIDDEN, "%s can be read by others (mode %04o)", path, st.st_mode & 07777);
		return fcm_hint(err, "chmod 600 %s", path);
	}
	ssize_t n = read(fd, piece, sizeof piece);
	if (n < 0)
		return fcm_fail_errno(err, "read %s", path);
	return take_token(piece, (size_t)n, path, ret, err);
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

int where_token(const struct where *w, const char *file, char **ret, struct fcm_error *err)
{
	const char *env = getenv("FCM_TOKEN");
	bool given = file || (env && *env);

	if (!w->secure && given) {
		fcm_fail(err, FCM_FORBIDDEN, "a token isn't sent in plain http to %s", where_name(w));
		return fcm_hint(err, "use https, or forward a port: ssh -L 7777:127.0.0.1:7777 HOST");
	}
	if (file) {
		int r = read_token(file, ret, err);
		if (r < 0 && err->code == FCM_NOT_FOUND)
			fcm_fail(err, FCM_NO_TOKEN, "there is no %s", file);
		return r;
	}
	if (given)
		return take_token(env, strlen(env), "FCM_TOKEN", ret, err);
	if (w->socket[0]) {
		*ret = NULL;
		return 0;
	}
	return find_token(w, ret, err);
}
