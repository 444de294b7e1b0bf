/* Streams on a session, against an agent that is this test: credit, ends, what breaks the rules, and what breaks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/frame.h"
#include "common/core/kv.h"
#include "daemon/guest/guest.h"
#include "daemon/loop.h"

enum { STREAMS = 128, PATIENCE_MS = 10000 };

struct fixture {
	struct loop *loop;
	pthread_t thread;
	struct guest *guest;
	int agent;
};

/* ---- the agent's side ---- */

struct message {
	uint8_t bytes[FRAME_HEADER + FRAME_MAX];
	struct frame f;
};

static bool next_frame(int fd, struct message *m)
{
	if (fd_read_all(fd, m->bytes, FRAME_HEADER) < 0)
		return false;
	size_t len = m->bytes[4] | (size_t)m->bytes[5] << 8;
	return fd_read_all(fd, m->bytes + FRAME_HEADER, len) == 0 &&
	       frame_parse(m->bytes, FRAME_HEADER + len, &m->f) > 0;
}

/* The host may have hung up. */
static void send_all(int fd, struct buf *b)
{
	(void)!fd_write_all(fd, b->p, b->n);
	buf_done(b);
}

static void say(int fd, uint32_t stream, enum frame_type type, const char *kv, size_t n)
{
	struct buf b = {0};

	frame_add(&b, stream, type, kv, n);
	send_all(fd, &b);
}

static void data(int fd, uint32_t stream, enum frame_channel c, size_t n)
{
	static const char chunk[FRAME_MAX] = "data";
	struct buf b = {0};

	for (size_t piece; n; n -= piece) {
		piece = MIN(n, sizeof chunk);
		frame_add_data(&b, stream, c, chunk, piece);
	}
	send_all(fd, &b);
}

static void credit(int fd, uint32_t stream, enum frame_channel c, uint32_t n)
{
	struct buf b = {0};

	frame_add_credit(&b, stream, c, n);
	send_all(fd, &b);
}

static void end_of(int fd, uint32_t stream, enum frame_channel c)
{
	struct buf b = {0};

	frame_add_end(&b, stream, c);
	send_all(fd, &b);
}

#define RESULT "ok=1\0exit=7"
static void result(int fd, uint32_t stream)
{
	say(fd, stream, FRAME_RES, RESULT, sizeof RESULT);
}

static void hello(int fd, const struct message *m)
{
	_cleanup_(buf_done) struct buf b = {0};

	kv_add(&b, "magic", FRAME_MAGIC);
	kv_add(&b, "version", "1");
	kv_add(&b, "nonce", kv_get(m->f.payload, m->f.len, "nonce"));
	kv_add(&b, "boot_id", "6f9619ff-8b86-d011-b42d-00c04fc964ff");
	say(fd, 0, FRAME_HELLO, b.p, b.n);
}

/* The next frame that is no HELLO. */
static void expect_frame(struct fixture *f, struct message *m, enum frame_type type)
{
	do
		assert_true(next_frame(f->agent, m));
	while (m->f.type == FRAME_HELLO);
	assert_int_equal(m->f.type, type);
}

static void expect_op(struct fixture *f, struct message *m, const char *op)
{
	expect_frame(f, m, FRAME_REQ);
	assert_string_equal(kv_get(m->f.payload, m->f.len, "op"), op);
}

/* ---- the fixture ---- */

static void *run_loop(void *arg)
{
	struct fcm_error err;

	return loop_run(arg, &err) < 0 ? arg : NULL;
}

static void greet(struct fixture *f)
{
	static struct message m;
	const struct guest_events none = {0};
	struct guest_hello ret;
	struct fcm_error err = {0};
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	f->agent = sv[1];
	assert_int_equal(guest_open(f->loop, sv[0], &none, &f->guest, &err), 0);
	assert_true(next_frame(f->agent, &m));
	hello(f->agent, &m);
	assert_int_equal(guest_hello(f->guest, clock_in(PATIENCE_MS), &ret, &err), 0);
}

static int begin(void **state)
{
	struct fixture *f = xalloc(sizeof *f);
	struct fcm_error err;

	*state = f;
	if (loop_new(&f->loop, &err) < 0 || pthread_create(&f->thread, NULL, run_loop, f->loop))
		return -1;
	greet(f);
	return 0;
}

static int finish(void **state)
{
	struct fixture *f = *state;

	guest_close(f->guest);
	close(f->agent);
	loop_stop(f->loop);
	pthread_join(f->thread, NULL);
	loop_free(f->loop);
	free(f);
	return 0;
}

static struct guest_stream *try_open(struct fixture *f, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf rq = {0};
	struct guest_stream *s = NULL;

	kv_add(&rq, "op", "exec");
	return guest_stream_open(f->guest, &rq, clock_in(PATIENCE_MS), &s, err) == 0 ? s : NULL;
}

/* *ret is the stream's number. */
static struct guest_stream *open_stream(struct fixture *f, uint32_t *ret)
{
	static struct message m;
	struct fcm_error err = {0};
	struct guest_stream *s = try_open(f, &err);

	if (s == NULL)
		fail_msg("%s", err.msg);
	expect_op(f, &m, "exec");
	*ret = m.f.stream;
	return s;
}

static void await_change(struct guest_stream *s)
{
	struct pollfd p = {.fd = guest_stream_fd(s), .events = POLLIN};

	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
	guest_stream_clear(s);
}

/* What comes next, waiting for it. */
static enum guest_read next(struct guest_stream *s, struct guest_piece *piece)
{
	enum guest_read r;

	while ((r = guest_stream_read(s, piece)) == GUEST_LATER)
		await_change(s);
	return r;
}

/* All that there is; the bytes are counted. */
static enum guest_read drain(struct guest_stream *s, size_t counts[3])
{
	static _Thread_local struct guest_piece piece;
	enum guest_read r;

	counts[FRAME_STDOUT] = counts[FRAME_STDERR] = 0;
	while ((r = next(s, &piece)) == GUEST_DATA || r == GUEST_END)
		counts[piece.channel] += piece.n;
	return r;
}

static void expect_broken(struct guest_stream *s, const char *why)
{
	struct fcm_error err = {0};
	const struct buf *kv;
	size_t counts[3];

	assert_int_equal(drain(s, counts), GUEST_BROKEN);
	assert_int_equal(guest_stream_result(s, &kv, &err), -1);
	assert_int_equal(err.code, FCM_GUEST);
	assert_non_null(strstr(err.msg, why));
}

/* Another request gets its answer, at once. */
static void *answer_ping(void *arg)
{
	static struct message m;
	struct fixture *f = arg;

	while (next_frame(f->agent, &m)) {
		const char *op = kv_get(m.f.payload, m.f.len, "op");
		if (m.f.type != FRAME_REQ || !op || strcmp(op, "ping") != 0)
			continue;
		say(f->agent, m.f.stream, FRAME_RES, "ok=1", 5);
		break;
	}
	return NULL;
}

static void expect_ping(struct fixture *f)
{
	_cleanup_(buf_done) struct buf rq = {0};
	struct fcm_error err = {0};
	pthread_t thread;

	kv_add(&rq, "op", "ping");
	assert_int_equal(pthread_create(&thread, NULL, answer_ping, f), 0);
	if (guest_call(f->guest, &rq, clock_in(PATIENCE_MS), NULL, &err) < 0)
		fail_msg("%s", err.msg);
	pthread_join(thread, NULL);
}

/* ---- tests ---- */

static void test_a_life(void **state)
{
	struct fixture *f = *state;
	static struct guest_piece piece;
	static struct message m;
	const struct buf *kv;
	struct fcm_error err;
	uint32_t n;
	struct guest_stream *s = open_stream(f, &n);

	assert_int_equal(guest_stream_read(s, &piece), GUEST_LATER);
	assert_int_equal(guest_stream_write(s, "abc", 3), 3);
	assert_true(guest_stream_end(s));
	expect_frame(f, &m, FRAME_DATA);
	assert_int_equal(m.f.stream, n);
	assert_memory_equal(m.f.payload, "abc", 3);
	expect_frame(f, &m, FRAME_END);
	data(f->agent, n, FRAME_STDERR, 4);
	assert_int_equal(next(s, &piece), GUEST_DATA);
	assert_int_equal(piece.channel, FRAME_STDERR);
	assert_int_equal(piece.n, 4);
	assert_memory_equal(piece.p, "data", 4);
	end_of(f->agent, n, FRAME_STDOUT);
	assert_int_equal(next(s, &piece), GUEST_END);
	assert_int_equal(piece.channel, FRAME_STDOUT);
	assert_int_equal(guest_stream_read(s, &piece), GUEST_LATER);
	result(f->agent, n);
	assert_int_equal(next(s, &piece), GUEST_END); /* which the agent left out */
	assert_int_equal(piece.channel, FRAME_STDERR);
	assert_int_equal(next(s, &piece), GUEST_RESULT);
	assert_int_equal(guest_stream_result(s, &kv, &err), 0);
	assert_string_equal(kv_get(kv->p, kv->n, "exit"), "7");
	assert_int_equal(guest_stream_write(s, "more", 4), 4); /* nobody is there: it is thrown away */
	guest_stream_close(s);
	expect_ping(f);
}

static void test_stdin_waits_for_credit(void **state)
{
	struct fixture *f = *state;
	static char block[3 * FRAME_WINDOW];
	static struct message m;
	uint32_t n;
	struct guest_stream *s = open_stream(f, &n);

	assert_int_equal(guest_stream_write(s, block, sizeof block), FRAME_WINDOW);
	assert_int_equal(guest_stream_write(s, block, sizeof block), 0);
	for (size_t got = 0; got < FRAME_WINDOW; got += m.f.len)
		expect_frame(f, &m, FRAME_DATA);
	guest_stream_clear(s);
	credit(f->agent, n, FRAME_STDIN, 1000);
	await_change(s);
	assert_int_equal(guest_stream_write(s, block, sizeof block), 1000);
	result(f->agent, n);
	guest_stream_close(s);
}

/* An agent that reads nothing: what waits for it is bounded, and told when there is room again. */
static void test_the_channel_is_full(void **state)
{
	struct fixture *f = *state;
	static char block[FRAME_WINDOW];
	static struct guest_stream *s[64];
	static struct message m;
	size_t sent = 0, got = 0;
	uint32_t n;

	for (size_t i = 0; i < ARRAY_SIZE(s); i++)
		s[i] = open_stream(f, &n);
	for (size_t i = 0; i < ARRAY_SIZE(s); i++)
		sent += guest_stream_write(s[i], block, sizeof block);
	assert_in_range(sent, FRAME_WINDOW, 32 * FRAME_WINDOW); /* what the socket takes, and the queue */
	struct guest_stream *last = s[ARRAY_SIZE(s) - 1];
	guest_stream_clear(last);
	assert_int_equal(guest_stream_write(last, block, 1), 0);
	assert_false(guest_stream_end(last));
	for (; got < sent; got += m.f.len)
		expect_frame(f, &m, FRAME_DATA);
	await_change(last);
	assert_int_equal(guest_stream_write(last, block, 1), 1);
	for (size_t i = 0; i < ARRAY_SIZE(s); i++)
		guest_stream_close(s[i]);
}

static void test_credit_follows_the_reader(void **state)
{
	struct fixture *f = *state;
	static struct message m;
	uint32_t n;
	struct guest_stream *s = open_stream(f, &n);
	size_t counts[3] = {0}, granted = 0, sent = FRAME_WINDOW;
	static struct guest_piece piece;

	data(f->agent, n, FRAME_STDOUT, FRAME_WINDOW);
	while (counts[FRAME_STDOUT] < 10 * FRAME_WINDOW) {
		assert_int_equal(next(s, &piece), GUEST_DATA);
		counts[piece.channel] += piece.n;
		if (counts[FRAME_STDOUT] - granted < FRAME_WINDOW / 2)
			continue;
		expect_frame(f, &m, FRAME_CREDIT);
		assert_int_equal(m.f.channel, FRAME_STDOUT);
		granted += frame_credit(&m.f);
		assert_int_equal(granted, counts[FRAME_STDOUT]);
		data(f->agent, n, FRAME_STDOUT, frame_credit(&m.f));
		sent += frame_credit(&m.f);
	}
	result(f->agent, n);
	assert_int_equal(drain(s, counts), GUEST_RESULT);
	assert_int_equal(counts[FRAME_STDOUT], sent - granted);
	guest_stream_close(s);
}

static void break_window(int fd, uint32_t n)
{
	data(fd, n, FRAME_STDERR, FRAME_WINDOW + 1);
}

static void break_end(int fd, uint32_t n)
{
	end_of(fd, n, FRAME_STDOUT);
	data(fd, n, FRAME_STDOUT, 1);
}

static void break_end_twice(int fd, uint32_t n)
{
	end_of(fd, n, FRAME_STDOUT);
	end_of(fd, n, FRAME_STDOUT);
}

static void break_credit(int fd, uint32_t n)
{
	credit(fd, n, FRAME_STDIN, UINT32_MAX);
}

static void break_channel(int fd, uint32_t n)
{
	data(fd, n, FRAME_STDIN, 1);
}

static void break_credit_channel(int fd, uint32_t n)
{
	credit(fd, n, FRAME_STDOUT, 1);
}

/* The stream fails, no other and not the session. */
static void test_broken_rules(void **state)
{
	static const struct {
		void (*how)(int fd, uint32_t stream);
		const char *why;
	} rules[] = {{break_window, "more than it was allowed"}, {break_end, "after its end"},
		{break_end_twice, "an end twice"}, {break_credit, "more than it was sent"},
		{break_channel, "isn't its own"}, {break_credit_channel, "isn't its own"}};
	struct fixture *f = *state;
	static struct message m;
	uint32_t n, bystander_n;
	struct guest_stream *bystander = open_stream(f, &bystander_n);
	size_t counts[3];

	for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
		struct guest_stream *s = open_stream(f, &n);
		rules[i].how(f->agent, n);
		result(f->agent, n); /* which comes too late */
		expect_ping(f);	     /* all of it is there before the first byte is read, and more granted */
		expect_broken(s, rules[i].why);
		guest_stream_close(s);
		do
			assert_true(next_frame(f->agent, &m));
		while (m.f.type != FRAME_REQ);
		assert_string_equal(kv_get(m.f.payload, m.f.len, "op"), "close");
		say(f->agent, m.f.stream, FRAME_RES, "ok=1", 5);
	}
	expect_ping(f);
	data(f->agent, bystander_n, FRAME_STDOUT, 10);
	result(f->agent, bystander_n);
	assert_int_equal(drain(bystander, counts), GUEST_RESULT);
	assert_int_equal(counts[FRAME_STDOUT], 10);
	guest_stream_close(bystander);
}

/* What was on its way when a stream was closed is no noise, which would stop the session for a while. */
static void test_close(void **state)
{
	struct fixture *f = *state;
	static struct message m;
	uint32_t n[20];
	int64_t begun = clock_ms();

	for (size_t i = 0; i < ARRAY_SIZE(n); i++) {
		struct guest_stream *s = open_stream(f, &n[i]);
		guest_stream_close(s);
		expect_op(f, &m, "close");
		assert_int_equal(kv_i64(m.f.payload, m.f.len, "stream", 1, UINT32_MAX, 0), n[i]);
		data(f->agent, n[i], FRAME_STDOUT, FRAME_WINDOW);
		data(f->agent, n[i], FRAME_STDERR, FRAME_WINDOW);
		say(f->agent, m.f.stream, FRAME_RES, "ok=1", 5);
	}
	expect_ping(f);
	assert_in_range(clock_ms() - begun, 0, 3000); /* a pause each would be 8 s */
}

static void test_control(void **state)
{
	struct fixture *f = *state;
	_cleanup_(buf_done) struct buf rq = {0};
	static struct message m;
	uint32_t n;
	struct guest_stream *s = open_stream(f, &n);

	kv_add(&rq, "op", "signal");
	kv_add(&rq, "signal", "15");
	assert_true(guest_stream_control(s, &rq));
	assert_false(guest_stream_control(s, &rq));
	expect_op(f, &m, "signal");
	assert_int_equal(kv_i64(m.f.payload, m.f.len, "stream", 1, UINT32_MAX, 0), n);
	assert_int_not_equal(m.f.stream, n);
	guest_stream_clear(s);
	say(f->agent, m.f.stream, FRAME_RES, "ok=1", 5);
	await_change(s);
	assert_true(guest_stream_control(s, &rq));
	expect_op(f, &m, "signal");
	result(f->agent, n);
	guest_stream_close(s);
}

static void test_session_lost(void **state)
{
	struct fixture *f = *state;
	uint32_t n;
	struct guest_stream *s = open_stream(f, &n), *other = open_stream(f, &n);
	static struct guest_piece piece;
	struct fcm_error err;

	data(f->agent, n, FRAME_STDOUT, 10);
	shutdown(f->agent, SHUT_RDWR);
	expect_broken(s, "went away");
	assert_int_equal(next(other, &piece), GUEST_DATA); /* what it said before */
	assert_int_equal(piece.n, 10);
	expect_broken(other, "went away");
	assert_null(try_open(f, &err));
	assert_int_equal(err.code, FCM_GUEST);
	assert_int_equal(guest_stream_write(s, "x", 1), 1);
	guest_stream_close(s);
	guest_stream_close(other);
}

/* Rubbish begins a new session, in which the old stream's number means nothing. */
static void test_session_anew(void **state)
{
	struct fixture *f = *state;
	static struct message m;
	uint32_t n, again;
	struct guest_stream *s = open_stream(f, &n), *closed = open_stream(f, &again);
	struct buf b = {0};

	guest_stream_close(closed);
	buf_add(&b, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
	send_all(f->agent, &b);
	expect_broken(s, "went away");
	do
		assert_true(next_frame(f->agent, &m));
	while (m.f.type != FRAME_HELLO);
	hello(f->agent, &m);
	struct guest_stream *fresh = open_stream(f, &again);
	data(f->agent, n, FRAME_STDOUT, 10);
	result(f->agent, again);
	size_t counts[3];
	assert_int_equal(drain(fresh, counts), GUEST_RESULT);
	assert_int_equal(counts[FRAME_STDOUT], 0);
	guest_stream_close(s);
	guest_stream_close(fresh);
}

/* A stream outlives its session's close. */
static void test_guest_closed(void **state)
{
	struct fixture *f = *state;
	uint32_t n;
	struct guest_stream *s = open_stream(f, &n);
	struct guest *g = guest_ref(f->guest);

	guest_close(f->guest);
	f->guest = NULL;
	expect_broken(s, "went away");
	guest_stream_close(s);
	guest_unref(g);
}

static void test_at_most(void **state)
{
	struct fixture *f = *state;
	static struct guest_stream *s[STREAMS];
	static uint32_t n[STREAMS];
	static struct message m;
	struct fcm_error err;

	for (size_t i = 0; i < STREAMS; i++)
		s[i] = open_stream(f, &n[i]);
	assert_null(try_open(f, &err));
	assert_int_equal(err.code, FCM_UNAVAILABLE);
	guest_stream_close(s[0]);
	assert_null(try_open(f, &err)); /* not before the agent has let go of it */
	expect_op(f, &m, "close");
	say(f->agent, m.f.stream, FRAME_RES, "ok=1", 5);
	expect_ping(f);
	s[0] = open_stream(f, &n[0]);
	for (size_t i = 0; i < STREAMS; i++)
		guest_stream_close(s[i]);
}

/* ---- many threads ---- */

enum { USERS = 100, BYTES = 3 * FRAME_WINDOW };

/* Sends back on stdout what comes on stdin, within the windows. */
static void *echo_agent(void *arg)
{
	struct fixture *f = arg;
	static struct message m;
	static size_t window[4 * USERS], left[4 * USERS];
	struct buf b = {0};

	while (next_frame(f->agent, &m)) {
		uint32_t n = m.f.stream % (4 * USERS);
		const char *op = m.f.type == FRAME_REQ ? kv_get(m.f.payload, m.f.len, "op") : NULL;
		if (op)
			window[n] = FRAME_WINDOW;
		if (op && strcmp(op, "close") == 0)
			say(f->agent, m.f.stream, FRAME_RES, "ok=1", 5);
		if (m.f.type == FRAME_DATA) {
			left[n] += m.f.len;
			frame_add_credit(&b, m.f.stream, FRAME_STDIN, m.f.len);
		}
		if (m.f.type == FRAME_CREDIT)
			window[n] += frame_credit(&m.f);
		for (size_t piece; (piece = MIN(MIN(left[n], window[n]), (size_t)FRAME_MAX));) {
			frame_add_data(&b, m.f.stream, FRAME_STDOUT, m.bytes, piece);
			left[n] -= piece;
			window[n] -= piece;
		}
		send_all(f->agent, &b);
	}
	return NULL;
}

static void *use(void *arg)
{
	struct fixture *f = arg;
	static const char block[FRAME_MAX];
	static _Thread_local struct guest_piece piece;
	struct fcm_error err;
	struct guest_stream *s = try_open(f, &err);
	enum guest_read r = GUEST_LATER;
	size_t sent = 0, got = 0;

	while (s && got < BYTES && r == GUEST_LATER) {
		guest_stream_clear(s);
		for (size_t n = 1; n && sent < BYTES; sent += n)
			n = guest_stream_write(s, block, MIN(sizeof block, BYTES - sent));
		while ((r = guest_stream_read(s, &piece)) == GUEST_DATA)
			got += piece.n;
		struct pollfd p = {.fd = guest_stream_fd(s), .events = POLLIN};
		if (got < BYTES && r == GUEST_LATER && poll(&p, 1, PATIENCE_MS) != 1)
			break;
	}
	guest_stream_close(s);
	return got == BYTES ? f : NULL;
}

static void test_100_at_once(void **state)
{
	struct fixture *f = *state;
	pthread_t agent, users[USERS];
	void *well;

	assert_int_equal(pthread_create(&agent, NULL, echo_agent, f), 0);
	for (size_t i = 0; i < USERS; i++)
		assert_int_equal(pthread_create(&users[i], NULL, use, f), 0);
	for (size_t i = 0; i < USERS; i++) {
		pthread_join(users[i], &well);
		assert_ptr_equal(well, f);
	}
	guest_close(f->guest);
	f->guest = NULL;
	pthread_join(agent, NULL);
}

/* The session ends under those who use it. */
static void test_closed_under_100(void **state)
{
	struct fixture *f = *state;
	pthread_t agent, users[USERS];

	assert_int_equal(pthread_create(&agent, NULL, echo_agent, f), 0);
	struct guest *g = guest_ref(f->guest);
	for (size_t i = 0; i < USERS; i++)
		assert_int_equal(pthread_create(&users[i], NULL, use, f), 0);
	clock_sleep(20);
	guest_close(g);
	for (size_t i = 0; i < USERS; i++)
		pthread_join(users[i], NULL);
	guest_unref(g);
	f->guest = NULL;
	pthread_join(agent, NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, begin, finish)

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(a_life), TEST(stdin_waits_for_credit),
		TEST(the_channel_is_full), TEST(credit_follows_the_reader), TEST(broken_rules), TEST(close),
		TEST(control), TEST(session_lost), TEST(session_anew), TEST(guest_closed), TEST(at_most),
		TEST(100_at_once), TEST(closed_under_100)};

	signal(SIGPIPE, SIG_IGN); /* the agent's */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
