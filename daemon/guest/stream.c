/*
 * How it works. The loop's thread puts what a guest sends on a stream into the stream's two buffers, where the one who
 * reads the stream takes it; credit goes out as he does, so a buffer never holds more than a window. In the other direction
 * the writer is told how much the guest's credit and the session's queue have room for.
 *
 * Where the guest breaks the rules (more than it has credit for, something after an END, a channel that isn't its own) the
 * stream fails, and no other.
 *
 * A stream that is closed before its end stays in the list, without its buffers, until the agent has answered op=close:
 * what was on its way is then no noise, and the number isn't anybody else's. An agent that never answers has so many
 * streams less.
 */
#include "daemon/guest/stream.h"

#include <string.h>
#include <sys/eventfd.h>

#include "common/core/kv.h"

enum { OUT_CHANNELS = 2, GRANT = FRAME_WINDOW / 2 };

/* One of the program's outputs. */
struct output {
	struct buf bytes; /* not read yet */
	size_t room;	  /* bytes that the guest may still send */
	size_t taken;	  /* bytes that were read and not granted again */
	bool ended, said; /* nothing more comes; the reader knows */
};

struct guest_stream {
	LIST_ENTRY(guest_stream) entry;
	struct guest *guest;
	uint32_t number;
	uint32_t control; /* the request about this stream that isn't answered yet, or 0 */
	int wake;
	bool told;	    /* `wake` is readable */
	bool waits;	    /* for the session's queue */
	bool over;	    /* `result` is there */
	bool closed;	    /* by its user */
	bool lost;	    /* with its session: in no list any more */
	const char *broken; /* why, or NULL */
	struct output output[OUT_CHANNELS];
	enum frame_channel last; /* that was read */
	size_t credit;		 /* bytes that stdin takes */
	bool end_sent;
	struct buf result;
};

static void tell(struct guest_stream *s)
{
	if (s->told || s->closed)
		return;
	s->told = true;
	eventfd_write(s->wake, 1);
}

static void free_stream(struct guest_stream *s)
{
	for (size_t i = 0; i < OUT_CHANNELS; i++)
		buf_done(&s->output[i].bytes);
	buf_done(&s->result);
	fcm_closep(&s->wake);
	free(s);
}

static bool fail(struct guest_stream *s, const char *why)
{
	if (!s->over && !s->broken)
		s->broken = why;
	tell(s);
	return false;
}

/* ---- the session's side ---- */

struct guest_stream *stream_new(
	struct stream_list *all, struct guest *g, uint32_t number, struct fcm_error *err)
{
	struct guest_stream *s;
	size_t n = 0;

	LIST_FOREACH(s, all, entry)
	n++;
	if (n == STREAMS_MAX) {
		fcm_fail(err, FCM_UNAVAILABLE, "%d streams to the guest's agent are open", STREAMS_MAX);
		return NULL;
	}
	s = xalloc(sizeof *s);
	*s = (struct guest_stream){.guest = g, .number = number, .credit = FRAME_WINDOW};
	s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->wake < 0) {
		(void)!fcm_fail_errno(err, "eventfd");
		free(s);
		return NULL;
	}
	for (size_t i = 0; i < OUT_CHANNELS; i++)
		s->output[i].room = FRAME_WINDOW;
	LIST_INSERT_HEAD(all, s, entry);
	return s;
}

static struct guest_stream *find(struct stream_list *all, uint32_t number)
{
	struct guest_stream *s;

	LIST_FOREACH(s, all, entry)
	if (number && (s->number == number || s->control == number))
		return s;
	return NULL;
}

static void forget(struct guest_stream *s)
{
	LIST_REMOVE(s, entry);
	free_stream(s);
}

/* All of these say whether the frame was of any use. The answer to op=close comes after all that was sent on the stream. */
static bool take_answer(struct guest_stream *s, const struct frame *f)
{
	if (f->stream == s->control) {
		s->control = 0;
		if (s->closed)
			forget(s);
		else
			tell(s);
		return true;
	}
	if (s->closed || s->broken || s->over)
		return false;
	buf_add(&s->result, f->payload, f->len);
	s->over = true;
	tell(s);
	return true;
}

static bool take_data(struct guest_stream *s, struct output *o, const struct frame *f)
{
	if (o->ended || f->len > o->room)
		return fail(
			s, o->ended ? "it sent more after its end" : "it sent more than it was allowed to");
	o->room -= f->len;
	if (!s->closed)
		buf_add(&o->bytes, f->payload, f->len);
	tell(s);
	return f->len > 0;
}

static bool take_end(struct guest_stream *s, struct output *o)
{
	if (o->ended)
		return fail(s, "it sent an end twice");
	o->ended = true;
	tell(s);
	return true;
}

/* An honest agent grants what it has used up, so we never have more than a window. */
static bool take_credit(struct guest_stream *s, uint32_t bytes)
{
	if (bytes > FRAME_WINDOW - s->credit)
		return fail(s, "it granted more than it was sent");
	s->credit += bytes;
	tell(s);
	return bytes > 0;
}

bool stream_take(struct stream_list *all, const struct frame *f)
{
	struct guest_stream *s = find(all, f->stream);

	if (s == NULL)
		return false;
	if (f->type == FRAME_RES)
		return take_answer(s, f);
	if (f->stream != s->number || s->over || s->broken)
		return false;
	if ((f->type == FRAME_CREDIT) != (f->channel == FRAME_STDIN))
		return fail(s, "it sent on a channel that isn't its own");
	if (f->type == FRAME_CREDIT)
		return take_credit(s, frame_credit(f));
	struct output *o = &s->output[f->channel - FRAME_STDOUT];
	return f->type == FRAME_DATA ? take_data(s, o, f) : take_end(s, o);
}

void stream_wake(struct stream_list *all)
{
	struct guest_stream *s;

	LIST_FOREACH(s, all, entry)
	if (s->waits) {
		s->waits = false;
		tell(s);
	}
}

void stream_fail_all(struct stream_list *all)
{
	for (struct guest_stream *s = LIST_FIRST(all), *next; s; s = next) {
		next = LIST_NEXT(s, entry);
		if (s->closed) {
			forget(s);
			continue;
		}
		LIST_REMOVE(s, entry);
		s->lost = true;
		fail(s, "it went away");
	}
}

/* ---- the user's side ---- */

int guest_stream_fd(const struct guest_stream *s)
{
	return s->wake;
}

void guest_stream_clear(struct guest_stream *s)
{
	eventfd_t value;

	guest_lock(s->guest);
	eventfd_read(s->wake, &value);
	s->told = false;
	guest_unlock(s->guest);
}

/* The session's queue when the stream may put something into it, else NULL; the stream is told when it may. */
static struct buf *room_for(struct guest_stream *s)
{
	struct buf *out = s->over || s->broken ? NULL : guest_out(s->guest);

	s->waits = out && out->n >= STREAM_OUT_MAX;
	return s->waits ? NULL : out;
}

static bool is_open(const struct guest_stream *s)
{
	return !s->over && !s->broken && !s->end_sent;
}

size_t guest_stream_write(struct guest_stream *s, const void *p, size_t n)
{
	size_t done = 0;
	struct buf *out;

	guest_lock(s->guest);
	if (!is_open(s))
		done = n;
	while (done < n && s->credit && (out = room_for(s))) {
		size_t piece = MIN(MIN(n - done, s->credit), (size_t)FRAME_MAX);
		frame_add_data(out, s->number, FRAME_STDIN, (const char *)p + done, piece);
		s->credit -= piece;
		done += piece;
		guest_flush(s->guest);
	}
	guest_unlock(s->guest);
	return done;
}

bool guest_stream_end(struct guest_stream *s)
{
	guest_lock(s->guest);
	struct buf *out = is_open(s) ? room_for(s) : NULL;
	if (out) {
		frame_add_end(out, s->number, FRAME_STDIN);
		s->end_sent = true;
		guest_flush(s->guest);
	}
	bool done = !is_open(s);
	guest_unlock(s->guest);
	return done;
}

static void add_control(struct guest_stream *s, struct buf *out, const char *kv, size_t n)
{
	_cleanup_(buf_done) struct buf b = {0};

	buf_add(&b, kv, n);
	kv_addf(&b, "stream", "%u", s->number);
	s->control = guest_number(s->guest);
	frame_add(out, s->control, FRAME_REQ, b.p, b.n);
	guest_flush(s->guest);
}

bool guest_stream_control(struct guest_stream *s, const struct buf *request)
{
	bool done = true;

	guest_lock(s->guest);
	if (!s->over && !s->broken) {
		struct buf *out = s->control ? NULL : room_for(s);
		if (out)
			add_control(s, out, request->p, request->n);
		done = out != NULL;
	}
	guest_unlock(s->guest);
	return done;
}

/* The next output that has something to say; turn about, so that neither keeps the other waiting. */
static struct output *next_output(struct guest_stream *s, enum frame_channel *ret)
{
	for (int i = 0; i < OUT_CHANNELS; i++) {
		enum frame_channel c = s->last == FRAME_STDOUT ? FRAME_STDERR : FRAME_STDOUT;
		struct output *o = &s->output[c - 1];
		s->last = c;
		if (o->bytes.n || ((o->ended || s->over) && !o->said && !s->broken)) {
			*ret = c;
			return o;
		}
	}
	return NULL;
}

/* Let the guest send as much again as was read. */
static void grant(struct guest_stream *s, struct output *o, enum frame_channel channel)
{
	struct buf *out = o->taken < GRANT || o->ended ? NULL : room_for(s);

	if (out == NULL)
		return;
	frame_add_credit(out, s->number, channel, (uint32_t)o->taken);
	o->room += o->taken;
	o->taken = 0;
	guest_flush(s->guest);
}

static enum guest_read read_locked(struct guest_stream *s, struct guest_piece *ret)
{
	struct output *o = next_output(s, &ret->channel);

	ret->n = 0;
	if (o == NULL)
		return s->broken ? GUEST_BROKEN : s->over ? GUEST_RESULT : GUEST_LATER;
	if (o->bytes.n == 0) {
		o->said = true;
		return GUEST_END;
	}
	ret->n = MIN(o->bytes.n, sizeof ret->p);
	memcpy(ret->p, o->bytes.p, ret->n);
	buf_drop(&o->bytes, ret->n);
	o->taken += ret->n;
	return GUEST_DATA;
}

enum guest_read guest_stream_read(struct guest_stream *s, struct guest_piece *ret)
{
	guest_lock(s->guest);
	enum guest_read r = read_locked(s, ret);
	for (size_t i = 0; i < OUT_CHANNELS; i++)
		grant(s, &s->output[i], FRAME_STDOUT + i);
	guest_unlock(s->guest);
	return r;
}

int guest_stream_result(struct guest_stream *s, const struct buf **ret, struct fcm_error *err)
{
	guest_lock(s->guest);
	bool over = s->over;
	const char *broken = s->broken;
	guest_unlock(s->guest);
	if (!over)
		return fcm_fail(
			err, FCM_GUEST, "the guest's agent failed: %s", broken ? broken : "no result yet");
	*ret = &s->result;
	return 0;
}

void guest_stream_close(struct guest_stream *s)
{
	if (s == NULL)
		return;
	struct guest *g = s->guest;
	guest_lock(g);
	/* Not bounded by room_for(), for it must go out; opening streams is. */
	struct buf *out = s->over || s->lost ? NULL : guest_out(g);
	if (out) {
		static const char close_op[] = "op=close";
		s->closed = true;
		fcm_closep(&s->wake);
		s->wake = -1;
		for (size_t i = 0; i < OUT_CHANNELS; i++)
			buf_done(&s->output[i].bytes);
		add_control(s, out, close_op, sizeof close_op);
	} else if (s->lost) {
		free_stream(s);
	} else {
		forget(s);
	}
	guest_unlock(g);
	guest_unref(g);
}
