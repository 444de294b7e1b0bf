#include "images/agent/placeholder.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "common/core/clock.h"
#include "common/core/util.h"
#include "images/agent/giveway.h"

enum { CLIENT_MS = 2000 }; /* for a client to send its request and to go; the next one waits meanwhile */

static int listen_on_loopback(struct fcm_error *err)
{
	const struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const int on = 1;
	auto_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
		bind(fd, (const struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 64) < 0)
		return fcm_fail_errno(err, "listen on loopback");
	return STEAL_FD(fd);
}

/* Read until the blank line that ends a request's header, or for as long as we are willing to. */
static void read_request(int fd, int64_t deadline)
{
	char request[4096];
	size_t n = 0;
	ssize_t k;

	while (n < sizeof request - 1 && clock_ms() < deadline &&
		(k = recv(fd, request + n, sizeof request - 1 - n, 0)) > 0) {
		n += (size_t)k;
		request[n] = '\0';
		if (strstr(request, "\r\n\r\n"))
			return;
	}
}

/* Our connections hold the lent port too (each is bound to it), and one in TIME_WAIT would for a minute. So
 * the client closes first, and one that doesn't is reset. SO_REUSEADDR, which they inherit, does the rest for
 * a port's next owner. */
static void finish(int fd, int64_t deadline)
{
	const struct linger reset = {.l_onoff = 1, .l_linger = 0};
	char rest[512];

	while (clock_ms() < deadline && recv(fd, rest, sizeof rest, 0) > 0)
		;
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
}

/* Plain text, so that nothing in a host name needs escaping. */
static void answer(int fd, unsigned port)
{
	const struct timeval limit = {.tv_sec = CLIENT_MS / 1000};
	const int64_t deadline = clock_in(CLIENT_MS);
	char host[65] = "this machine", page[256], head[256];

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	read_request(fd, deadline);
	gethostname(host, sizeof host - 1);
	(void)fcm_format(page, sizeof page, "%s is running; put something of yours on port %u\n", host, port);
	(void)fcm_format(head, sizeof head,
		"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %zu\r\n"
		"Cache-Control: no-store\r\nConnection: close\r\n\r\n",
		strlen(page));
	if (send(fd, head, strlen(head), MSG_NOSIGNAL | MSG_MORE) > 0)
		(void)!send(fd, page, strlen(page), MSG_NOSIGNAL);
	finish(fd, deadline);
}

int placeholder_run(const char *port_text)
{
	struct fcm_error err = {0};
	int64_t port;

	if (!fcm_parse_i64(port_text, 1, 65535, &port)) {
		fprintf(stderr, "placeholder: '%s' is not a port\n", port_text);
		return 2;
	}
	int listener = listen_on_loopback(&err);
	if (listener < 0 || giveway_lend(listener, (uint16_t)port, &err) < 0) {
		fprintf(stderr, "placeholder: %s\n", err.msg);
		return 1;
	}
	for (;;) {
		auto_close int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			clock_sleep(100);
		else
			answer(fd, (unsigned)port);
	}
}
