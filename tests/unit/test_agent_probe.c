/* op=probe of fcm-agent: real servers on loopback, over a socketpair. Needs root. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "images/agent/probe.h"
#include "tests/unit/agenttest.h"

enum { PATIENCE_MS = 20000, STREAM = 1 };

struct world {
	struct agenttest side;
	struct buf said, res;
	bool over;
};

static int setup(void **state)
{
	struct world *w = xalloc(sizeof *w);

	*state = w;
	return agenttest_begin(&w->side);
}

static int teardown(void **state)
{
	struct world *w = *state;

	agenttest_end(&w->side);
	buf_done(&w->said);
	buf_done(&w->res);
	free(w);
	return 0;
}

static void send_request(struct world *w, uint32_t stream, const struct buf *kv)
{
	_cleanup_(buf_done) struct buf b = {0};

	frame_add(&b, stream, FRAME_REQ, kv->p, kv->n);
	agenttest_send(&w->side, &b);
}

static void take(void *arg, const struct frame *f)
{
	struct world *w = arg;

	if (f->stream == STREAM && f->type == FRAME_DATA)
		buf_add(&w->said, f->payload, f->len);
	if (f->stream == STREAM && f->type == FRAME_RES) {
		buf_add(&w->res, f->payload, f->len);
		w->over = true;
	}
}

static void round_of(struct world *w)
{
	agenttest_round(&w->side, take, w);
}

static void run_for(struct world *w, int64_t ms)
{
	for (int64_t end = clock_in(ms); clock_ms() < end;)
		round_of(w);
}

/* Ask, wait for the answer, and give its exit status: -1 when it has none. */
static int ask(struct world *w, const struct buf *kv)
{
	buf_drop(&w->said, w->said.n);
	buf_drop(&w->res, w->res.n);
	w->over = false;
	send_request(w, STREAM, kv);
	for (int64_t end = clock_in(PATIENCE_MS); !w->over && clock_ms() < end;)
		round_of(w);
	assert_true(w->over);
	return (int)kv_i64(w->res.p, w->res.n, "exit", 0, 255, -1);
}

static int ask_port(struct world *w, const char *mode, uint16_t port, const char *timeout_ms)
{
	_cleanup_(buf_done) struct buf kv = {0};

	kv_add(&kv, "op", "probe");
	kv_add(&kv, "mode", mode);
	kv_add(&kv, "timeout_ms", timeout_ms);
	kv_addf(&kv, "port", "%u", port);
	kv_addf(&kv, "url", "http://127.0.0.1:%u/it?x=1", port);
	return ask(w, &kv);
}

static int ask_words(struct world *w, const char *p, size_t n)
{
	_cleanup_(buf_done) struct buf kv = {0};

	buf_add(&kv, p, n);
	return ask(w, &kv);
}

#define ASK(w, kv) ask_words(w, kv, sizeof(kv))
#define ADD(b, kv) buf_add(b, kv, sizeof(kv))

/* What was said, on one line. */
static const char *said(struct world *w)
{
	return w->said.n ? w->said.p : "";
}

/* ---- servers ---- */

struct server {
	uint16_t port;
	pid_t pid; /* of who serves it */
};

static int listen_on(const char *address, uint16_t *ret_port)
{
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
	struct sockaddr_in v4 = {.sin_family = AF_INET};
	bool six = inet_pton(AF_INET, address, &v4.sin_addr) != 1;
	socklen_t n = six ? sizeof v6 : sizeof v4;
	struct sockaddr *a = six ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4;

	if (six)
		assert_int_equal(inet_pton(AF_INET6, address, &v6.sin6_addr), 1);
	int fd = socket(a->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, a, n), 0);
	assert_int_equal(listen(fd, 8), 0);
	assert_int_equal(getsockname(fd, a, &n), 0);
	*ret_port = ntohs(six ? v6.sin6_port : v4.sin_port);
	return fd;
}

/* A process that answers each connection on that address with `text`; with NULL it never does. */
static struct server serve(const char *address, const char *text)
{
	struct server s;
	int fd = listen_on(address, &s.port);

	s.pid = fork();
	assert_true(s.pid >= 0);
	if (s.pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* when a test fails */
	for (int client; s.pid == 0 && (client = accept4(fd, NULL, NULL, SOCK_CLOEXEC)) >= 0;) {
		char request[1024];
		if (text == NULL)
			continue;
		if (strncmp(text, "HTTP", 4) == 0 &&
			(recv(client, request, sizeof request, 0) <= 0 ||
				strncmp(request, "GET /it?x=1 HTTP/1.0\r\nHost: 127.0.0.1:", 38)))
			text = "the request is wrong";
		(void)!write(client, text, strlen(text));
		close(client);
	}
	if (s.pid == 0)
		_exit(1);
	close(fd);
	return s;
}

/* The agent's exec_reap() may take its end. */
static void end(struct server *s)
{
	kill(s->pid, SIGKILL);
}

/* ---- */

static void tcp(void **state)
{
	struct world *w = *state;
	struct server s = serve("127.0.0.1", NULL), six = serve("::1", NULL);
	uint16_t closed;

	assert_int_equal(ask_port(w, "tcp", s.port, "2000"), 0);
	assert_string_equal(said(w), "");
	assert_int_equal(ask_port(w, "tcp", six.port, "2000"), 0);
	end(&s);
	end(&six);
	close(listen_on("127.0.0.1", &closed));
	assert_int_equal(ask_port(w, "tcp", closed, "2000"), 1);
	assert_non_null(strstr(said(w), "Connection refused"));
}

/* A server that listens on the guest's own address only. */
static void tcp_on_its_own_address(void **state)
{
	struct world *w = *state;
	struct server s = serve("127.0.0.7", NULL);
	_cleanup_(buf_done) struct buf kv = {0};

	assert_int_equal(ask_port(w, "tcp", s.port, "2000"), 1);
	kv_add(&kv, "op", "probe");
	kv_add(&kv, "mode", "tcp");
	kv_addf(&kv, "port", "%u", s.port);
	kv_add(&kv, "address", "127.0.0.7");
	assert_int_equal(ask(w, &kv), 0);
	end(&s);
}

static void ssh(void **state)
{
	struct world *w = *state;
	struct server good = serve("127.0.0.1", "SSH-2.0-x\r\n"), bad = serve("127.0.0.1", "220 smtp\r\n"),
		      deaf = serve("127.0.0.1", NULL);

	assert_int_equal(ask_port(w, "ssh", good.port, "2000"), 0);
	assert_int_equal(ask_port(w, "ssh", bad.port, "2000"), 1);
	assert_string_equal(said(w), "no banner of an ssh server came\n");
	int64_t begun = clock_ms();
	assert_int_equal(ask_port(w, "ssh", deaf.port, "300"), 1);
	assert_in_range(clock_ms() - begun, 250, 5000);
	end(&good);
	end(&bad);
	end(&deaf);
}

static void http(void **state)
{
	static const struct {
		const char *answer, *said;
		int status;
	} cases[] = {
		{"HTTP/1.0 200 OK\r\n\r\n", "", 0},
		{"HTTP/1.1 204 No Content\r\n\r\n", "", 0},
		{"HTTP/1.1 301 Moved\r\nLocation: http://example.com/\r\n\r\n", "", 0},
		{"HTTP/1.1 399", "", 0},
		{"HTTP/1.1 400 Bad\r\n\r\n", "HTTP status 400\n", 1},
		{"HTTP/1.1 503 No\r\n\r\n", "HTTP status 503\n", 1},
		{"HTTP/1.1 199 x\r\n\r\n", "HTTP status 199\n", 1},
		{"HTTP/2 200\r\n\r\n", "no HTTP answer came\n", 1},
		{"HTTP/1.1 2", "no HTTP answer came\n", 1},
		{"HTTP/1.1 -20 x\r\n", "no HTTP answer came\n", 1},
		{"", "no HTTP answer came\n", 1},
		{"ICY 200 OK\r\n\r\n", "no HTTP answer came\n", 1},
	};
	struct world *w = *state;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct server s = serve("127.0.0.1", cases[i].answer);
		assert_int_equal(ask_port(w, "http", s.port, "2000"), cases[i].status);
		assert_string_equal(said(w), cases[i].said);
		end(&s);
	}
}

/* What is elsewhere isn't asked: nothing but this machine's own addresses can be bound. */
static void only_this_machine(void **state)
{
	struct world *w = *state;

	assert_int_equal(ASK(w, "op=probe\0mode=http\0url=http://192.0.2.1/"), 1);
	assert_non_null(strstr(said(w), "isn't this machine's"));
	assert_int_equal(ASK(w, "op=probe\0mode=http\0url=http://example.com/"), -1);
}

static void exec(void **state)
{
	struct world *w = *state;

	assert_int_equal(ASK(w, "op=probe\0mode=exec\0arg=/bin/sh\0arg=-c\0arg=exit 0"), 0);
	assert_int_equal(ASK(w, "op=probe\0mode=exec\0arg=/bin/sh\0arg=-c\0arg=echo no; exit 9"), 9);
	assert_string_equal(said(w), "no\n");
	assert_int_equal(ASK(w, "op=probe\0mode=exec\0arg=no-such-program"), 127);
	assert_non_null(kv_get(w->res.p, w->res.n, "error"));
}

/* Nothing of it is left when it has ended, nor when nobody waits for it any more. */
static void its_group_ends(void **state)
{
	struct world *w = *state;
	_cleanup_(buf_done) struct buf kv = {0};

	assert_int_equal(
		ASK(w, "op=probe\0mode=exec\0arg=/bin/sh\0arg=-c\0arg=sleep 1000 >/dev/null 2>&1 & echo $!"),
		0);
	pid_t left = (pid_t)strtol(said(w), NULL, 10);
	assert_true(left > 0);
	for (int64_t end = clock_in(5000); kill(left, 0) == 0 && clock_ms() < end;)
		round_of(w);
	assert_int_equal(kill(left, 0), -1);
	ADD(&kv, "op=probe\0mode=exec\0arg=sleep\0arg=1000");
	send_request(w, STREAM + 1, &kv);
	run_for(w, 100);
	assert_int_equal(w->side.agent.execs.count, 1);
	pid_t pid = w->side.agent.execs.open[0]->pid;
	buf_drop(&kv, kv.n);
	kv_add(&kv, "op", "close");
	kv_addf(&kv, "stream", "%d", STREAM + 1);
	send_request(w, STREAM + 2, &kv);
	for (int64_t end = clock_in(5000); kill(pid, 0) == 0 && clock_ms() < end;)
		round_of(w);
	assert_int_equal(kill(pid, 0), -1);
}

static void refused(void **state)
{
	struct world *w = *state;

	assert_int_equal(ASK(w, "op=probe"), -1);
	assert_int_equal(ASK(w, "op=probe\0mode=udp\0port=1"), -1);
	assert_int_equal(ASK(w, "op=probe\0mode=tcp"), -1);
	assert_int_equal(ASK(w, "op=probe\0mode=tcp\0port=65536"), -1);
	assert_int_equal(ASK(w, "op=probe\0mode=http"), -1);
	assert_int_equal(ASK(w, "op=probe\0mode=http\0url=http://localhost/\r\nX: y"), -1);
	assert_int_equal(ASK(w, "op=probe\0mode=tcp\0port=1\0address=web"), -1);
	assert_int_equal(ASK(w, "op=probe\0mode=exec"), -1);
	w->side.agent.root.mounted = false;
	assert_int_equal(ASK(w, "op=probe\0mode=tcp\0port=1"), -1);
	w->side.agent.root.mounted = true;
	w->side.agent.power.phase = POWER_TERM;
	assert_int_equal(ASK(w, "op=probe\0mode=tcp\0port=1"), -1);
}

/* A child has none of the agent's descriptors: one would keep another program's stdin open. */
static void a_probe_holds_no_descriptor(void **state)
{
	struct world *w = *state;
	struct server deaf = serve("127.0.0.1", NULL);
	_cleanup_(buf_done) struct buf cat = {0}, probe = {0}, end_of = {0};

	ADD(&cat, "op=exec\0arg=cat\0stdin=1");
	send_request(w, STREAM, &cat);
	kv_add(&probe, "op", "probe");
	kv_add(&probe, "mode", "ssh");
	kv_addf(&probe, "port", "%u", deaf.port);
	kv_add(&probe, "timeout_ms", "5000");
	send_request(w, STREAM + 1, &probe);
	run_for(w, 100);
	frame_add_end(&end_of, STREAM, FRAME_STDIN);
	assert_int_equal(fd_write_all(w->side.host, end_of.p, end_of.n), 0);
	for (int64_t until = clock_in(2000); !w->over && clock_ms() < until;)
		round_of(w);
	assert_true(w->over);
	end(&deaf);
}

int main(void)
{
#define SESSION(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		SESSION(tcp),
		SESSION(tcp_on_its_own_address),
		SESSION(ssh),
		SESSION(http),
		SESSION(only_this_machine),
		SESSION(exec),
		SESSION(its_group_ends),
		SESSION(refused),
		SESSION(a_probe_holds_no_descriptor),
	};

	/* As PID 1 has it: orphans are ours, and SIGPIPE is ignored. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
