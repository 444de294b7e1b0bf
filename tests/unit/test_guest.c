/* The session with a guest's agent, against scripted agents: honest ones, broken ones, hostile ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/frame.h"
#include "common/core/kv.h"
#include "daemon/guest/guest.h"
#include "daemon/guest/intake.h"
#include "daemon/loop.h"

#define BOOT_ID "6f9619ff-8b86-d011-b42d-00c04fc964ff"

struct fixture {
	struct loop *loop;
	pthread_t loop_thread, agent_thread;
	struct guest *guest;
	int agent_fd;
	atomic_int power[3], lost, served;
	bool close_in_lost;
};

/* ---- the agent's side */

struct request {
	uint8_t bytes[FRAME_HEADER + FRAME_MAX];
	struct frame frame;
};

/* Read one frame; false at the end of the channel. */
static bool next_frame(int fd, struct request *rq)
{
	if (fd_read_all(fd, rq->bytes, FRAME_HEADER) < 0)
		return false;
	size_t len = rq->bytes[4] | (size_t)rq->bytes[5] << 8;
	return fd_read_all(fd, rq->bytes + FRAME_HEADER, len) == 0 &&
	       frame_parse(rq->bytes, FRAME_HEADER + len, &rq->frame) > 0;
}

static void send_kv(int fd, uint32_t stream, enum frame_type type, const struct buf *kv)
{
	_cleanup_(buf_done) struct buf b = {0};

	frame_add(&b, stream, type, kv->p, kv->n);
	for (size_t at = 0; at < b.n;) {
		ssize_t n = send(fd, b.p + at, b.n - at, MSG_NOSIGNAL);
		if (n < 0)
			return;
		at += (size_t)n;
	}
}

static void send_hello(int fd, const char *nonce)
{
	_cleanup_(buf_done) struct buf b = {0};

	kv_add(&b, "magic", FRAME_MAGIC);
	kv_add(&b, "version", "1");
	kv_add(&b, "nonce", nonce);
	kv_add(&b, "boot_id", BOOT_ID);
	send_kv(fd, 0, FRAME_HELLO, &b);
}

static void send_one(int fd, uint32_t stream, enum frame_type type, const char *key, const char *value)
{
	_cleanup_(buf_done) struct buf b = {0};

	kv_add(&b, key, value);
	send_kv(fd, stream, type, &b);
}

static void send_power(int fd, const char *intent)
{
	_cleanup_(buf_done) struct buf b = {0};

	kv_add(&b, "event", "power");
	kv_add(&b, "intent", intent);
	send_kv(fd, 0, FRAME_EVENT, &b);
}

/* Wait for a HELLO and answer it. */
static bool greet(int fd)
{
	static _Thread_local struct request rq;

	while (next_frame(fd, &rq)) {
		const char *nonce = kv_get(rq.frame.payload, rq.frame.len, "nonce");
		if (rq.frame.type != FRAME_HELLO || nonce == NULL)
			continue;
		send_hello(fd, nonce);
		return true;
	}
	return false;
}

static const char *op_of(const struct request *rq)
{
	const char *op = kv_get(rq->frame.payload, rq->frame.len, "op");

	return op ? op : "";
}

static void answer_echo(int fd, const struct request *rq)
{
	_cleanup_(buf_done) struct buf b = {0};
	const char *echo = kv_get(rq->frame.payload, rq->frame.len, "echo");

	kv_add(&b, "ok", "1");
	if (echo)
		kv_add(&b, "echo", echo);
	send_kv(fd, rq->frame.stream, FRAME_RES, &b);
}

/* Answer everything, HELLO as well, until the channel ends. */
static void *honest(void *arg)
{
	struct fixture *f = arg;
	static _Thread_local struct request rq;

	while (next_frame(f->agent_fd, &rq)) {
		if (rq.frame.type == FRAME_HELLO)
			send_hello(f->agent_fd, kv_get(rq.frame.payload, rq.frame.len, "nonce"));
		else if (strcmp(op_of(&rq), "fail") == 0)
			send_one(f->agent_fd, rq.frame.stream, FRAME_RES, "error", "no \033[31msuch\nfile");
		else if (strcmp(op_of(&rq), "new") == 0)
			send_one(f->agent_fd, rq.frame.stream, FRAME_RES, "error", "op: 'new' is not known");
		else if (strcmp(op_of(&rq), "senseless") == 0)
			send_one(f->agent_fd, rq.frame.stream, FRAME_RES, "maybe", "1");
		else if (strcmp(op_of(&rq), "hang") != 0)
			answer_echo(f->agent_fd, &rq);
		f->served++;
	}
	return NULL;
}

/* ---- the fixture */

static void on_power(void *arg, enum guest_power intent)
{
	((struct fixture *)arg)->power[intent]++;
}

static void on_lost(void *arg)
{
	struct fixture *f = arg;

	if (f->close_in_lost) {
		guest_close(f->guest);
		f->guest = NULL;
	}
	f->lost++;
}

static void *run_loop(void *arg)
{
	struct fcm_error err;

	return loop_run(arg, &err) < 0 ? arg : NULL;
}

static int begin(void **state)
{
	struct fixture *f = xalloc(sizeof *f);
	struct fcm_error err;

	*state = f;
	f->agent_fd = -1;
	return loop_new(&f->loop, &err) < 0 || pthread_create(&f->loop_thread, NULL, run_loop, f->loop) ? -1
													: 0;
}

static void connect_agent(struct fixture *f, void *(*agent)(void *))
{
	struct guest_events events = {.power = on_power, .lost = on_lost, .arg = f};
	struct fcm_error err;
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	f->agent_fd = sv[1];
	if (agent)
		assert_int_equal(pthread_create(&f->agent_thread, NULL, agent, f), 0);
	assert_int_equal(guest_open(f->loop, sv[0], &events, &f->guest, &err), 0);
}

/* Close our side and wait for the agent to see it. */
static void disconnect(struct fixture *f)
{
	guest_close(f->guest);
	f->guest = NULL;
	if (f->agent_thread)
		pthread_join(f->agent_thread, NULL);
	f->agent_thread = 0;
	close(f->agent_fd);
}

static int end(void **state)
{
	struct fixture *f = *state;

	loop_stop(f->loop);
	pthread_join(f->loop_thread, NULL);
	loop_free(f->loop);
	free(f);
	return 0;
}

static void wait_for(atomic_int *counter, int value)
{
	for (int64_t deadline = clock_in(10000); *counter < value && clock_left(deadline);)
		clock_sleep(1);
	assert_true(*counter >= value);
}

static void expect_hello(struct fixture *f)
{
	struct guest_hello hello;
	struct fcm_error err = {0};

	if (guest_hello(f->guest, clock_in(10000), &hello, &err) < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(hello.boot_id, BOOT_ID);
	assert_int_equal(hello.version, 1);
}

static int call(
	struct guest *g, const char *op, const char *echo, int64_t ms, struct buf *ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf b = {0};

	*err = (struct fcm_error){0};
	kv_add(&b, "op", op);
	kv_add(&b, "echo", echo);
	return guest_call(g, &b, clock_in(ms), ret, err);
}

static void expect_ping(struct fixture *f)
{
	_cleanup_(buf_done) struct buf answer = {0};
	struct fcm_error err;

	if (call(f->guest, "ping", "hallo", 10000, &answer, &err) < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(kv_get(answer.p, answer.n, "echo"), "hallo");
}

/* ---- tests */

static void test_honest(void **state)
{
	struct fixture *f = *state;
	struct fcm_error err;

	connect_agent(f, honest);
	expect_hello(f);
	expect_ping(f);
	assert_int_equal(call(f->guest, "ping", "", 10000, NULL, &err), 0);
	disconnect(f);
	assert_int_equal(f->lost, 0);
}

static void test_error_answers(void **state)
{
	struct fixture *f = *state;
	struct buf answer = {0};
	struct fcm_error err;

	connect_agent(f, honest);
	assert_int_equal(call(f->guest, "fail", "", 10000, &answer, &err), -1);
	assert_int_equal(err.code, FCM_GUEST);
	assert_string_equal(err.msg, "the guest's agent says: no ?[31msuch file");
	assert_int_equal(call(f->guest, "new", "", 10000, &answer, &err), -1);
	assert_non_null(strstr(err.hint, "an older fcm"));
	assert_int_equal(call(f->guest, "senseless", "", 10000, &answer, &err), -1);
	assert_int_equal(err.code, FCM_GUEST);
	assert_null(answer.p);
	expect_ping(f);
	disconnect(f);
}

static void test_hang_and_late_answer(void **state)
{
	struct fixture *f = *state;
	struct fcm_error err;
	int64_t begun = clock_ms();

	connect_agent(f, honest);
	assert_int_equal(call(f->guest, "hang", "", 60, NULL, &err), -1);
	assert_int_equal(err.code, FCM_TIMEOUT);
	assert_in_range(clock_ms() - begun, 59, 5000);
	send_one(f->agent_fd, 1, FRAME_RES, "ok", "1"); /* the answer to it: nobody waits */
	send_one(f->agent_fd, 77, FRAME_RES, "ok", "1");
	expect_ping(f);
	disconnect(f);
}

enum { TOGETHER = 3 };

/* Answer when all of them are there, the last one first; "fail" goes wrong. */
static void *patient(void *arg)
{
	struct fixture *f = arg;
	static struct request rqs[TOGETHER];
	int n = 0;

	if (!greet(f->agent_fd))
		return NULL;
	while (n < TOGETHER && next_frame(f->agent_fd, &rqs[n]))
		n++;
	while (n-- > 0)
		if (strcmp(op_of(&rqs[n]), "fail") == 0)
			send_one(f->agent_fd, rqs[n].frame.stream, FRAME_RES, "error", op_of(&rqs[n]));
		else
			answer_echo(f->agent_fd, &rqs[n]);
	return NULL;
}

static int call_together(
	struct fixture *f, const char *const ops[TOGETHER], struct guest_ask *asks, struct fcm_error *err)
{
	connect_agent(f, patient);
	for (size_t i = 0; i < TOGETHER; i++) {
		kv_add(&asks[i].request, "op", ops[i]);
		kv_addf(&asks[i].request, "echo", "%zu", i);
	}
	int rc = guest_call_all(f->guest, asks, TOGETHER, clock_in(10000), err);
	disconnect(f);
	return rc;
}

static void asks_done(struct guest_ask *asks)
{
	for (size_t i = 0; i < TOGETHER; i++) {
		buf_done(&asks[i].request);
		buf_done(&asks[i].answer);
	}
}

static void test_together(void **state)
{
	static const char *const good[] = {"ping", "ping", "ping"}, *const bad[] = {"ping", "fail", "fail"};
	struct guest_ask asks[TOGETHER] = {0}, more[TOGETHER] = {0};
	struct fcm_error err;

	assert_int_equal(call_together(*state, good, asks, &err), 0);
	for (size_t i = 0; i < TOGETHER; i++)
		assert_int_equal(kv_i64(asks[i].answer.p, asks[i].answer.n, "echo", 0, 9, -1), i);
	assert_int_equal(call_together(*state, bad, more, &err), -1);
	assert_int_equal(err.code, FCM_GUEST);
	assert_string_equal(err.msg, "the guest's agent says: fail");
	asks_done(asks);
	asks_done(more);
}

static void test_silent(void **state)
{
	struct fixture *f = *state;
	struct guest_hello hello;
	struct fcm_error err = {0};

	connect_agent(f, NULL);
	assert_int_equal(guest_hello(f->guest, clock_in(50), &hello, &err), -1);
	assert_int_equal(err.code, FCM_TIMEOUT);
	assert_int_equal(call(f->guest, "ping", "", 50, NULL, &err), -1);
	assert_int_equal(err.code, FCM_TIMEOUT);
	disconnect(f);
}

/* HELLO comes again with the same nonce until it is answered. */
static void test_hello_repeats(void **state)
{
	struct fixture *f = *state;
	static struct request one, two;

	connect_agent(f, NULL);
	assert_true(next_frame(f->agent_fd, &one));
	assert_true(next_frame(f->agent_fd, &two));
	assert_memory_equal(one.bytes, two.bytes, FRAME_HEADER + one.frame.len);
	send_hello(f->agent_fd, kv_get(two.frame.payload, two.frame.len, "nonce"));
	expect_hello(f);
	struct pollfd p = {.fd = f->agent_fd, .events = POLLIN};
	while (poll(&p, 1, 600) > 0) /* one that crossed our answer at most */
		assert_true(next_frame(f->agent_fd, &two));
	disconnect(f);
}

static void *garbage_first(void *arg)
{
	struct fixture *f = arg;
	char junk[20000];

	for (size_t i = 0; i < sizeof junk; i++)
		junk[i] = (char)(i * 7);
	(void)!fd_write_all(f->agent_fd, junk, sizeof junk);
	send_hello(f->agent_fd, "0123456789abcdef"); /* of an older session */
	send_power(f->agent_fd, "poweroff");	     /* and its event, which isn't ours */
	return honest(f);
}

static void test_garbage_before_hello(void **state)
{
	struct fixture *f = *state;

	connect_agent(f, garbage_first);
	expect_hello(f);
	expect_ping(f);
	assert_int_equal(f->power[GUEST_POWEROFF], 0);
	disconnect(f);
}

static void *byte_by_byte(void *arg)
{
	struct fixture *f = arg;
	static _Thread_local struct request rq;
	_cleanup_(buf_done) struct buf b = {0}, kv = {0};

	if (!greet(f->agent_fd) || !next_frame(f->agent_fd, &rq))
		return NULL;
	kv_add(&kv, "ok", "1");
	kv_add(&kv, "echo", "hallo");
	frame_add(&b, rq.frame.stream, FRAME_RES, kv.p, kv.n);
	for (size_t i = 0; i < b.n; i++) {
		(void)!fd_write_all(f->agent_fd, b.p + i, 1);
		clock_sleep(1);
	}
	return NULL;
}

static void test_partial_frames(void **state)
{
	struct fixture *f = *state;

	connect_agent(f, byte_by_byte);
	expect_ping(f);
	disconnect(f);
}

static void *huge_answer(void *arg)
{
	struct fixture *f = arg;
	static _Thread_local struct request rq;
	_cleanup_(buf_done) struct buf kv = {0};

	kv_add(&kv, "ok", "1");
	kv_add(&kv, "echo", "hallo");
	kv_end(&kv);
	while (kv.n < FRAME_MAX)
		buf_add(&kv, "x", 1);
	if (greet(f->agent_fd))
		while (next_frame(f->agent_fd, &rq))
			if (rq.frame.type == FRAME_REQ)
				send_kv(f->agent_fd, rq.frame.stream, FRAME_RES, &kv);
	return NULL;
}

static void test_largest_answer(void **state)
{
	struct fixture *f = *state;
	_cleanup_(buf_done) struct buf answer = {0};
	struct fcm_error err;
	size_t n;

	connect_agent(f, huge_answer);
	assert_int_equal(call(f->guest, "ping", "", 10000, &answer, &err), 0);
	assert_int_equal(answer.n, FRAME_MAX);
	assert_non_null(kv_raw(answer.p, answer.n, &n));
	disconnect(f);
}

static void *answers_twice(void *arg)
{
	struct fixture *f = arg;
	static _Thread_local struct request rq;
	_cleanup_(buf_done) struct buf b = {0};

	if (!greet(f->agent_fd) || !next_frame(f->agent_fd, &rq))
		return NULL;
	frame_add(&b, rq.frame.stream, FRAME_RES, "ok=1", 5);
	frame_add(&b, rq.frame.stream, FRAME_RES, "ok=1", 5);
	(void)!fd_write_all(f->agent_fd, b.p, b.n);
	return NULL;
}

static void test_second_answer_is_dropped(void **state)
{
	struct fixture *f = *state;
	_cleanup_(buf_done) struct buf answer = {0};
	struct fcm_error err;

	connect_agent(f, answers_twice);
	assert_int_equal(call(f->guest, "ping", "", 10000, &answer, &err), 0);
	assert_int_equal(answer.n, 5);
	disconnect(f);
}

static void test_requests_bounded(void **state)
{
	struct fixture *f = *state;
	_cleanup_(buf_done) struct buf b = {0};
	struct fcm_error err;

	connect_agent(f, honest);
	kv_add(&b, "op", "ping");
	kv_end(&b);
	while (b.n < FRAME_MAX)
		buf_add(&b, "x", 1);
	assert_int_equal(guest_call(f->guest, &b, clock_in(10000), NULL, &err), 0);
	buf_add(&b, "x", 1);
	assert_int_equal(guest_call(f->guest, &b, clock_in(10000), NULL, &err), -1);
	assert_int_equal(err.code, FCM_TOO_LARGE);
	disconnect(f);
}

/* A frame that is none: calls in progress fail, a new session with another nonce begins; the sixth time it is
 * lost. */
static void *breaker(void *arg)
{
	struct fixture *f = arg;
	static _Thread_local struct request rq;
	char nonce[5][17] = {{0}};
	int sessions = 0;

	while (next_frame(f->agent_fd, &rq)) {
		if (rq.frame.type == FRAME_REQ) {
			(void)!fd_write_all(f->agent_fd, "\1\0\0\0\377\377\3\0", FRAME_HEADER);
			continue;
		}
		const char *got = kv_get(rq.frame.payload, rq.frame.len, "nonce");
		if (sessions == 0 || strcmp(got, nonce[sessions - 1])) {
			for (int i = 0; i < sessions; i++)
				if (strcmp(got, nonce[i]) == 0 || sessions == 5)
					abort();
			strcpy(nonce[sessions++], got);
			f->served++;
		}
		send_hello(f->agent_fd, got);
	}
	return NULL;
}

static void test_malformed_frames(void **state)
{
	struct fixture *f = *state;
	struct fcm_error err;

	connect_agent(f, breaker);
	for (int i = 0; i < 5; i++) {
		expect_hello(f);
		assert_int_equal(f->lost, 0);
		assert_int_equal(call(f->guest, "ping", "", 10000, NULL, &err), -1);
		assert_int_equal(err.code, FCM_GUEST);
	}
	wait_for(&f->lost, 1);
	assert_int_equal(f->served, 5);
	assert_int_equal(call(f->guest, "ping", "", 10000, NULL, &err), -1);
	assert_int_equal(err.code, FCM_GUEST);
	disconnect(f);
}

static void *half_answer(void *arg)
{
	struct fixture *f = arg;
	static _Thread_local struct request rq;

	if (greet(f->agent_fd) && next_frame(f->agent_fd, &rq))
		(void)!fd_write_all(f->agent_fd, "\1\0\0\0\100\0\3\0ok", 10);
	shutdown(f->agent_fd, SHUT_RDWR);
	return NULL;
}

static void test_closes_in_answer(void **state)
{
	struct fixture *f = *state;
	struct guest_hello hello;
	struct fcm_error err;

	connect_agent(f, half_answer);
	assert_int_equal(call(f->guest, "ping", "", 10000, NULL, &err), -1);
	assert_int_equal(err.code, FCM_GUEST);
	wait_for(&f->lost, 1);
	assert_int_equal(guest_hello(f->guest, clock_in(10000), &hello, &err), -1);
	assert_int_equal(err.code, FCM_GUEST);

	struct rusage a, b; /* a channel that was lost costs nothing until it is closed */
	getrusage(RUSAGE_SELF, &a);
	clock_sleep(200);
	getrusage(RUSAGE_SELF, &b);
	assert_in_range(
		(b.ru_utime.tv_sec - a.ru_utime.tv_sec) * 1000000 + b.ru_utime.tv_usec - a.ru_utime.tv_usec,
		0, 50000);
	assert_int_equal(f->lost, 1);
	disconnect(f);
}

static void test_close_in_lost(void **state)
{
	struct fixture *f = *state;

	f->close_in_lost = true;
	connect_agent(f, half_answer);
	struct fcm_error err;
	assert_int_equal(call(f->guest, "ping", "", 10000, NULL, &err), -1);
	wait_for(&f->lost, 1);
	assert_null(f->guest);
	disconnect(f);
}

static void *says_power(void *arg)
{
	struct fixture *f = arg;

	if (greet(f->agent_fd)) {
		send_power(f->agent_fd, "halt and catch fire");
		send_power(f->agent_fd, "reboot");
		send_power(f->agent_fd, "poweroff");
	}
	shutdown(f->agent_fd, SHUT_RDWR); /* the machine is reset: the word must not be lost */
	return NULL;
}

static void test_power(void **state)
{
	struct fixture *f = *state;

	connect_agent(f, says_power);
	wait_for(&f->lost, 1);
	assert_int_equal(f->power[GUEST_POWEROFF], 1);
	assert_int_equal(f->power[GUEST_REBOOT], 1);
	assert_int_equal(f->power[GUEST_CRASHED], 0);
	disconnect(f);
}

static void *flood(void *arg)
{
	struct fixture *f = arg;
	char zeros[FRAME_MAX] = {0};
	struct buf kv = {.p = zeros, .n = sizeof zeros};

	if (!greet(f->agent_fd))
		return NULL;
	for (int64_t deadline = clock_in(1500); clock_left(deadline);) {
		struct pollfd p = {.fd = f->agent_fd, .events = POLLOUT};
		if (poll(&p, 1, 100) <= 0)
			continue;
		send_kv(f->agent_fd, 12345, FRAME_RES, &kv);
		f->served++;
	}
	return NULL;
}

/* Unasked answers by the megabyte: read at a bounded rate, nothing is kept, and the loop serves others
 * meanwhile. */
static void test_flood(void **state)
{
	struct fixture *f = *state;

	connect_agent(f, flood);
	expect_hello(f);
	pthread_join(f->agent_thread, NULL);
	f->agent_thread = 0;
	assert_in_range(f->served, 4, 100); /* without a brake: many thousands */
	assert_int_equal(f->lost, 0);
	disconnect(f);
}

static void *flood_before_hello(void *arg)
{
	struct fixture *f = arg;
	char junk[FRAME_MAX];

	memset(junk, 1, sizeof junk);
	for (int64_t deadline = clock_in(1000); clock_left(deadline);) {
		if (send(f->agent_fd, junk, sizeof junk, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
			f->served++;
		else
			clock_sleep(1);
	}
	return NULL;
}

static void test_flood_before_hello(void **state)
{
	struct fixture *f = *state;
	struct guest_hello hello;
	struct fcm_error err;

	connect_agent(f, flood_before_hello);
	assert_int_equal(guest_hello(f->guest, clock_in(1200), &hello, &err), -1);
	assert_int_equal(err.code, FCM_TIMEOUT);
	assert_in_range(f->served, 1, 100);
	disconnect(f);
}

struct caller {
	struct fixture *f;
	const char *op;
	int64_t ms;
	struct fcm_error err;
	int r;
};

static void *call_elsewhere(void *arg)
{
	struct caller *c = arg;

	c->r = call(c->f->guest, c->op, "hallo", c->ms, NULL, &c->err);
	return NULL;
}

static void test_many_callers(void **state)
{
	struct fixture *f = *state;
	struct caller c[20];
	pthread_t t[20];

	connect_agent(f, honest);
	for (int round = 0; round < 20; round++) {
		for (size_t i = 0; i < 20; i++) {
			c[i] = (struct caller){
				.f = f, .op = i % 5 ? "ping" : "hang", .ms = i % 5 ? 10000 : 5};
			pthread_create(&t[i], NULL, call_elsewhere, &c[i]);
		}
		for (size_t i = 0; i < 20; i++) {
			pthread_join(t[i], NULL);
			assert_int_equal(c[i].r, i % 5 ? 0 : -1);
		}
	}
	disconnect(f);
}

/* 65 requests that are never answered: the last is refused; closing ends all the others. */
static void test_close_ends_calls(void **state)
{
	struct fixture *f = *state;
	struct caller c[64];
	pthread_t t[64];
	struct fcm_error err;

	connect_agent(f, honest);
	expect_hello(f);
	int greeted = f->served;
	for (size_t i = 0; i < 64; i++) {
		c[i] = (struct caller){.f = f, .op = "hang", .ms = 60000};
		pthread_create(&t[i], NULL, call_elsewhere, &c[i]);
	}
	wait_for(&f->served, greeted + 64);
	while (call(f->guest, "ping", "", 10000, NULL, &err) == 0) /* a repeated HELLO was counted as well */
		clock_sleep(1);
	assert_int_equal(err.code, FCM_UNAVAILABLE);
	disconnect(f);
	for (size_t i = 0; i < 64; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(c[i].r, -1);
		assert_int_equal(c[i].err.code, FCM_GUEST);
	}
	assert_int_equal(f->lost, 0);
}

/* An agent that reads nothing: requests pile up in the socket, then in our buffer, and then are refused. */
static void test_agent_does_not_read(void **state)
{
	struct fixture *f = *state;
	_cleanup_(buf_done) struct buf b = {0};
	struct fcm_error err = {0};

	connect_agent(f, NULL);
	assert_true(greet(f->agent_fd));
	expect_hello(f);
	kv_add(&b, "op", "ping");
	kv_end(&b);
	while (b.n < FRAME_MAX)
		buf_add(&b, "x", 1);
	for (int i = 0; i < 60 && err.code != FCM_GUEST; i++)
		assert_int_equal(guest_call(f->guest, &b, clock_in(1), NULL, &err), -1);
	assert_int_equal(err.code, FCM_GUEST);
	assert_non_null(strstr(err.msg, "doesn't read"));
	pthread_create(&f->agent_thread, NULL, honest, f); /* it wakes up, and reads whole frames */
	expect_ping(f);
	disconnect(f);
}

static void *other_version(void *arg)
{
	struct fixture *f = arg;
	static _Thread_local struct request rq;
	_cleanup_(buf_done) struct buf b = {0};

	if (!next_frame(f->agent_fd, &rq))
		return NULL;
	kv_add(&b, "magic", FRAME_MAGIC);
	kv_add(&b, "version", "2");
	kv_add(&b, "nonce", kv_get(rq.frame.payload, rq.frame.len, "nonce"));
	kv_add(&b, "boot_id", BOOT_ID);
	send_kv(f->agent_fd, 0, FRAME_HELLO, &b);
	return NULL;
}

static void test_other_version(void **state)
{
	struct fixture *f = *state;
	struct guest_hello hello;
	struct fcm_error err;

	connect_agent(f, other_version);
	assert_int_equal(guest_hello(f->guest, clock_in(10000), &hello, &err), -1);
	assert_int_equal(err.code, FCM_GUEST);
	assert_non_null(strstr(err.msg, "version 2"));
	disconnect(f);
}

static enum guest_power console(const char *text)
{
	return intake_console(text, strlen(text));
}

static void test_console(void **state)
{
	const char *cut = "[ 1.0] fcm-agent: power poweroff";

	(void)state;
	assert_int_equal(console(""), GUEST_CRASHED);
	assert_int_equal(console("fcm-agent: power"), GUEST_CRASHED);
	assert_int_equal(console("login: \r\n[ 9.2] Kernel panic - not syncing: Oops\r\n"), GUEST_CRASHED);
	assert_int_equal(console("[ 9.2] reboot: Restarting system\r\n"), GUEST_CRASHED);
	assert_int_equal(console("fcm-agent: power hibernate\r\n"), GUEST_CRASHED);
	assert_int_equal(console("[ 9.1] fcm-agent: power poweroff\r\n[ 9.2] reboot: Restarting system\r\n"),
		GUEST_POWEROFF);
	assert_int_equal(console("login: [ 9.1] fcm-agent: power reboot\r\n"), GUEST_REBOOT);
	assert_int_equal(console("fcm-agent: power reboot\nfcm-agent: power poweroff\n"), GUEST_POWEROFF);
	assert_int_equal(console("fcm-agent: power poweroff\nfcm-agent: power reboot"), GUEST_REBOOT);
	for (size_t n = 0; n < strlen(cut);
		n++) /* nothing behind the end is read, nothing half is believed */
		assert_int_equal(intake_console(cut, n), GUEST_CRASHED);
	assert_int_equal(intake_console("\0fcm-agent: power reboot", 24), GUEST_REBOOT);
}

static void test_bad_descriptor(void **state)
{
	struct fixture *f = *state;
	struct guest_events events = {0};
	struct fcm_error err;

	assert_int_equal(guest_open(f->loop, -1, &events, &f->guest, &err), -1);
	assert_int_equal(err.sys, EBADF);
	guest_close(NULL);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, begin, end)
	const struct CMUnitTest tests[] = {
		T(test_honest),
		T(test_error_answers),
		T(test_hang_and_late_answer),
		T(test_together),
		T(test_silent),
		T(test_hello_repeats),
		T(test_garbage_before_hello),
		T(test_partial_frames),
		T(test_largest_answer),
		T(test_second_answer_is_dropped),
		T(test_requests_bounded),
		T(test_malformed_frames),
		T(test_closes_in_answer),
		T(test_close_in_lost),
		T(test_power),
		cmocka_unit_test(test_console),
		T(test_flood),
		T(test_flood_before_hello),
		T(test_many_callers),
		T(test_close_ends_calls),
		T(test_agent_does_not_read),
		T(test_other_version),
		T(test_bad_descriptor),
	};
	return cmocka_run_group_tests_name("guest", tests, NULL, NULL);
}
