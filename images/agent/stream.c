#include "images/agent/stream.h"

#include <errno.h>
#include <string.h>

#include "common/core/clock.h"

enum {
	GRANT_MIN = FRAME_WINDOW /
		    2, /* bytes of stdin that one CREDIT gives back, so that not each keystroke costs one */
	TTY_EOF = 4,   /* ^D, VEOF of a new terminal: termios(3) */
};

struct stream *stream_new(uint32_t number)
{
	struct stream *s = xalloc(sizeof *s);

	*s = (struct stream){.number = number,
		.report = -1,
		.peer = -1,
		.fd = {-1, -1, -1},
		.credit = {FRAME_WINDOW, FRAME_WINDOW, FRAME_WINDOW}};
	return s;
}

void stream_free(struct stream *s)
{
	if (s == NULL)
		return;
	for (unsigned i = 0; i < STREAM_CHANNELS; i++)
		fcm_closep(&s->fd[i]);
	fcm_closep(&s->report);
	fcm_closep(&s->peer);
	buf_done(&s->in);
	free(s);
}

static bool can_read(const struct stream *s, unsigned i, const struct channel *c)
{
	return s->credit[i] > 0 && c->out.n == 0;
}

short stream_events(struct stream *s, unsigned i, const struct channel *c)
{
	if (s->fd[i] < 0)
		return 0;
	if (i == FRAME_STDIN)
		return s->in.n > 0 ? POLLOUT : 0;
	if (can_read(s, i, c))
		return POLLIN;
	s->heard = clock_ms();
	return 0;
}

/* ---- stdin ---- */

/* After its end no more can come, and a ^D of ours mustn't be granted. */
static void drop_in(struct stream *s, size_t n, struct channel *c)
{
	buf_drop(&s->in, n);
	s->used += n;
	if (s->used < GRANT_MIN || s->in_ended)
		return;
	frame_add_credit(&c->out, s->number, FRAME_STDIN, (uint32_t)s->used);
	channel_flush(c);
	s->credit[FRAME_STDIN] += s->used;
	s->used = 0;
}

/* Write what the program takes; not before it runs, for a ^C would find nobody in the foreground of its terminal. Where nobody
 * reads it is used up all the same. */
static void write_in(struct stream *s, struct channel *c)
{
	if (s->report >= 0)
		return;
	while (s->in.n > 0 && s->fd[FRAME_STDIN] >= 0) {
		ssize_t n = write(s->fd[FRAME_STDIN], s->in.p, s->in.n);
		if (n < 0 && errno == EAGAIN)
			return;
		if (n > 0)
			drop_in(s, (size_t)n, c);
		else if (errno != EINTR)
			fcm_closep(&s->fd[FRAME_STDIN]);
	}
	drop_in(s, s->in.n, c);
	if (s->in_ended)
		fcm_closep(&s->fd[FRAME_STDIN]);
}

/* A terminal can't be closed on one side; its user types ^D. */
static void end_in(struct stream *s, struct channel *c)
{
	static const char eof = TTY_EOF;

	if (s->tty && !s->in_ended)
		buf_add(&s->in, &eof, 1);
	s->in_ended = true;
	write_in(s, c);
}

static bool take_data(struct stream *s, const struct frame *f, struct channel *c)
{
	if (f->len > s->credit[FRAME_STDIN])
		return false;
	s->credit[FRAME_STDIN] -= f->len;
	buf_add(&s->in, f->payload, f->len);
	write_in(s, c);
	return true;
}

bool stream_take(struct stream *s, const struct frame *f, struct channel *c)
{
	bool is_stdin = f->channel == FRAME_STDIN;

	if (f->type == FRAME_DATA)
		return is_stdin && take_data(s, f, c);
	if (f->type == FRAME_END && is_stdin)
		end_in(s, c);
	if (f->type == FRAME_CREDIT && !is_stdin)
		s->credit[f->channel] = MIN(s->credit[f->channel] + frame_credit(f), UINT32_MAX);
	return true;
}

/* ---- output ---- */

static void end_out(struct stream *s, unsigned i, struct channel *c)
{
	fcm_closep(&s->fd[i]);
	frame_add_end(&c->out, s->number, (enum frame_channel)i);
	channel_flush(c);
}

/* The master of a terminal that nobody has open any more fails with EIO: pty(7), tty_io.c. */
static void read_out(struct stream *s, unsigned i, struct channel *c)
{
	static char chunk[STREAM_READ_MAX];

	if (!can_read(s, i, c))
		return;
	ssize_t n = read(s->fd[i], chunk, MIN(sizeof chunk, s->credit[i]));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		end_out(s, i, c);
		return;
	}
	s->credit[i] -= (size_t)n;
	s->heard = clock_ms();
	frame_add_data(&c->out, s->number, (enum frame_channel)i, chunk, (size_t)n);
	channel_flush(c);
}

void stream_serve(struct stream *s, unsigned i, struct channel *c)
{
	if (i == FRAME_STDIN)
		write_in(s, c);
	else if (s->fd[i] >= 0)
		read_out(s, i, c);
}

static bool output_open(const struct stream *s)
{
	return s->fd[FRAME_STDOUT] >= 0 || s->fd[FRAME_STDERR] >= 0;
}

int64_t stream_deadline(const struct stream *s)
{
	return s->ended && output_open(s) ? s->heard + STREAM_QUIET_MS : FCM_FOREVER;
}

/* A look at what is there: it may be we who were busy so long, and not the program that was silent. */
static bool is_silent(struct stream *s, unsigned i, struct channel *c)
{
	int64_t before = s->heard;

	if (!can_read(s, i, c))
		s->heard = clock_ms();
	else
		read_out(s, i, c);
	return s->fd[i] >= 0 && s->heard == before;
}

bool stream_drain(struct stream *s, struct channel *c)
{
	for (unsigned i = FRAME_STDOUT; i < STREAM_CHANNELS; i++)
		if (s->fd[i] >= 0 && clock_ms() >= stream_deadline(s) && is_silent(s, i, c))
			end_out(s, i, c);
	return s->ended && !output_open(s);
}
