/*
 * How it works. One descriptor and one timer on the loop. The loop's thread reads, and hands answers to the
 * threads that wait in guest_call(); any thread writes, without blocking, and what the channel doesn't take
 * at once waits in a bounded buffer for EPOLLOUT.
 *
 * A session: `greeting` repeats HELLO with a nonce and throws away what it reads until that HELLO comes back;
 * then it is `up`. Bytes that aren't a frame end the session: calls in progress fail, and a new one begins
 * with another nonce, a few times; an end of file, or one broken session too many, makes it `lost`, which is
 * final.
 *
 * A guest that talks without being asked costs little: a wakeup reads at most READ_MAX bytes, and after
 * NOISE_MAX bytes of no use nothing is read until the next tick.
 *
 * `lock` guards everything; it isn't held while an event handler of the engine's runs. It may be held when
 * the loop's own lock is taken, never the other way round.
 */
#include "daemon/guest/guest.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/core/kv.h"
#include "daemon/guest/intake.h"
#include "daemon/guest/stream.h"
#include "daemon/loop.h"

enum {
	CALLS = 64,		   /* requests in progress */
	OUT_MAX = 8 * FRAME_MAX,   /* bytes that wait for the channel */
	READ_MAX = 2 * FRAME_MAX,  /* bytes read a wakeup */
	NOISE_MAX = 4 * FRAME_MAX, /* bytes of no use read a tick */
	SESSIONS = 5,
	/* Longer than the silence after which the agent drops a partial frame: a daemon that was killed in the middle
	 * of one may have left it behind. */
	TICK_MS = FRAME_SILENCE_MS + 100,
};

struct call {
	uint32_t stream; /* 0: free */
	bool done, failed;
	struct buf answer;
};

struct guest {
	struct loop *loop;
	struct loop_source *source, *timer;
	int fd;
	struct guest_events events;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* state, a call, or users */
	enum { GREETING, UP, LOST } state;
	struct guest_hello hello;
	unsigned sessions; /* begun so far */
	unsigned users;	   /* threads inside guest_hello(), guest_call() and guest_stream_open() */
	atomic_uint refs;  /* guest_ref(), and one until guest_close() */
	struct intake in;
	struct buf out;
	size_t noise;
	bool paused, closing;
	uint32_t last_stream;
	struct call calls[CALLS];
	struct stream_list streams;
};

/* All functions from here to the next ruler are called with the lock held. */

static void watch(struct guest *g)
{
	loop_change(g->source, (g->paused ? 0 : EPOLLIN) | (g->out.n ? EPOLLOUT : 0));
}

static void flush(struct guest *g)
{
	while (g->out.n) {
		ssize_t n = send(g->fd, g->out.p, g->out.n, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN) {
			shutdown(g->fd, SHUT_RDWR); /* the loop's thread sees the end and says `lost` */
			buf_done(&g->out);
		}
		if (n < 0)
			break;
		buf_drop(&g->out, (size_t)n);
	}
	if (g->out.n == 0)
		buf_done(&g->out);
	if (g->out.n < STREAM_OUT_MAX)
		stream_wake(&g->streams);
	watch(g);
}

static void send_hello(struct guest *g)
{
	_cleanup_(buf_done) struct buf b = {0};

	if (g->out.n) /* the one before is still waiting */
		return;
	kv_add(&b, "magic", FRAME_MAGIC);
	kv_addf(&b, "version", "%d", FRAME_VERSION);
	kv_add(&b, "nonce", g->in.nonce);
	frame_add(&g->out, 0, FRAME_HELLO, b.p, b.n);
	flush(g);
}

static void fail_calls(struct guest *g)
{
	for (size_t i = 0; i < CALLS; i++)
		g->calls[i].failed = true;
	stream_fail_all(&g->streams);
	pthread_cond_broadcast(&g->changed);
}

static void greet(struct guest *g)
{
	g->state = GREETING;
	g->sessions++;
	intake_reset(&g->in);
	send_hello(g);
	loop_set_timer(g->timer, clock_in(TICK_MS));
}

static void lose(struct guest *g)
{
	g->state = LOST;
	buf_done(&g->out);
	intake_done(&g->in);
	loop_set_timer(g->timer, FCM_FOREVER);
	/* EPOLLHUP can't be switched off, but reported once; the source stays until closed */
	loop_change(g->source, EPOLLET);
	fail_calls(g);
}

static void broken(struct guest *g)
{
	fail_calls(g);
	if (g->sessions < SESSIONS)
		greet(g);
	else
		lose(g);
}

static bool take_answer(struct guest *g, const struct frame *f)
{
	for (size_t i = 0; i < CALLS; i++) {
		struct call *c = &g->calls[i];
		if (f->stream == 0 || c->stream != f->stream || c->done || c->failed)
			continue;
		buf_add(&c->answer, f->payload, f->len);
		c->done = true;
		pthread_cond_broadcast(&g->changed);
		return true;
	}
	return false;
}

static void take_hello(struct guest *g, const struct guest_hello *hello)
{
	g->state = UP;
	g->hello = *hello;
	if (!g->paused)
		loop_set_timer(g->timer, FCM_FOREVER);
	pthread_cond_broadcast(&g->changed);
}

static void add_noise(struct guest *g, size_t n)
{
	g->noise += n;
	if (g->noise < NOISE_MAX || g->paused)
		return;
	g->paused = true;
	loop_set_timer(g->timer, clock_in(TICK_MS));
}

struct buf *guest_out(struct guest *g)
{
	return g->state == UP ? &g->out : NULL;
}

void guest_flush(struct guest *g)
{
	flush(g);
}

uint32_t guest_number(struct guest *g)
{
	if (++g->last_stream == 0)
		g->last_stream = 1;
	return g->last_stream;
}

/* ---- */

void guest_lock(struct guest *g)
{
	pthread_mutex_lock(&g->lock);
}

void guest_unlock(struct guest *g)
{
	pthread_mutex_unlock(&g->lock);
}

static void say_power(struct guest *g, enum guest_power intent)
{
	pthread_mutex_unlock(&g->lock);
	if (g->events.power)
		g->events.power(g->events.arg, intent);
	pthread_mutex_lock(&g->lock);
}

static void say_main(struct guest *g, int exit)
{
	pthread_mutex_unlock(&g->lock);
	if (g->events.main)
		g->events.main(g->events.arg, exit);
	pthread_mutex_lock(&g->lock);
}

/* Work off what was read. */
static void take_messages(struct guest *g)
{
	struct intake_message m;

	while (g->state != LOST) {
		switch (intake_next(&g->in, &m)) {
		case INTAKE_MORE:
			return;
		case INTAKE_HELLO:
			take_hello(g, &m.hello);
			break;
		case INTAKE_ANSWER:
			if (!take_answer(g, &m.frame) && !stream_take(&g->streams, &m.frame))
				add_noise(g, m.size);
			break;
		case INTAKE_STREAM:
			if (!stream_take(&g->streams, &m.frame))
				add_noise(g, m.size);
			break;
		case INTAKE_POWER:
			add_noise(g, m.size);
			say_power(g, m.intent);
			break;
		case INTAKE_MAIN:
			add_noise(g, m.size);
			say_main(g, m.exit);
			break;
		case INTAKE_NOISE:
			add_noise(g, m.size);
			break;
		case INTAKE_BROKEN:
			broken(g);
			return;
		}
	}
}

static void read_some(struct guest *g)
{
	char chunk[FRAME_MAX / 2];

	for (size_t total = 0; total < READ_MAX && g->state != LOST;) {
		ssize_t n = recv(g->fd, chunk, sizeof chunk, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			lose(g);
			return;
		}
		total += (size_t)n;
		if (g->state == GREETING)
			add_noise(g, (size_t)n);
		buf_add(&g->in.bytes, chunk, (size_t)n);
		take_messages(g);
	}
}

static void on_ready(void *arg, uint32_t events)
{
	struct guest *g = arg;
	struct guest_events say = {0};

	pthread_mutex_lock(&g->lock);
	if (g->state != LOST) {
		if (events & EPOLLOUT)
			flush(g);
		if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
			read_some(g);
		if (g->state != LOST)
			watch(g);
		else if (!g->closing)
			say = g->events;
	}
	pthread_mutex_unlock(&g->lock);
	if (say.lost)
		say.lost(say.arg); /* which may close: g isn't touched after this */
}

static void on_tick(void *arg, uint32_t events)
{
	struct guest *g = arg;

	(void)events;
	pthread_mutex_lock(&g->lock);
	g->noise = 0;
	g->paused = false;
	if (g->state == GREETING) {
		send_hello(g);
		loop_set_timer(g->timer, clock_in(TICK_MS));
	}
	if (g->state != LOST)
		watch(g);
	pthread_mutex_unlock(&g->lock);
}

static void init_lock(struct guest *g)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&g->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&g->changed, &attr);
	pthread_condattr_destroy(&attr);
}

static void free_guest(struct guest *g)
{
	intake_done(&g->in);
	buf_done(&g->out);
	pthread_cond_destroy(&g->changed);
	pthread_mutex_destroy(&g->lock);
	fcm_closep(&g->fd);
	free(g);
}

int guest_open(struct loop *loop, int fd, const struct guest_events *events, struct guest **ret,
	struct fcm_error *err)
{
	struct guest *g = xalloc(sizeof *g);

	*g = (struct guest){.loop = loop, .fd = fd, .events = *events, .refs = 1};
	init_lock(g);
	if (loop_add_timer(loop, FCM_FOREVER, on_tick, g, &g->timer, err) < 0) {
		free_guest(g);
		return -1;
	}
	pthread_mutex_lock(&g->lock); /* on_ready() may run before loop_add() returns */
	int r = loop_add(loop, fd, EPOLLIN, on_ready, g, &g->source, err);
	if (r == 0)
		greet(g);
	pthread_mutex_unlock(&g->lock);
	if (r < 0) {
		loop_remove(g->timer);
		free_guest(g);
		return -1;
	}
	*ret = g;
	return 0;
}

/* Wait for a change. False when the deadline has come. */
static bool wait_change(struct guest *g, int64_t deadline)
{
	struct timespec t = clock_monotonic(deadline);

	if (clock_left(deadline) == 0)
		return false;
	pthread_cond_timedwait(&g->changed, &g->lock, &t);
	return true;
}

static void enter(struct guest *g)
{
	pthread_mutex_lock(&g->lock);
	g->users++;
}

static void leave(struct guest *g)
{
	if (--g->users == 0)
		pthread_cond_broadcast(&g->changed); /* guest_close() waits for it */
	pthread_mutex_unlock(&g->lock);
}

static int wait_up(struct guest *g, int64_t deadline, struct fcm_error *err)
{
	while (g->state == GREETING)
		if (!wait_change(g, deadline))
			return fcm_fail(err, FCM_TIMEOUT, "the guest's agent has not answered yet");
	if (g->state == LOST)
		return fcm_fail(err, FCM_GUEST, "the channel to the guest's agent is closed");
	return 0;
}

int guest_hello(struct guest *g, int64_t deadline, struct guest_hello *ret, struct fcm_error *err)
{
	enter(g);
	int r = wait_up(g, deadline, err);
	struct guest_hello hello = g->hello;
	leave(g);
	if (r < 0)
		return -1;
	if (hello.version != FRAME_VERSION) {
		fcm_fail(err, FCM_GUEST, "the guest's agent speaks version %u of the protocol, not %d",
			hello.version, FRAME_VERSION);
		return fcm_hint(err, "make the kernel anew: fcm image build kernel");
	}
	*ret = hello;
	return 0;
}

/* Can this request be sent? */
static int check_request(const struct guest *g, const struct buf *request, struct fcm_error *err)
{
	if (request->n > FRAME_MAX)
		return fcm_fail(err, FCM_TOO_LARGE,
			"a request of %zu bytes is too large for the guest's agent", request->n);
	if (g->out.n + FRAME_HEADER + request->n > OUT_MAX)
		return fcm_fail(err, FCM_GUEST, "the guest's agent doesn't read its requests");
	return 0;
}

static int begin_call(struct guest *g, const struct buf *request, struct call **ret, struct fcm_error *err)
{
	struct call *c = g->calls;

	if (check_request(g, request, err) < 0)
		return -1;
	while (c < g->calls + CALLS && c->stream)
		c++;
	if (c == g->calls + CALLS)
		return fcm_fail(
			err, FCM_UNAVAILABLE, "%d requests to the guest's agent are in progress", CALLS);
	*c = (struct call){.stream = guest_number(g)};
	frame_add(&g->out, c->stream, FRAME_REQ, request->p, request->n);
	*ret = c;
	return 0;
}

static int finish_call(struct guest *g, struct call *c, int64_t deadline, struct fcm_error *err)
{
	while (!c->done && !c->failed)
		if (!wait_change(g, deadline))
			return fcm_fail(err, FCM_TIMEOUT, "the guest's agent did not answer in time");
	return c->done ? 0 : fcm_fail(err, FCM_GUEST, "the guest's agent went away before it answered");
}

void guest_text(const char *s, char *ret, size_t size)
{
	fcm_copy(ret, size, s);
	fcm_make_printable(ret);
	for (char *c = ret; (c = strpbrk(c, "\n\t"));)
		*c = ' ';
}

/* Is it a good answer? */
static int check_answer(const struct buf *b, struct fcm_error *err)
{
	const char *error = kv_get(b->p, b->n, "error"), *ok = kv_get(b->p, b->n, "ok");
	char text[200];

	if (ok && strcmp(ok, "1") == 0 && error == NULL)
		return 0;
	if (error == NULL)
		return fcm_fail(err, FCM_GUEST, "the guest's agent gave an answer that makes no sense");
	guest_text(error, text, sizeof text);
	fcm_fail(err, FCM_GUEST, "the guest's agent says: %s", text);
	err->sys = (int)kv_i64(b->p, b->n, "errno", 1, 4095, 0);
	if (strncmp(text, "op: ", 4) == 0)
		fcm_hint(err, "its kernel holds the agent of an older fcm: fcm image build kernel, then fcm "
			      "restart");
	return -1;
}

int guest_call_all(struct guest *g, struct guest_ask *asks, size_t n, int64_t deadline, struct fcm_error *err)
{
	struct call *calls[GUEST_ASKS] = {0};

	enter(g);
	int r = wait_up(g, deadline, err);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = begin_call(g, &asks[i].request, &calls[i], err);
	if (g->state == UP)
		flush(g);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = finish_call(g, calls[i], deadline, err);
	for (size_t i = 0; i < n && calls[i]; i++) {
		asks[i].answer = calls[i]->answer;
		*calls[i] = (struct call){0};
	}
	leave(g);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = check_answer(&asks[i].answer, err);
	return r;
}

int guest_call(
	struct guest *g, const struct buf *request, int64_t deadline, struct buf *ret, struct fcm_error *err)
{
	struct guest_ask ask = {.request = *request};
	int r = guest_call_all(g, &ask, 1, deadline, err);

	if (r == 0 && ret)
		*ret = ask.answer;
	else
		buf_done(&ask.answer);
	return r;
}

int guest_stream_open(struct guest *g, const struct buf *request, int64_t deadline, struct guest_stream **ret,
	struct fcm_error *err)
{
	struct guest_stream *s = NULL;

	enter(g);
	if (wait_up(g, deadline, err) == 0 && check_request(g, request, err) == 0) {
		uint32_t number = guest_number(g);
		s = stream_new(&g->streams, g, number, err);
		if (s) {
			guest_ref(g);
			frame_add(&g->out, number, FRAME_REQ, request->p, request->n);
			flush(g);
			*ret = s;
		}
	}
	leave(g);
	return s ? 0 : -1;
}

struct guest *guest_ref(struct guest *g)
{
	atomic_fetch_add(&g->refs, 1);
	return g;
}

void guest_unref(struct guest *g)
{
	if (g && atomic_fetch_sub(&g->refs, 1) == 1)
		free_guest(g);
}

void guest_close(struct guest *g)
{
	if (g == NULL)
		return;
	pthread_mutex_lock(&g->lock);
	g->closing = true;
	if (g->state != LOST)
		lose(g);
	pthread_mutex_unlock(&g->lock);
	loop_remove(g->source);
	loop_remove(g->timer);
	pthread_mutex_lock(&g->lock);
	while (g->users)
		pthread_cond_wait(&g->changed, &g->lock);
	fcm_closep(&g->fd);
	g->fd = -1;
	pthread_mutex_unlock(&g->lock);
	guest_unref(g);
}
