#include "client/execio.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "client/ending.h"
#include "client/session.h"
#include "client/term.h"
#include "common/core/frame.h"
#include "common/core/kv.h"
#include "common/model.h"

enum { STREAM = 1, PIECE = FRAME_MAX / 2 };
enum { KEY_HOLD = 0x10, KEY_LEAVE = 0x11 }; /* ^P ^Q, as docker has it */

/* Signals, besides those that end a program. But for the last they are the command's. */
static const int others[] = {SIGUSR1, SIGUSR2, SIGWINCH};

struct relay {
	struct exec_io *io;
	int signals;
	bool in_open;
	unsigned interrupts;
	bool held;	 /* the first of the two keys that detach */
	struct buf up;	 /* frames for the daemon */
	struct buf down; /* what came from it */
	size_t written;	 /* of the payload of the first frame in `down` */
	bool lost;	 /* nothing more comes */
	int status;	 /* or -1 */
};

/* ---- to the daemon ---- */

static void add_request(struct relay *r, const struct buf *kv)
{
	frame_add(&r->up, STREAM, FRAME_REQ, kv->p, kv->n);
}

static void forward(struct relay *r, int number)
{
	_cleanup_(buf_done) struct buf kv = {0};

	kv_add(&kv, "op", "signal");
	kv_addf(&kv, "signal", "%d", number);
	add_request(r, &kv);
}

static void resize(struct relay *r)
{
	_cleanup_(buf_done) struct buf kv = {0};
	uint32_t rows, cols;

	if (!r->io->tty || !term_size(STDOUT_FILENO, &rows, &cols))
		return;
	kv_add(&kv, "op", "resize");
	kv_addf(&kv, "rows", "%" PRIu32, MIN(rows, (uint32_t)EXEC_MAX_ROWS));
	kv_addf(&kv, "cols", "%" PRIu32, MIN(cols, (uint32_t)EXEC_MAX_ROWS));
	add_request(r, &kv);
}

/* A signal came. The second ^C is for those whose command doesn't listen to the first. */
static void take_signal(struct relay *r)
{
	struct signalfd_siginfo info;

	if (read(r->signals, &info, sizeof info) != sizeof info)
		return;
	int number = (int)info.ssi_signo;
	if (number == SIGWINCH)
		resize(r);
	else if (r->io->raw || (number == SIGINT && r->interrupts++))
		r->status = 128 + number;
	else
		forward(r, number);
}

/* Keys for a program that we may leave. */
static void take_keys(struct relay *r, const char *keys, size_t n)
{
	_cleanup_(buf_done) struct buf b = {0};

	for (size_t i = 0; i < n && !r->io->detached; i++) {
		r->io->detached = r->held && keys[i] == KEY_LEAVE;
		if (r->io->detached)
			r->status = 0;
		if (r->held && !r->io->detached)
			buf_add(&b, &(const char){KEY_HOLD}, 1);
		r->held = !r->held && keys[i] == KEY_HOLD;
		if (!r->held && !r->io->detached)
			buf_add(&b, &keys[i], 1);
	}
	if (b.n)
		frame_add_data(&r->up, STREAM, FRAME_STDIN, b.p, b.n);
}

static int take_input(struct relay *r, struct fcm_error *err)
{
	char piece[PIECE];
	ssize_t n = read(STDIN_FILENO, piece, sizeof piece);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < 0)
		return fcm_fail_errno(err, "read");
	r->in_open = n > 0;
	if (n > 0 && r->io->attached && r->io->raw)
		take_keys(r, piece, (size_t)n);
	else if (n > 0)
		frame_add_data(&r->up, STREAM, FRAME_STDIN, piece, (size_t)n);
	else
		frame_add_end(&r->up, STREAM, FRAME_STDIN);
	return 0;
}

/* One that takes nothing more may still have said why. */
static void send_some(struct relay *r)
{
	while (r->up.n) {
		ssize_t n = httpc_tunnel_send(r->io->tunnel, r->up.p, r->up.n);
		if (n < 0 && errno != EAGAIN && errno != EINTR) {
			r->in_open = false;
			buf_done(&r->up);
		}
		if (n <= 0)
			return;
		buf_drop(&r->up, (size_t)n);
	}
}

/* ---- from the daemon ---- */

static void drop_frame(struct relay *r, const struct frame *f)
{
	buf_drop(&r->down, FRAME_HEADER + f->len);
	r->written = 0;
}

static int fail_remote(const char *error, const char *code, const char *hint, struct fcm_error *err)
{
	fcm_fail(err, fcm_code_from_wire(code ? code : ""), "%s", error);
	if (hint)
		fcm_hint(err, "%s", hint);
	fcm_make_printable(err->msg);
	fcm_make_printable(err->hint);
	return -1;
}

static int take_result(struct relay *r, const struct frame *f, struct fcm_error *err)
{
	const char *error = kv_get(f->payload, f->len, "error");
	int64_t code = kv_i64(f->payload, f->len, "exit", 0, 255, -1);
	int64_t sig = kv_i64(f->payload, f->len, "signal", 1, 64, 0);

	if (code < 0 && sig == 0)
		return fail_remote(error ? error : "the command has no exit status",
			kv_get(f->payload, f->len, "code"), kv_get(f->payload, f->len, "hint"), err);
	if (error) {
		auto_free char *text = xstrdup(error);
		fcm_make_printable(text);
		fprintf(stderr, "fcm: %s\n", text);
	}
	r->status = sig ? 128 + (int)sig : (int)code;
	return 0;
}

/* The first frame in `down` that is for us: DATA or RES. Returns 1, 0 when there is none yet, -1. */
static int first_frame(struct relay *r, struct frame *f, struct fcm_error *err)
{
	ssize_t n;

	while ((n = frame_parse(r->down.p, r->down.n, f)) > 0) {
		bool output = f->type == FRAME_DATA && f->channel != FRAME_STDIN && f->len;
		if (output || f->type == FRAME_RES)
			return 1;
		drop_frame(r, f);
	}
	if (n < 0)
		return fcm_fail(err, FCM_UNAVAILABLE, "the daemon sent what makes no sense");
	if (r->lost)
		return fcm_fail(err, FCM_UNAVAILABLE, "the daemon went away%s",
			r->io->attached ? "; the VM runs on" : ", and the command with it");
	return 0;
}

static int write_some(struct relay *r, const struct frame *f, struct fcm_error *err)
{
	ssize_t n = session_write(f->channel, (const char *)f->payload + r->written, f->len - r->written);

	if (n < 0 && errno != EAGAIN && errno != EINTR)
		return fcm_fail_errno(err, "write");
	r->written += n > 0 ? (size_t)n : 0;
	if (r->written == f->len)
		drop_frame(r, f);
	return 0;
}

/* Read on unless a whole frame is there. */
static void receive(struct relay *r)
{
	char piece[PIECE];
	struct frame f;

	while (!r->lost && frame_parse(r->down.p, r->down.n, &f) == 0) {
		ssize_t n = httpc_tunnel_recv(r->io->tunnel, piece, sizeof piece);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		r->lost = n <= 0;
		if (n > 0)
			buf_add(&r->down, piece, (size_t)n);
	}
}

/* ---- both ---- */

static int work(struct relay *r, struct fcm_error *err)
{
	struct frame f;

	send_some(r);
	receive(r);
	int have = first_frame(r, &f, err);
	if (have < 0)
		return -1;
	if (have && f.type == FRAME_RES)
		return take_result(r, &f, err);
	short tunnel = (short)((have ? 0 : POLLIN) | (r->up.n ? POLLOUT : 0));
	struct pollfd p[] = {
		{.fd = r->signals, .events = POLLIN},
		{.fd = have ? f.channel : -1, .events = POLLOUT},
		{.fd = r->in_open && r->up.n == 0 ? STDIN_FILENO : -1, .events = POLLIN},
		{.fd = tunnel ? httpc_tunnel_fd(r->io->tunnel) : -1, .events = tunnel},
	};
	if (poll(p, ARRAY_SIZE(p), -1) < 0)
		return errno == EINTR ? 0 : fcm_fail_errno(err, "poll");
	if (p[0].revents)
		take_signal(r);
	if (p[1].revents && write_some(r, &f, err) < 0)
		return -1;
	return p[2].revents ? take_input(r, err) : 0;
}

static int relay_all(struct exec_io *io, int *ret_status, struct fcm_error *err)
{
	struct relay r = {.io = io, .in_open = io->with_stdin, .status = -1};
	sigset_t ours, before;
	int rc = 0;

	ending_signals(&ours);
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		sigaddset(&ours, others[i]);
	sigprocmask(SIG_BLOCK, &ours, &before);
	auto_close int signals = signalfd(-1, &ours, SFD_CLOEXEC);
	if (signals < 0)
		return fcm_fail_errno(err, "signalfd");
	r.signals = signals;
	if (io->attached)
		resize(&r);
	while (rc == 0 && r.status < 0)
		rc = work(&r, err);
	buf_done(&r.up);
	buf_done(&r.down);
	sigprocmask(SIG_SETMASK, &before, NULL);
	*ret_status = r.status;
	return rc;
}

int exec_io_open(struct api *api, const char *path, const field_json *body, struct exec_io *io,
	int *ret_status, struct fcm_error *err)
{
	if (api_upgrade(api, path, body, "fcm-stream", &io->tunnel, err) < 0)
		return -1;
	if (io->raw)
		signal(SIGPIPE, SIG_IGN); /* it would leave the terminal raw */
	int r = io->raw ? term_raw(STDIN_FILENO, false, err) : 0;
	if (r == 0)
		r = relay_all(io, ret_status, err);
	term_raw_end();
	httpc_tunnel_free(io->tunnel);
	return r;
}
