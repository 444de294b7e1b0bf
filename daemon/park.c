#include "daemon/park.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

/* One request of no body on a connection that the daemon closes behind its answer: that needs no library for HTTP,
 * which the daemon would carry all day. */
#define REQUEST "POST /v1/park HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

enum { ANSWER_MAX = 64 << 10 };

static int call(const char *path, struct fcm_error *err)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return fcm_fail_errno(err, "socket");
	if (!fcm_copy(a.sun_path, sizeof a.sun_path, path))
		return fcm_fail(err, FCM_CONFIG, "socket %s: the path is too long", path);
	if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
		return fcm_fail(err, FCM_NO_DAEMON, "no daemon listens at %s: %s", path, strerror(errno));
	if (send(fd, REQUEST, strlen(REQUEST), MSG_NOSIGNAL) != (ssize_t)strlen(REQUEST))
		return fcm_fail_errno(err, "ask the daemon");
	return STEAL_FD(fd);
}

static int read_all(int fd, struct buf *ret, struct fcm_error *err)
{
	char piece[4096];
	ssize_t n;

	while ((n = recv(fd, piece, sizeof piece, 0)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fcm_fail_errno(err, "read the daemon's answer");
		if (ret->n + (size_t)n > ANSWER_MAX)
			return fcm_fail(err, FCM_TOO_LARGE, "the daemon's answer is too long");
		buf_add(ret, piece, (size_t)n);
	}
	return 0;
}

int park_ask(const char *socket_path, char **ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf answer = {0};
	auto_close int fd = call(socket_path, err);

	if (fd < 0 || read_all(fd, &answer, err) < 0)
		return -1;
	const char *body = answer.n ? strstr(answer.p, "\r\n\r\n") : NULL;
	if (body == NULL)
		return fcm_fail(err, FCM_UNAVAILABLE, "the daemon went away without an answer");
	if (strncmp(answer.p, "HTTP/1.1 200 ", 13) != 0)
		return fcm_fail(err, FCM_UNAVAILABLE, "the daemon refused: %s", body + 4);
	*ret = xstrdup(body + 4);
	return 0;
}
