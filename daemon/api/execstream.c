/*
 * A command over a connection that speaks fcm-stream: frames (common/core/frame.h) of one stream, whose number is 1.
 *
 *	client	DATA and END on stdin; REQ op=signal (signal=N) and op=resize (rows=N cols=N)
 *	daemon	DATA and END on stdout and stderr; RES, the last: ok=1 and exit=N or signal=N, or error=text with code= and
 *		hint= as the API's errors have, or with exit=126 or 127 when it couldn't be run
 *
 * Nothing is kept beyond a frame in each direction: the client isn't read while the guest takes no more, and the guest gets
 * no credit while the client takes nothing. A client that closes its connection, or only its sending half, has left, and
 * the command with it; unlike in a tunnel an end of file means nothing else, for stdin has an END of its own.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/core/frame.h"
#include "common/core/kv.h"
#include "daemon/api/exec.h"

enum {
	STREAM = 1,
	OUT_MAX = FRAME_MAX, /* bytes that wait for the client before the guest is no longer read */
	LOG_MS = 20,	     /* between two looks at the log of a main process */
	GATHER_MS = 3000,    /* for the last of its output to come there */
	LAST_MS = 30000,     /* for the client to take the rest when it is over */
};

struct relay {
	struct exec *e;
	int fd;
	struct buf in;	/* what the client sent */
	size_t written; /* of the payload of the first frame in it */
	bool stuck;	/* that frame waits for the guest */
	struct buf out;
	bool over; /* RES is in `out` */
	int64_t give_up;
	int64_t ended_at; /* of a main process: clock_ms(), or 0 */
};

/* ---- the end ---- */

static void finish(struct relay *r, const struct buf *kv)
{
	if (!r->over)
		frame_add(&r->out, STREAM, FRAME_RES, kv->p, kv->n);
	r->over = true;
	r->give_up = clock_in(LAST_MS);
}

static void finish_error(struct relay *r, const struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf kv = {0};

	kv_add(&kv, "error", err->msg);
	kv_add(&kv, "code", fcm_code_info(err->code)->wire);
	if (err->hint[0])
		kv_add(&kv, "hint", err->hint);
	finish(r, &kv);
}

static void finish_result(struct relay *r)
{
	_cleanup_(buf_done) struct buf kv = {0};
	struct exec_result result;
	struct fcm_error err;

	if (exec_result(r->e, &result, &err) < 0) {
		finish_error(r, &err);
		return;
	}
	if (result.error[0])
		kv_add(&kv, "error", result.error);
	else
		kv_add(&kv, "ok", "1");
	if (result.signal)
		kv_addf(&kv, "signal", "%d", result.signal);
	else
		kv_addf(&kv, "exit", "%d", result.exit);
	finish(r, &kv);
}

/* ---- the main process ---- */

/* What it printed since, as far as there is room. */
static void work_log(struct relay *r)
{
	auto_free char *data = xalloc(MAINLOG_RECORD);
	int dirfd = registry_dirfd(r->e->vm);
	struct mainlog_head head;

	while (!r->over && r->out.n < OUT_MAX && mainlog_next(&r->e->log, dirfd, &head, data))
		if (head.boot == r->e->boot)
			frame_add_data(&r->out, STREAM, (enum frame_channel)head.channel, data, head.n);
}

/* Has its VM ended, too? */
static bool vm_ended(const struct exec *e)
{
	registry_lock();
	bool ended = e->vm->view.exited.time != 0;
	registry_unlock();
	return ended;
}

/* How it ended, as the VM has it, or, until that has ended, as its agent said. */
static bool read_exited(const struct exec *e, uint32_t *ret)
{
	registry_lock();
	const struct vm_view *v = &e->vm->view;
	int said = e->vm->main_exit;
	bool same = (uint64_t)v->boots == e->boot;
	*ret = v->exited.time ? v->exited.code : (uint32_t)MAX(said, 0);
	bool known = same && (v->exited.time || said >= 0);
	registry_unlock();
	return known;
}

static void finish_main(struct relay *r)
{
	_cleanup_(buf_done) struct buf kv = {0};
	struct exec_result result;
	struct fcm_error err = {.code = FCM_GUEST};
	uint32_t code;

	if (r->e->stream && exec_result(r->e, &result, &err) == 0)
		code = (uint32_t)result.exit;
	else if (!read_exited(r->e, &code)) {
		if (err.msg[0] == '\0')
			fcm_fail(&err, FCM_GUEST, "nobody knows how the main process of '%s' ended",
				r->e->vm->view.name);
		finish_error(r, &err);
		return;
	}
	kv_add(&kv, "ok", "1");
	kv_addf(&kv, "exit", "%u", code);
	finish(r, &kv);
}

/* It has ended, or its VM has: finish when all its output is there. */
static void end_main(struct relay *r)
{
	if (r->ended_at == 0)
		r->ended_at = clock_ms();
	if (!r->e->vm->main_over && !vm_ended(r->e) && clock_ms() < r->ended_at + GATHER_MS)
		return;
	if (r->out.n >= OUT_MAX)
		return;
	work_log(r);
	if (r->out.n < OUT_MAX)
		finish_main(r);
}

/* The same as work_out() for it. */
static bool work_main(struct relay *r, struct guest_piece *piece)
{
	enum guest_read read = r->e->stream ? GUEST_END : GUEST_RESULT;

	work_log(r);
	while (read == GUEST_END || read == GUEST_DATA)
		read = guest_stream_read(r->e->stream, piece);
	bool more = r->out.n >= OUT_MAX;
	if (!r->over && read != GUEST_LATER)
		end_main(r);
	return more && !r->over;
}

/* ---- from the client ---- */

static bool refuse(struct relay *r, const char *what)
{
	struct fcm_error err;

	fcm_fail(&err, FCM_BAD_REQUEST, "%s", what);
	finish_error(r, &err);
	return true;
}

/* A request goes on in our own words. */
static bool take_request(struct relay *r, const struct frame *f)
{
	_cleanup_(buf_done) struct buf kv = {0};
	const char *op = kv_get(f->payload, f->len, "op");
	int64_t sig = kv_i64(f->payload, f->len, "signal", 1, 64, 0);
	int64_t rows = kv_i64(f->payload, f->len, "rows", 1, EXEC_MAX_ROWS, 0);
	int64_t cols = kv_i64(f->payload, f->len, "cols", 1, EXEC_MAX_ROWS, 0);

	kv_add(&kv, "op", op ? op : "");
	if (op && strcmp(op, "signal") == 0 && sig)
		kv_addf(&kv, "signal", "%d", (int)sig);
	else if (op && strcmp(op, "resize") == 0 && rows && cols) {
		kv_addf(&kv, "rows", "%d", (int)rows);
		kv_addf(&kv, "cols", "%d", (int)cols);
	} else
		return refuse(
			r, "a request on the stream is signal=1..64 or resize with rows and cols of 1..1000");
	return guest_stream_control(r->e->stream, &kv);
}

/* False: later. */
static bool take_frame(struct relay *r, const struct frame *f)
{
	if (f->stream != STREAM)
		return refuse(r, "a frame of another stream than 1");
	if (r->e->stream == NULL)
		return true; /* nobody is there to read it */
	if (f->type == FRAME_REQ)
		return take_request(r, f);
	if (f->channel != FRAME_STDIN || (f->type != FRAME_DATA && f->type != FRAME_END))
		return refuse(r, "a client sends DATA and END on channel 0, and REQ");
	if (f->type == FRAME_END)
		return guest_stream_end(r->e->stream);
	r->written += guest_stream_write(r->e->stream, f->payload + r->written, f->len - r->written);
	return r->written == f->len;
}

static void work_in(struct relay *r)
{
	struct frame f;
	ssize_t n = 0;
	size_t used = 0;

	r->stuck = false;
	while (!r->over && !r->stuck && r->in.n > used &&
		(n = frame_parse(r->in.p + used, r->in.n - used, &f)) > 0) {
		r->stuck = !take_frame(r, &f);
		if (r->stuck)
			break;
		r->written = 0;
		used += (size_t)n;
	}
	if (n < 0)
		refuse(r, "what came isn't a frame");
	buf_drop(&r->in, used);
}

static bool receive(struct relay *r)
{
	char chunk[FRAME_MAX];
	ssize_t n = recv(r->fd, chunk, sizeof chunk, MSG_DONTWAIT);

	if (n > 0)
		buf_add(&r->in, chunk, (size_t)n);
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

/* ---- to the client ---- */

/* Take from the guest what there is room for. False when that was all. */
static bool work_out(struct relay *r, struct guest_piece *piece)
{
	while (!r->over && r->out.n < OUT_MAX) {
		switch (guest_stream_read(r->e->stream, piece)) {
		case GUEST_LATER:
			return false;
		case GUEST_DATA:
			frame_add_data(&r->out, STREAM, piece->channel, piece->p, piece->n);
			break;
		case GUEST_END:
			frame_add_end(&r->out, STREAM, piece->channel);
			break;
		case GUEST_RESULT:
		case GUEST_BROKEN:
			finish_result(r);
			return false;
		}
	}
	return !r->over;
}

static bool send_some(struct relay *r)
{
	ssize_t n = r->out.n ? send(r->fd, r->out.p, r->out.n, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;

	if (n > 0)
		buf_drop(&r->out, (size_t)n);
	return n >= 0 || errno == EAGAIN || errno == EINTR;
}

/* ---- both ---- */

static int64_t next_look(const struct relay *r)
{
	int64_t deadline = r->over ? r->give_up : r->e->deadline;

	return r->e->attached ? MIN(deadline, clock_in(LOG_MS)) : deadline;
}

/* False when there is nobody left to talk to. */
static bool wait_round(struct relay *r)
{
	short in = !r->stuck && !r->over ? POLLIN : 0, out = r->out.n ? POLLOUT : 0;
	struct pollfd p[] = {
		{.fd = r->fd, .events = (short)(POLLRDHUP | in | out)},
		{.fd = r->over || !r->e->stream ? -1 : guest_stream_fd(r->e->stream), .events = POLLIN},
		{.fd = r->over ? -1 : http_stop_fd(), .events = POLLIN},
	};
	struct fcm_error err;
	int n = poll(p, ARRAY_SIZE(p), clock_left(next_look(r)));

	if (n < 0)
		return errno == EINTR;
	if (n == 0 && r->over && clock_left(r->give_up) == 0)
		return false;
	if (p[0].revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL))
		return false;
	if (n == 0 && !r->e->attached && exec_too_late(r->e, &err) < 0)
		finish_error(r, &err);
	if (p[2].revents &&
		fcm_fail(&err, FCM_UNAVAILABLE, "the daemon is stopping; the command was ended") < 0)
		finish_error(r, &err);
	return !(p[0].revents & POLLIN) || receive(r);
}

static void relay(struct relay *r)
{
	auto_free struct guest_piece *piece = xalloc(sizeof *piece);
	bool more;

	do {
		if (r->e->stream)
			guest_stream_clear(r->e->stream);
		work_in(r);
		do {
			more = r->e->attached ? work_main(r, piece) : work_out(r, piece);
			if (!send_some(r))
				return;
		} while (more && r->out.n < OUT_MAX);
	} while (!(r->over && r->out.n == 0) && wait_round(r));
}

/* `client` is -1 when the client left before the switch of protocols. */
static void run_stream(void *arg, int client, const void *extra, size_t n)
{
	struct relay r = {.e = arg, .fd = client};
	const int on = 1;

	if (client >= 0) {
		setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on,
			sizeof on); /* a unix socket has none to wait for */
		buf_add(&r.in, extra, n);
		relay(&r);
	}
	if (r.over)
		r.e->vm->offered = true;
	buf_done(&r.in);
	buf_done(&r.out);
	exec_free(r.e);
}

int exec_stream(struct request *rq, struct exec *e)
{
	return http_upgrade(rq, EXEC_PROTOCOL, run_stream, e);
}
