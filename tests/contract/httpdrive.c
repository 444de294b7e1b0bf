/*
 * httpdrive: a server on daemon/http with a handful of routes, for test_http.py.
 *
 *	httpdrive LISTEN SOCKET MAX-CONNECTIONS MAX-ANONYMOUS HEADER-SECONDS
 *
 * Prints "ready" when it serves and one line for each thing that a test waits for; ends on SIGTERM like the daemon, with
 * five seconds for what is in progress.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/crypt.h"
#include "daemon/http/http.h"

#define TOKEN "fcm_test_0123456789"

bool token_check(const char *secret, size_t n, struct token_info *ret)
{
	if (n != strlen(TOKEN) || memcmp(secret, TOKEN, n) != 0)
		return false;
	*ret = (struct token_info){.id = "testtest", .name = "tester", .scope = SCOPE_FULL};
	return true;
}

bool token_known(const char *id)
{
	return strcmp(id, "testtest") == 0;
}

struct echo {
	char name[64];
	uint32_t count;
};

static const struct field echo_fields[] = {
	F(struct echo, name, FIELD_CHARS, .doc = "a name"),
	F(struct echo, count, FIELD_U32, .min = 0, .max = 10, .doc = "a number"),
	FIELD_END,
};

void route_body_init(const struct route *route, void *body)
{
	if (route->body == echo_fields)
		((struct echo *)body)->count = 7;
}

/* The one VM: counts how often it is held. */
struct vm {
	int held;
};
static struct vm the_vm;

static struct vm *resolve(const char *text, bool exact, const struct token_info *token, struct fcm_error *err)
{
	(void)exact, (void)token;
	if (strcmp(text, "web") != 0) {
		fcm_fail(err, FCM_NOT_FOUND, "vm '%s' not found", text);
		return NULL;
	}
	__atomic_add_fetch(&the_vm.held, 1, __ATOMIC_SEQ_CST);
	return &the_vm;
}

static const char *vm_id(const struct vm *vm)
{
	(void)vm;
	return "vmvmvmvm";
}

static void release(struct vm *vm)
{
	__atomic_sub_fetch(&vm->held, 1, __ATOMIC_SEQ_CST);
}

static void say(const char *what)
{
	printf("%s\n", what);
	fflush(stdout);
}

static int health(struct request *rq, struct fcm_error *err)
{
	(void)err;
	return http_reply_text(rq, 200, "application/json", "{\"status\":\"ok\"}\n", 16);
}

static int who(struct request *rq, struct fcm_error *err)
{
	field_json *v = fj_object();

	(void)err;
	fj_set_str(v, "name", http_token(rq)->name);
	fj_set_str(v, "x", http_query(rq, "x"));
	fj_set_str(v, "agent", http_header(rq, "User-Agent"));
	fj_set_str(v, "request_id", http_request_id(rq));
	return http_reply(rq, 200, v);
}

static int echo(struct request *rq, struct fcm_error *err)
{
	struct echo *e = http_body(rq);
	field_json *v = field_encode(echo_fields, e, false);

	(void)err;
	fj_set_int(v, "held", __atomic_load_n(&the_vm.held, __ATOMIC_SEQ_CST));
	return http_reply(rq, 200, v);
}

static int vm_get(struct request *rq, struct fcm_error *err)
{
	field_json *v = fj_object();

	(void)err;
	fj_set_str(v, "vm", http_param(rq, "vm"));
	fj_set_bool(v, "same", http_vm(rq) == &the_vm);
	return http_reply(rq, 200, v);
}

/* Waits until the client is gone or the server stops. */
static int slow(struct request *rq, struct fcm_error *err)
{
	struct pollfd p[] = {{http_connection_fd(rq), POLLRDHUP, 0}, {http_stop_fd(), POLLIN, 0}};

	say("slow begins");
	poll(p, 2, 20000);
	say(http_cancelled(rq) ? "slow cancelled" : "slow timeout");
	return fcm_fail(err, FCM_CANCELLED, "cancelled");
}

/* Sleeps, whatever happens. */
static int sleeper(struct request *rq, struct fcm_error *err)
{
	int64_t ms = 0;

	(void)err;
	(void)fcm_parse_i64(http_query(rq, "ms"), 0, 60000, &ms);
	say("sleep begins");
	clock_sleep(ms);
	say("sleep ends");
	return http_reply_text(rq, 200, "text/plain", "slept\n", 6);
}

static int none(struct request *rq, struct fcm_error *err)
{
	(void)rq, (void)err;
	return 0;
}

static int big(struct request *rq, struct fcm_error *err)
{
	size_t n = 16 << 20;
	auto_free char *text = xalloc(n);

	(void)err;
	memset(text, 'x', n);
	return http_reply_text(rq, 200, "text/plain", text, n);
}

struct ticks {
	struct request *rq;
	int n, of;
	bool heed;
};

static ssize_t tick(void *arg, char *p, size_t max)
{
	struct ticks *t = arg;

	if (t->n == t->of || (t->heed && http_cancelled(t->rq)))
		return 0;
	clock_sleep(50);
	t->n++;
	return snprintf(p, max, t->n < t->of ? "{\"tick\":%d}\n" : "{\"result\":{\"made\":%d}}\n", t->n);
}

static void ticks_done(void *arg)
{
	free(arg);
	say("stream done");
}

static int stream(struct request *rq, struct fcm_error *err)
{
	struct ticks *t = xalloc(sizeof *t);
	int64_t of = 3;

	(void)err;
	if (http_query(rq, "n"))
		(void)fcm_parse_i64(http_query(rq, "n"), 1, 1000000, &of);
	*t = (struct ticks){.rq = rq, .of = (int)of, .heed = true};
	return http_reply_stream(rq, "application/x-ndjson", tick, ticks_done, t);
}

static ssize_t flood(void *arg, char *p, size_t max)
{
	(void)arg;
	memset(p, 'y', max);
	return (ssize_t)max;
}

static void flood_done(void *arg)
{
	(void)arg;
	say("flood done");
}

static int flooding(struct request *rq, struct fcm_error *err)
{
	(void)err;
	return http_reply_stream(rq, "text/plain", flood, flood_done, NULL);
}

/* Each call makes one; a stream when the client wants progress. */
static int create(struct request *rq, struct fcm_error *err)
{
	static int made;
	struct echo *e = http_body(rq);
	int n = __atomic_add_fetch(&made, 1, __ATOMIC_SEQ_CST);

	say("create");
	if (strcmp(e->name, "fail") == 0)
		return fcm_fail(err, FCM_HOST, "failure %d", n);
	if (strcmp(e->name, "taken") == 0)
		return fcm_fail(err, FCM_NAME_TAKEN, "taken %d", n);
	if (http_wants_progress(rq)) {
		struct ticks *t = xalloc(sizeof *t);
		*t = (struct ticks){.rq = rq, .of = 5};
		return http_reply_stream(rq, "application/x-ndjson", tick, ticks_done, t);
	}
	clock_sleep(200);
	field_json *v = fj_object();
	fj_set_int(v, "made", n);
	return http_reply(rq, 201, v);
}

struct upload {
	size_t n;
	unsigned sum;
};

static int upload_feed(void *arg, const void *p, size_t n, struct fcm_error *err)
{
	struct upload *u = arg;

	for (size_t i = 0; i < n; i++)
		u->sum += ((const uint8_t *)p)[i];
	u->n += n;
	if (memchr(p, '!', n))
		return fcm_fail(err, FCM_INVALID, "an upload has no '!'");
	return 0;
}

static int upload_finish(void *arg, struct request *rq, struct fcm_error *err)
{
	struct upload *u = arg;
	field_json *v = fj_object();

	(void)err;
	fj_set_int(v, "bytes", (int64_t)u->n);
	fj_set_int(v, "sum", u->sum);
	return http_reply(rq, 201, v);
}

static void upload_done(void *arg)
{
	free(arg);
	say("upload done");
}

static int upload(struct request *rq, struct fcm_error *err)
{
	if (strcmp(http_param(rq, "name"), "bad") == 0)
		return fcm_fail_field(err, FCM_INVALID, "name", "'bad' isn't a good name");
	return http_receive(rq, upload_feed, upload_finish, upload_done, xalloc(sizeof(struct upload)));
}

static void upgraded(void *arg, int fd, const void *extra, size_t n)
{
	char bytes[4096];
	struct pollfd p[] = {{fd, POLLIN, 0}, {http_stop_fd(), POLLIN, 0}};

	free(arg);
	if (fd < 0) {
		say("upgrade didn't happen");
		return;
	}
	(void)!send(fd, extra, n, MSG_NOSIGNAL);
	while (poll(p, 2, -1) > 0 && !p[1].revents) {
		ssize_t got = recv(fd, bytes, sizeof bytes, 0);
		if (got <= 0)
			break;
		(void)!send(fd, bytes, (size_t)got, MSG_NOSIGNAL);
	}
	say("upgrade ends");
}

static int tunnel(struct request *rq, struct fcm_error *err)
{
	(void)err;
	return http_upgrade(rq, "fcm-tunnel", upgraded, xalloc(1));
}

#define BODY echo_fields, sizeof(struct echo)
static const struct field queries[] = {
	{.key = "x", .type = FIELD_CHARS},
	{.key = "ms", .type = FIELD_U32},
	{.key = "n", .type = FIELD_U32},
	FIELD_END,
};
const struct route routes[] = {
	{"GET", "/healthz", NEED_NONE, SUBJECT_NONE, NULL, 0, 0, 0, health, NULL},
	{"GET", "/v1/who", NEED_READ, SUBJECT_NONE, NULL, 0, 0, 0, who, queries},
	{"POST", "/v1/echo", NEED_FULL, SUBJECT_NONE, BODY, 4096, 0, echo, NULL},
	{"PUT", "/v1/echo", NEED_FULL, SUBJECT_NONE, BODY, 4096, 0, echo, NULL},
	{"GET", "/v1/vms/{vm}", NEED_READ, SUBJECT_VM, NULL, 0, 0, 0, vm_get, NULL},
	{"GET", "/v1/slow", NEED_READ, SUBJECT_NONE, NULL, 0, 0, 0, slow, NULL},
	{"GET", "/v1/sleep", NEED_READ, SUBJECT_NONE, NULL, 0, 0, 0, sleeper, queries},
	{"GET", "/v1/none", NEED_READ, SUBJECT_NONE, NULL, 0, 0, 0, none, NULL},
	{"GET", "/v1/big", NEED_READ, SUBJECT_NONE, NULL, 0, 0, 0, big, NULL},
	{"GET", "/v1/stream", NEED_READ, SUBJECT_NONE, NULL, 0, 0, 0, stream, queries},
	{"GET", "/v1/flood", NEED_READ, SUBJECT_NONE, NULL, 0, 0, 0, flooding, NULL},
	{"POST", "/v1/create", NEED_FULL, SUBJECT_NONE, BODY, 4096, ROUTE_PROGRESS | ROUTE_IDEMPOTENT, create,
		NULL},
	{"PUT", "/v1/files/{name}", NEED_FULL, SUBJECT_NONE, NULL, 0, 64 << 20, ROUTE_RAW, upload, NULL},
	{"GET", "/v1/tunnel", NEED_READ, SUBJECT_NONE, NULL, 0, 0, ROUTE_UPGRADE, tunnel, NULL},
	{NULL, NULL, NEED_READ, SUBJECT_NONE, NULL, 0, 0, 0, NULL, NULL},
};

static int fail(const struct fcm_error *err)
{
	fprintf(stderr, "httpdrive: %s: %s\n", fcm_code_info(err->code)->wire, err->msg);
	return 1;
}

int main(int argc, char **argv)
{
	struct fcm_error err;
	sigset_t set;
	int sig;

	if (argc != 7)
		return 2;
	crypt_init();
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	struct http_config config = {
		.listen = argv[1],
		.socket_path = argv[2],
		.socket_group = "",
		.proxy_path = argv[6],
		.max_connections = (uint32_t)atoi(argv[3]),
		.max_anonymous = (uint32_t)atoi(argv[4]),
		.header_seconds = (uint32_t)atoi(argv[5]),
		.resolve = resolve,
		.release = release,
		.vm_id = vm_id,
	};
	if (http_init(&config, &err) < 0 || http_serve(&err) < 0)
		return fail(&err);
	say("ready");
	sigwait(&set, &sig);
	http_stop(clock_in(5000));
	say(the_vm.held ? "a vm is still held" : "stopped");
	return 0;
}
