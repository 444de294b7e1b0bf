#include "daemon/relay.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

enum {
	CHUNK = 65536,
	/* how often an idle relay looks whether its VM still runs: one that was killed sends no FIN */
	LOOK_MS = 1000,
	CONNECT_MS = 5000,
	STALL_MS = 60000, /* how long what a side left behind may wait for the other to take it */
};

/* One direction: bytes read from `from` and not yet written to `to`. */
struct flow {
	int from, to;
	char data[CHUNK];
	size_t n;
	bool eof;
	bool mute; /* what comes is thrown away */
};

/* Move what can be moved. False when the connection broke. */
static bool pump(struct flow *f, short from_events, short to_events)
{
	if (f->n == 0 && !f->eof && from_events) {
		ssize_t n = recv(f->from, f->data, sizeof f->data, MSG_DONTWAIT);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		f->n = f->mute ? 0 : (size_t)n;
		f->eof = n == 0;
		if (f->eof)
			shutdown(f->to, SHUT_WR);
		to_events = POLLOUT; /* likely: try at once */
	}
	if (f->n && to_events) {
		ssize_t n = send(f->to, f->data, f->n, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		memmove(f->data, f->data + n, f->n - (size_t)n);
		f->n -= (size_t)n;
	}
	return true;
}

/* What to wait for at the side that `in` comes from and `out` goes to. Where that is nothing the descriptor is left out: a
 * side that has hung up says so without end. */
static struct pollfd wants(const struct flow *in, const struct flow *out)
{
	short events = (short)((in->n == 0 && !in->eof ? POLLIN : 0) | (out->n ? POLLOUT : 0));

	return (struct pollfd){.fd = events ? in->from : -1, .events = events};
}

/* Has this side hung up, in both directions? */
static bool is_gone(int fd)
{
	struct pollfd p = {.fd = fd};

	return poll(&p, 1, 0) == 1;
}

/* Asked when nothing moved for LOOK_MS. What a side that is gone left behind is delivered, if the other one takes it. */
static bool is_over(const struct flow *up, const struct flow *down, unsigned *stalled)
{
	if (up->n == 0 && is_gone(up->from))
		return true;
	bool stuck = (up->n && is_gone(up->from)) || (down->n && is_gone(down->from));
	*stalled = stuck ? *stalled + 1 : 0;
	return *stalled * LOOK_MS >= STALL_MS;
}

/* What is said to the client waits until what the guest said is away, but for the right to send nobody waits. */
static void ask(const struct relay *r, struct flow *up, struct flow *down)
{
	_cleanup_(buf_done) struct buf note = {0};

	if (r->may_send == NULL)
		return;
	up->mute = !r->may_send(r->arg, down->n ? NULL : &note);
	if (up->mute)
		up->n = 0;
	if (note.n) {
		down->n = MIN(note.n, sizeof down->data);
		memcpy(down->data, note.p, down->n);
	}
}

static void move(const struct relay *r, struct flow *up, struct flow *down)
{
	unsigned stalled = 0;

	while (!(up->eof && (down->eof || r->no_half))) {
		ask(r, up, down);
		struct pollfd p[] = {wants(up, down), wants(down, up), {.fd = r->stop_fd, .events = POLLIN}};
		int n = poll(p, ARRAY_SIZE(p), LOOK_MS);
		if (n < 0 && errno != EINTR)
			return;
		if (n == 0 && ((r->goes_on && !r->goes_on(r->arg)) || is_over(up, down, &stalled)))
			return;
		if (n <= 0)
			continue;
		stalled = 0;
		if (p[2].revents || ((p[0].revents | p[1].revents) & (POLLERR | POLLNVAL)))
			return;
		if (!pump(up, p[0].revents & (POLLIN | POLLHUP), p[1].revents & POLLOUT) ||
			!pump(down, p[1].revents & (POLLIN | POLLHUP), p[0].revents & POLLOUT))
			return;
	}
}

/* tcp(7): keys aren't kept back, and a client whose machine is gone doesn't hold its place for ever. */
static void tune(int fd)
{
	static const struct {
		int level, name, value;
	} options[] = {{SOL_SOCKET, SO_KEEPALIVE, 1}, {IPPROTO_TCP, TCP_KEEPIDLE, 30},
		{IPPROTO_TCP, TCP_KEEPINTVL, 10}, {IPPROTO_TCP, TCP_KEEPCNT, 3},
		{IPPROTO_TCP, TCP_NODELAY, 1}};

	for (size_t i = 0; i < ARRAY_SIZE(options); i++) /* a unix socket refuses those of TCP */
		(void)!setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int));
}

void relay_run(const struct relay *r, const void *extra, size_t n)
{
	auto_free struct flow *up = xalloc(sizeof *up), *down = xalloc(sizeof *down);

	up->from = down->to = r->client;
	up->to = down->from = r->guest;
	up->n = MIN(n, sizeof up->data);
	memcpy(up->data, extra, up->n);
	tune(r->client);
	move(r, up, down);
}

int relay_connect(struct in_addr ip, uint16_t port, const char *name, struct fcm_error *err)
{
	auto_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = ip};
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	int e = 0;
	socklen_t len = sizeof e;

	if (fd < 0)
		return fcm_fail_errno(err, "socket");
	if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS)
		return fcm_fail_errno(err, "connect to port %u of '%s'", port, name);
	if (poll(&p, 1, CONNECT_MS) != 1)
		return fcm_fail(err, FCM_TIMEOUT, "port %u of '%s' does not answer", port, name);
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len);
	if (e)
		return fcm_fail(err, FCM_GUEST, "port %u of '%s': %s", port, name, strerror(e));
	return STEAL_FD(fd);
}
