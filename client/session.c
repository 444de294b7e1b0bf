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
	const struct session *s;
	struct httpc_tunnel *tunnel;
	bool left;
	struct flow up, down;
};

static bool flow_empty(const struct flow *f)
{
	return f->start == f->end;
}

/* Can more be put in? Keys are taken while others wait, or one couldn't leave a VM that reads none. */
static bool flow_has_room(const struct flow *f)
{
	return !f->eof && f->end < PIECE;
}

/* After a call that put n bytes behind what the flow has, or failed with errno. */
static int flow_got(struct flow *f, ssize_t n, const char *what, struct fcm_error *err)
{
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < 0)
		return fcm_fail_errno(err, "%s", what);
	f->end += (size_t)n;
	f->eof = n == 0;
	return 0;
}

static int flow_sent(struct flow *f, ssize_t n, const char *what, struct fcm_error *err)
{
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		return fcm_fail_errno(err, "%s", what);
	f->start += n > 0 ? (size_t)n : 0;
	if (flow_empty(f))
		f->start = f->end = 0;
	return 0;
}

/* PIPE_BUF bytes of a pipe don't block then (pipe(7)). */
ssize_t session_write(int fd, const char *p, size_t n)
{
	ssize_t r = send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);

	return r < 0 && errno == ENOTSOCK ? write(fd, p, MIN(n, (size_t)PIPE_BUF)) : r;
}

/* Of what was typed, from byte `begin` of the flow on, keep what comes before the key that leaves. */
static void keep_keys(struct relay *r, size_t begin)
{
	struct flow *f = &r->up;
	const char *key = NULL;

	if (r->s->leave != SESSION_NO_KEY)
		key = memchr(f->p + begin, r->s->leave, f->end - begin);
	if (key)
		f->end = (size_t)(key - f->p);
	if (r->s->mute)
		f->end = begin;
	r->left = key != NULL;
}

static int move_up(struct relay *r, bool readable, struct fcm_error *err)
{
	if (readable && flow_has_room(&r->up)) {
		size_t begin = r->up.end;
		if (flow_got(&r->up, read(r->s->in, r->up.p + begin, PIECE - begin), "read", err) < 0)
			return -1;
		keep_keys(r, begin);
	}
	if (!flow_empty(&r->up)) {
		ssize_t n = httpc_tunnel_send(r->tunnel, r->up.p + r->up.start, r->up.end - r->up.start);
		if (flow_sent(&r->up, n, "send to the VM", err) < 0)
			return -1;
	}
	if (flow_empty(&r->up) && r->up.eof && !r->up.closed) {
		if (r->s->quiet_ms == 0)
			httpc_tunnel_shutdown(r->tunnel);
		r->up.closed = true;
	}
	return 0;
}

static int move_down(struct relay *r, bool writable, struct fcm_error *err)
{
	if (!flow_empty(&r->down) && writable &&
		flow_sent(&r->down,
			session_write(r->s->out, r->down.p + r->down.start, r->down.end - r->down.start),
			"write", err) < 0)
		return -1;
	if (flow_empty(&r->down) && !r->down.eof)
		return flow_got(
			&r->down, httpc_tunnel_recv(r->tunnel, r->down.p, PIECE), "receive from the VM", err);
	return 0;
}

/* Wait for what the next round needs: input when there is room for it, output when something waits. False when it was
 * quiet for so long that we leave. */
static bool wait_round(struct relay *r, struct pollfd p[3])
{
	short tunnel = (short)((flow_empty(&r->down) ? POLLIN : 0) | (flow_empty(&r->up) ? 0 : POLLOUT));

	p[0] = (struct pollfd){.fd = flow_has_room(&r->up) ? r->s->in : -1, .events = POLLIN};
	p[1] = (struct pollfd){.fd = flow_empty(&r->down) ? -1 : r->s->out, .events = POLLOUT};
	p[2] = (struct pollfd){.fd = tunnel ? httpc_tunnel_fd(r->tunnel) : -1, .events = tunnel};
	int n, patience = r->up.closed && r->s->quiet_ms ? r->s->quiet_ms : -1;
	while ((n = poll(p, 3, patience)) < 0 && errno == EINTR)
		;
	return n > 0;
}

int session_run(const struct session *s, struct httpc_tunnel *t, struct fcm_error *err)
{
	auto_free struct relay *r = xalloc(sizeof *r);
	struct pollfd p[3] = {0};

	r->s = s;
	r->tunnel = t;
	for (;;) {
		if (move_up(r, p[0].revents, err) < 0 || move_down(r, p[1].revents, err) < 0)
			return -1;
		if (r->left)
			return SESSION_LEFT;
		if (r->down.eof)
			return SESSION_ENDED;
		if (!wait_round(r, p))
			return SESSION_LEFT;
	}
}
