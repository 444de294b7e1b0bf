/* daemon/vmm/qmp against a scripted server that is slow, wrong, silent, or endless. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/util.h"
#include "daemon/vmm/qmp.h"

#define GREETING                                                                                             \
	"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}}, "                  \
	"\"capabilities\": [\"oob\"]}}\r\n"
#define READY "{\"return\": {}, \"id\": 1}\r\n"
#define EVENT "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"RESUME\"}\r\n"

static struct fcm_error err;

/* A server whose words are all written beforehand or by a thread, piece by piece. */
struct server {
	int client, server;
	pthread_t thread;
	bool running;
	const char *text;
	size_t n, piece;
	int64_t pause_ms;
	bool close_after;
};

static void *speak(void *arg)
{
	struct server *s = arg;

	for (size_t at = 0; at < s->n; at += s->piece) {
		size_t k = MIN(s->piece, s->n - at);
		if (send(s->server, s->text + at, k, MSG_NOSIGNAL) < 0)
			break;
		clock_sleep(s->pause_ms);
	}
	if (s->close_after)
		shutdown(s->server, SHUT_RDWR);
	return NULL;
}

static void begin(struct server *s, const char *text, size_t n)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	s->client = pair[0];
	s->server = pair[1];
	s->text = text;
	s->n = n;
	s->piece = s->piece ? s->piece : n;
	s->running = true;
	assert_int_equal(pthread_create(&s->thread, NULL, speak, s), 0);
}

static void end(struct server *s)
{
	shutdown(s->server, SHUT_RDWR);
	pthread_join(s->thread, NULL);
	close(s->server);
}

static int open_with(struct server *s, const char *text, int64_t ms, struct qmp *q)
{
	begin(s, text, strlen(text));
	return qmp_open(q, s->client, clock_in(ms), &err);
}

/* The handshake must fail with `code` and `words`, and not take longer than its deadline. */
static void refuse(const char *text, bool close_after, enum fcm_code code, const char *words)
{
	struct server s = {.close_after = close_after};
	struct qmp q;
	int64_t t = clock_ms();

	assert_int_equal(open_with(&s, text, 300, &q), -1);
	assert_in_range(clock_ms() - t, 0, 2000);
	if (err.code != code || !strstr(err.msg, words))
		fail_msg("%s: code %d, \"%s\"", text, (int)err.code, err.msg);
	assert_int_equal(q.fd, -1);
	end(&s);
}

static void test_handshake(void **state)
{
	(void)state;
	struct server s = {0};
	struct qmp q;
	char sent[256] = "";

	assert_int_equal(
		open_with(&s, GREETING EVENT READY EVENT "{\"return\": {}, \"id\": 2}\r\n", 5000, &q), 0);
	assert_int_equal(qmp_run(&q, "send-key", "{\"keys\":[]}", clock_in(5000), &err), 0);
	assert_true(recv(s.server, sent, sizeof sent - 1, 0) > 0);
	assert_string_equal(sent, "{\"execute\":\"qmp_capabilities\",\"id\":1}\n"
				  "{\"execute\":\"send-key\",\"id\":2,\"arguments\":{\"keys\":[]}}\n");
	qmp_done(&q);
	end(&s);
}

static void test_byte_by_byte(void **state)
{
	(void)state;
	struct server s = {.piece = 1, .pause_ms = 1};
	struct qmp q;

	assert_int_equal(open_with(&s, GREETING EVENT READY, 10000, &q), 0);
	qmp_done(&q);
	end(&s);
}

static void test_bad_greetings(void **state)
{
	(void)state;
	refuse("", false, FCM_TIMEOUT, "does not answer");
	refuse("", true, FCM_VMM, "closed");
	refuse("{\"QMP\": {}", false, FCM_TIMEOUT, "does not answer");
	refuse("{\"QMP\": {}", true, FCM_VMM, "closed");
	refuse("HTTP/1.1 200 OK\r\n\r\n", false, FCM_VMM, "no JSON object");
	refuse("[1]\n", false, FCM_VMM, "no JSON object");
	refuse("\n", false, FCM_VMM, "no JSON object");
	refuse("{\"QMP\": 1, \"QMP\": 2}\n", false, FCM_VMM, "no JSON object");
	refuse("{\"hello\": 1}\n", false, FCM_VMM, "speak QMP");
	refuse(GREETING, false, FCM_TIMEOUT, "does not answer");
	refuse(GREETING EVENT "{\"return\": {}, \"id\": 7}\n{\"return\": {}}\n", false, FCM_TIMEOUT,
		"does not answer");
	refuse(GREETING "{\"return\": {}, \"id\": \"1\"}\n", false, FCM_TIMEOUT, "does not answer");
	refuse(GREETING "{\"id\": 1}\n", false, FCM_VMM, "says nothing");
	refuse(GREETING
		"{\"id\": 1, \"error\": {\"class\": \"GenericError\", \"desc\": \"no \\u001b[31mway\"}}\n",
		false, FCM_VMM, "refused qmp_capabilities: no ?[31mway");
	refuse(GREETING "{\"id\": 1, \"error\": 5}\n", false, FCM_VMM, "refused qmp_capabilities: ");
}

static void refuse_long(const char *front, char filler, size_t n, const char *words)
{
	auto_free char *text = xalloc(strlen(front) + n + 2);

	strcpy(text, front);
	memset(text + strlen(front), filler, n);
	text[strlen(front) + n] = '\n';
	refuse(text, false, FCM_VMM, words);
}

static void test_long_and_deep(void **state)
{
	(void)state;
	refuse_long("", 'x', 1 << 20, "more than 65536 bytes");
	refuse_long("{\"QMP\":", '[', 60000, "no JSON object");
	refuse_long("{\"QMP\":1", '0', 60000, "no JSON object");
}

/* Of an endless one the deadline is the end. */
static void test_many_events(void **state)
{
	(void)state;
	_cleanup_(buf_done) struct buf b = {0};

	buf_str(&b, GREETING);
	for (int i = 0; i < 20000; i++)
		buf_str(&b, EVENT);
	buf_str(&b, READY);
	struct server s = {0};
	struct qmp q;
	begin(&s, b.p, b.n);
	assert_int_equal(qmp_open(&q, s.client, clock_in(20000), &err), 0);
	qmp_done(&q);
	end(&s);
}

/* An answer that comes late isn't taken for that of the next command, nor is the half of one that was there by then. */
static void test_late_answer(void **state)
{
	(void)state;
	struct server s = {0};
	struct qmp q;

	assert_int_equal(open_with(&s, GREETING READY "{", 5000, &q), 0);
	assert_int_equal(qmp_run(&q, "stop", NULL, clock_in(50), &err), -1);
	assert_int_equal(err.code, FCM_TIMEOUT);
	static const char late[] = "\"id\": 2, \"error\": {\"desc\": \"no\"}}\n{\"id\": 3, \"return\": {}}\n";
	assert_int_equal(send(s.server, late, sizeof late - 1, MSG_NOSIGNAL), sizeof late - 1);
	assert_int_equal(qmp_run(&q, "cont", NULL, clock_in(5000), &err), 0);
	qmp_done(&q);
	end(&s);
}

/* A refusal is an answer: the connection goes on. */
static void test_refusal_then_more(void **state)
{
	(void)state;
	struct server s = {0};
	struct qmp q;

	assert_int_equal(open_with(&s,
				 GREETING READY "{\"id\": 2, \"error\": {\"desc\": \"not now\"}}\n"
						"{\"id\": 3, \"return\": {}}\n",
				 5000, &q),
		0);
	assert_int_equal(qmp_run(&q, "stop", NULL, clock_in(5000), &err), -1);
	assert_string_equal(err.msg, "the VMM refused stop: not now");
	assert_int_equal(qmp_run(&q, "cont", NULL, clock_in(5000), &err), 0);
	qmp_done(&q);
	end(&s);
}

/* What it returned is the caller's, whatever it is. */
static void test_ask(void **state)
{
	(void)state;
	struct server s = {0};
	struct qmp q;
	auto_json field_json *status = NULL, *word = NULL, *none = NULL;

	assert_int_equal(
		open_with(&s,
			GREETING READY
			"{\"id\": 2, \"return\": {\"status\": \"paused\"}}\n{\"id\": 3, \"return\": \"x\"}\n"
			"{\"id\": 4, \"error\": {\"desc\": \"not now\"}}\n",
			5000, &q),
		0);
	assert_int_equal(qmp_ask(&q, "query-status", &status, clock_in(5000), &err), 0);
	assert_string_equal(fj_get_str(status, "status"), "paused");
	assert_int_equal(qmp_ask(&q, "query-status", &word, clock_in(5000), &err), 0);
	assert_string_equal(fj_get_str(word, "status"), "");
	assert_int_equal(qmp_ask(&q, "query-status", &none, clock_in(5000), &err), -1);
	assert_null(none);
	qmp_done(&q);
	end(&s);
}

/* The descriptor goes with the first byte of the command. */
static void test_give(void **state)
{
	(void)state;
	static const char want[] = "{\"execute\":\"getfd\",\"id\":2,\"arguments\":{\"fdname\":\"x\"}}\n";
	struct server s = {0};
	struct qmp q;
	int pair[2], got = -1;
	char sent[256], control[CMSG_SPACE(sizeof got)], c = 0;

	assert_int_equal(open_with(&s, GREETING READY "{\"id\": 2, \"return\": {}}\n", 5000, &q), 0);
	assert_true(recv(s.server, sent, sizeof sent, 0) > 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(qmp_give(&q, "x", pair[1], clock_in(5000), &err), 0);
	struct iovec bytes = {sent, sizeof sent};
	struct msghdr m = {
		.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	assert_int_equal(recvmsg(s.server, &m, MSG_CMSG_CLOEXEC), sizeof want - 1);
	assert_memory_equal(sent, want, sizeof want - 1);
	assert_non_null(CMSG_FIRSTHDR(&m));
	memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof got);
	assert_int_equal(write(got, "!", 1), 1);
	assert_int_equal(read(pair[0], &c, 1), 1);
	assert_int_equal(c, '!');
	for (int i = 0; i < 2; i++)
		close(pair[i]);
	close(got);
	qmp_done(&q);
	end(&s);
}

/* A server that reads nothing can't hold us in send(). */
static void test_unread_commands(void **state)
{
	(void)state;
	struct server s = {0};
	struct qmp q;
	auto_free char *big = xalloc((4 << 20) + 3);
	int64_t t = clock_ms();

	assert_int_equal(open_with(&s, GREETING READY, 5000, &q), 0);
	memset(big, ' ', 4 << 20);
	strcpy(big + (4 << 20), "{}");
	assert_int_equal(qmp_run(&q, "x", big, clock_in(100), &err), -1);
	assert_int_equal(err.code, FCM_TIMEOUT);
	assert_in_range(clock_ms() - t, 90, 3000);
	qmp_done(&q);
	end(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_handshake),
		cmocka_unit_test(test_byte_by_byte),
		cmocka_unit_test(test_bad_greetings),
		cmocka_unit_test(test_long_and_deep),
		cmocka_unit_test(test_many_events),
		cmocka_unit_test(test_late_answer),
		cmocka_unit_test(test_refusal_then_more),
		cmocka_unit_test(test_ask),
		cmocka_unit_test(test_give),
		cmocka_unit_test(test_unread_commands),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
