#include "images/agent/probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/core/kv.h"

enum { STATUS_LINE_MAX = 512, BANNER = 4 };

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

int probe_parse(const void *kv, size_t n, struct probe *ret, struct fcm_error *err)
{
	static const char *const names[] = {[PROBE_TCP] = "tcp", [PROBE_SSH] = "ssh", [PROBE_HTTP] = "http"};
	const char *mode = kv_get(kv, n, "mode"), *url = kv_get(kv, n, "url"),
		   *own = kv_get(kv, n, "address");
	struct probe p = {.port = (uint16_t)kv_i64(kv, n, "port", 1, UINT16_MAX, 0)};
	size_t i = 0;

	while (i < ARRAY_SIZE(names) && (mode == NULL || strcmp(mode, names[i]) != 0))
		i++;
	if (i == ARRAY_SIZE(names))
		return fcm_fail_field(err, FCM_INVALID, "mode", "mode: tcp, ssh, http or exec");
	p.mode = (enum probe_mode)i;
	p.timeout_ms = kv_i64(kv, n, "timeout_ms", 1, PROBE_TIMEOUT_MAX_MS, PROBE_TIMEOUT_MS);
	if (p.mode == PROBE_HTTP && local_url_parse(url ? url : "", "url", &p.url, err) < 0)
		return -1;
	if (p.mode != PROBE_HTTP && p.port == 0)
		return fcm_fail_field(err, FCM_INVALID, "port", "port: 1 to %d", UINT16_MAX);
	if (own && inet_pton(AF_INET, own, &p.address) != 1)
		return fcm_fail_field(err, FCM_INVALID, "address", "address: not an IPv4 address");
	*ret = p;
	return 0;
}

static union address v4(struct in_addr address, uint16_t port)
{
	return (union address){.v4 = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = address}};
}

/* Where to try it, in turn. */
static size_t addresses(const struct probe *p, union address ret[PROBE_ADDRESSES])
{
	uint16_t port = p->mode == PROBE_HTTP ? p->url.port : p->port;
	size_t n = 0;

	if (p->url.address.s_addr) {
		ret[n++] = v4(p->url.address, port);
		return n;
	}
	ret[n++] = v4((struct in_addr){htonl(INADDR_LOOPBACK)}, port);
	ret[n++] = (union address){.v6 = {.sin6_family = AF_INET6,
					   .sin6_port = htons(port),
					   .sin6_addr = IN6ADDR_LOOPBACK_INIT}};
	if (p->mode != PROBE_HTTP && p->address.s_addr)
		ret[n++] = v4(p->address, port);
	return n;
}

static bool wait_for(int fd, short events, int64_t deadline)
{
	struct pollfd p = {.fd = fd, .events = events};

	if (poll(&p, 1, clock_left(deadline)) == 1)
		return true;
	errno = ETIMEDOUT;
	return false;
}

/* A connection of a socket with itself (RFC 9293, section 3.5) is no server's. */
static bool is_own(int fd, const union address *to)
{
	union address name = {.v4 = {.sin_port = 0}};
	socklen_t n = sizeof name;

	/* both families have the port at the same place */
	return getsockname(fd, &name.any, &n) == 0 && name.v4.sin_port == to->v4.sin_port;
}

/* A connection, or -1 with errno. It comes from the address that it goes to: only one that this machine has can be bound. */
static int dial(const union address *to, int64_t deadline)
{
	socklen_t size = to->any.sa_family == AF_INET ? sizeof to->v4 : sizeof to->v6, n = sizeof(int);
	auto_close int fd = socket(to->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	union address from = *to;
	int error = 0;

	if (from.any.sa_family == AF_INET)
		from.v4.sin_port = 0;
	else
		from.v6.sin6_port = 0;
	if (fd < 0 || bind(fd, &from.any, size) < 0)
		return -1;
	if (connect(fd, &to->any, size) < 0 && errno != EINPROGRESS)
		return -1;
	if (!wait_for(fd, POLLOUT, deadline) || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0)
		return -1;
	errno = error || !is_own(fd, to) ? error : ECONNREFUSED;
	return errno ? -1 : STEAL_FD(fd);
}

/* Read until there are `min` bytes, or the end. Returns how many. */
static size_t read_some(int fd, char *p, size_t min, size_t max, int64_t deadline)
{
	size_t got = 0;

	while (got < min && wait_for(fd, POLLIN, deadline)) {
		ssize_t n = recv(fd, p + got, max - got, 0);
		if (n == 0 || (n < 0 && errno != EAGAIN))
			break;
		got += n > 0 ? (size_t)n : 0;
	}
	return got;
}

static int ask_ssh(int fd, int64_t deadline)
{
	char text[BANNER + 1] = "";

	if (read_some(fd, text, BANNER, BANNER, deadline) == BANNER && strcmp(text, "SSH-") == 0)
		return 0;
	dprintf(STDOUT_FILENO, "no banner of an ssh server came\n");
	return 1;
}

/* "HTTP/1.1 200 ...": RFC 9112, section 4. 0: it is no such line. */
static int status_of(const char *line)
{
	int64_t status;
	char digits[4];

	if (strncmp(line, "HTTP/1.", 7) != 0 || line[7] == '\0' || line[8] != ' ')
		return 0;
	(void)fcm_format(digits, sizeof digits, "%.3s", line + 9);
	return fcm_parse_i64(digits, 100, 599, &status) ? (int)status : 0;
}

static int ask_http(int fd, const struct local_url *u, int64_t deadline)
{
	_cleanup_(buf_done) struct buf rq = {0};
	char line[STATUS_LINE_MAX + 1] = "";

	buf_printf(&rq, "GET %s HTTP/1.0\r\nHost: %s\r\nUser-Agent: fcm\r\nAccept: */*\r\n\r\n", u->path,
		u->host);
	/* a new connection takes so few bytes at once */
	if (send(fd, rq.p, rq.n, MSG_NOSIGNAL) != (ssize_t)rq.n) {
		dprintf(STDOUT_FILENO, "the request could not be sent\n");
		return 1;
	}
	line[read_some(fd, line, sizeof "HTTP/1.1 200" - 1, STATUS_LINE_MAX, deadline)] = '\0';
	int status = status_of(line);
	if (status >= 200 && status <= 399)
		return 0;
	if (status)
		dprintf(STDOUT_FILENO, "HTTP status %d\n", status);
	else
		dprintf(STDOUT_FILENO, "no HTTP answer came\n");
	return 1;
}

static int ask(const struct probe *p, int fd, int64_t deadline)
{
	switch (p->mode) {
	case PROBE_TCP:
		return 0;
	case PROBE_SSH:
		return ask_ssh(fd, deadline);
	case PROBE_HTTP:
		return ask_http(fd, &p->url, deadline);
	}
	return 1;
}

int probe_run(const void *probe)
{
	const struct probe *p = probe;
	int64_t deadline = clock_in(p->timeout_ms);
	union address to[PROBE_ADDRESSES];
	size_t n = addresses(p, to);
	int error = 0, status = 1;
	unsigned port = p->mode == PROBE_HTTP ? p->url.port : p->port;

	for (size_t i = 0; i < n; i++) {
		auto_close int fd = dial(&to[i], deadline);
		if (fd >= 0) {
			status = ask(p, fd, deadline);
			error = 0;
			break;
		}
		if (error == 0) /* what 127.0.0.1 says is what people know */
			error = errno;
	}
	if (error)
		dprintf(STDOUT_FILENO, "port %u: %s\n", port,
			error == EADDRNOTAVAIL ? "its address isn't this machine's" : strerror(error));
	return status;
}
