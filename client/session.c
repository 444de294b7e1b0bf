#include "client/session.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PIECE = 65536 };

/* Bytes on their way in one direction. */
struct flow {
	char p[PIECE];
	size_t start, end;
	bool eof, closed; /* nothing more comes; the other side knows */
};

struct relay {
	struct httpc_tunnel *tunnel;
	int in, out;
	struct flow up, down;
};

static bool flow_empty(const struct flow *f)
{
	return f->start == f->end;
}

/* After a call that moved n bytes into an empty flow, or failed with errno. */
static int flow_got(struct flow *f, ssize_t n, const char *what, struct fcm_error *err)
{
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < 0)
		return fcm_fail_errno(err, "%s", what);
	f->start = 0;
	f->end = (size_t)n;
	f->eof = n == 0;
	return 0;
}

static int flow_sent(struct flow *f, ssize_t n, const char *what, struct fcm_error *err)
{
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		return fcm_fail_errno(err, "%s", what);
	f->start += n > 0 ? (size_t)n : 0;
	return 0;
}

/* Write without blocking and without O_NONBLOCK, which would also change the flags for others that share this pipe or
 * terminal: poll(2) said that there is room, and then PIPE_BUF bytes of a pipe don't block (pipe(7)). */
static ssize_t write_some(int fd, const char *p, size_t n)
{
	ssize_t r = send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);

	return r < 0 && errno == ENOTSOCK ? write(fd, p, MIN(n, (size_t)PIPE_BUF)) : r;
}

static int move_up(struct relay *r, bool readable, struct fcm_error *err)
{
	if (flow_empty(&r->up) && !r->up.eof && readable &&
		flow_got(&r->up, read(r->in, r->up.p, PIECE), "read", err) < 0)
		return -1;
	if (!flow_empty(&r->up)) {
		ssize_t n = httpc_tunnel_send(r->tunnel, r->up.p + r->up.start, r->up.end - r->up.start);
		if (flow_sent(&r->up, n, "send to the VM", err) < 0)
			return -1;
	}
	if (flow_empty(&r->up) && r->up.eof && !r->up.closed) {
		httpc_tunnel_shutdown(r->tunnel);
		r->up.closed = true;
	}
	return 0;
}

static int move_down(struct relay *r, bool writable, struct fcm_error *err)
{
	if (!flow_empty(&r->down) && writable &&
		flow_sent(&r->down,
			write_some(r->out, r->down.p + r->down.start, r->down.end - r->down.start), "write",
			err) < 0)
		return -1;
	if (flow_empty(&r->down) && !r->down.eof)
		return flow_got(
			&r->down, httpc_tunnel_recv(r->tunnel, r->down.p, PIECE), "receive from the VM", err);
	return 0;
}

/* Wait for what the next round needs: input when there is room for it, output when something waits. */
static void wait_round(struct relay *r, struct pollfd p[3])
{
	short tunnel = (short)((flow_empty(&r->down) ? POLLIN : 0) | (flow_empty(&r->up) ? 0 : POLLOUT));

	p[0] = (struct pollfd){.fd = flow_empty(&r->up) && !r->up.eof ? r->in : -1, .events = POLLIN};
	p[1] = (struct pollfd){.fd = flow_empty(&r->down) ? -1 : r->out, .events = POLLOUT};
	p[2] = (struct pollfd){.fd = tunnel ? httpc_tunnel_fd(r->tunnel) : -1, .events = tunnel};
	while (poll(p, 3, -1) < 0 && errno == EINTR)
		;
}

int session_relay(struct httpc_tunnel *t, int in, int out, struct fcm_error *err)
{
	auto_free struct relay *r = xalloc(sizeof *r);
	struct pollfd p[3] = {0};

	r->tunnel = t;
	r->in = in;
	r->out = out;
	for (;;) {
		if (move_up(r, p[0].revents, err) < 0 || move_down(r, p[1].revents, err) < 0)
			return -1;
		if (r->down.eof)
			return 0;
		wait_round(r, p);
	}
}
