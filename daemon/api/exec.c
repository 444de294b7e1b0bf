/*
 * POST exec: the request to the guest's agent, and the plain form, which waits for the end and answers with JSON. A command
 * isn't an operation on its VM: it claims nothing, and whoever stops the VM ends it.
 */
#include "daemon/api/exec.h"

#include <poll.h>
#include <string.h>

#include "common/core/clock.h"
#include "common/core/kv.h"
#include "common/core/log.h"
#include "common/crypt.h"

enum {
	OUTPUT_MAX = 1 << 20, /* bytes of stdout and of stderr in the plain form */
	HELLO_MS = 5000,      /* for a session that is just being made or mended */
	LOOK_MS = 50,	      /* how often to look whether there is one */
};

/* ---- the request ---- */

/* Some fields need the stream, others are in its place. */
static int check_form(const struct exec_request *b, bool stream, struct fcm_error *err)
{
	const struct {
		const char *key;
		bool given, here;
		const char *why;
	} rules[] = {
		{"stdin", b->with_stdin, stream,
			"needs Upgrade: " EXEC_PROTOCOL "; without it there is input"},
		{"tty", b->tty, stream, "needs Upgrade: " EXEC_PROTOCOL},
		{"input", b->input, !stream && !b->detach,
			"is for a command without a stream that is waited for"},
		{"detach", b->detach, !stream, "is for a command without a stream"},
		{"timeout", b->timeout, !b->detach, "is for a command that is waited for"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
		if (rules[i].given && !rules[i].here)
			return fcm_fail_field(
				err, FCM_INVALID, rules[i].key, "%s: it %s", rules[i].key, rules[i].why);
	return 0;
}

static void add_list(struct buf *rq, const char *key, const struct strv *l)
{
	for (size_t i = 0; i < l->n; i++)
		kv_add(rq, key, l->v[i]);
}

static void add_unless_empty(struct buf *rq, const char *key, const char *value)
{
	if (value && *value)
		kv_add(rq, key, value);
}

static void add_number(struct buf *rq, const char *key, unsigned value)
{
	if (value)
		kv_addf(rq, key, "%u", value);
}

/* docs/AGENT.md, op=exec */
static void write_request(const struct exec_request *b, struct buf *rq)
{
	kv_add(rq, "op", "exec");
	add_list(rq, "arg", &b->cmd);
	add_list(rq, "env", &b->env);
	add_unless_empty(rq, "dir", b->workdir);
	add_unless_empty(rq, "user", b->user);
	add_number(rq, "tty", b->tty);
	add_number(rq, "rows", b->rows);
	add_number(rq, "cols", b->cols);
	add_number(rq, "stdin", b->with_stdin || b->input);
	add_number(rq, "detach", b->detach);
}

static struct guest *session(struct vm *vm, enum vm_state *ret_state)
{
	registry_lock();
	*ret_state = vm->view.state;
	registry_unlock();
	return *ret_state == VM_RUNNING ? vm_guest(vm) : NULL;
}

struct guest *exec_guest(struct vm *vm, struct fcm_error *err)
{
	int64_t deadline = clock_in(HELLO_MS);
	enum vm_state state;
	struct guest *g;

	while ((g = session(vm, &state)) == NULL && state == VM_RUNNING && clock_left(deadline) > 0)
		clock_sleep(LOOK_MS);
	if (g)
		return g;
	if (state == VM_RUNNING) {
		fcm_fail(err, FCM_UNAVAILABLE, "the channel to the agent of '%s' isn't there yet",
			vm->view.name);
		return NULL;
	}
	fcm_fail(err, FCM_WRONG_STATE, "VM '%s' is %s", vm->view.name, vm_state_names[state]);
	fcm_hint(err, "fcm %s %s", vm_state_verb(state), vm->view.name);
	return NULL;
}

static struct exec *exec_new(struct vm *vm, const struct exec_request *b, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf rq = {0};
	struct guest_stream *stream = NULL;
	struct guest *g = exec_guest(vm, err);

	if (g == NULL)
		return NULL;
	write_request(b, &rq);
	int rc = guest_stream_open(g, &rq, clock_in(HELLO_MS), &stream, err);
	guest_unref(g);
	if (rc < 0)
		return NULL;
	struct exec *e = xalloc(sizeof *e);
	*e = (struct exec){.vm = vm_ref(vm), .stream = stream, .timeout = b->timeout, .log = {.fd = -1}};
	e->deadline = clock_in(b->timeout ? b->timeout * 1000ll : FCM_FOREVER);
	return e;
}

void exec_free(struct exec *e)
{
	if (e == NULL)
		return;
	guest_stream_close(e->stream);
	mainlog_reader_done(&e->log);
	vm_unref(e->vm);
	free(e);
}

static void exec_freep(struct exec **e)
{
	exec_free(*e);
}

int exec_too_late(const struct exec *e, struct fcm_error *err)
{
	return fcm_fail(err, FCM_TIMEOUT, "the command in '%s' did not end within %u s and was ended",
		e->vm->view.name, e->timeout);
}

/* ---- the result ---- */

/* A main process goes on with its VM; a command ends with its stream. */
static int broken_off(const struct exec *e, struct fcm_error *err)
{
	const char *name = e->vm->view.name;

	fcm_fail(err, FCM_WRONG_STATE, "VM '%s' was suspended", name);
	return e->attached ? fcm_hint(err, "fcm start %s, then fcm attach %s", name, name)
			   : fcm_hint(err, "fcm start %s, and the command again", name);
}

static int broken(const struct exec *e, struct fcm_error *err)
{
	registry_lock();
	enum vm_state state = e->vm->view.state;
	registry_unlock();
	if (state == VM_RUNNING)
		return fcm_wrap(err, "the command in '%s'", e->vm->view.name);
	if (state == VM_SUSPENDING || state == VM_SUSPENDED)
		return broken_off(e, err);
	fcm_fail(err, FCM_GUEST, "the command in '%s' ended with its VM", e->vm->view.name);
	return fcm_hint(err, "fcm %s %s", vm_state_verb(state), e->vm->view.name);
}

int exec_result(const struct exec *e, struct exec_result *ret, struct fcm_error *err)
{
	const struct buf *kv;

	if (guest_stream_result(e->stream, &kv, err) < 0)
		return broken(e, err);
	const char *error = kv_get(kv->p, kv->n, "error");
	int64_t code = kv_i64(kv->p, kv->n, "exit", 0, 255, -1),
		sig = kv_i64(kv->p, kv->n, "signal", 1, 64, 0);
	*ret = (struct exec_result){.pid = kv_i64(kv->p, kv->n, "pid", 1, INT32_MAX, 0)};
	if (error)
		guest_text(error, ret->error, sizeof ret->error);
	if (error && code != 126 && code != 127)
		return fcm_fail(err, FCM_GUEST, "the agent of '%s' says: %s", e->vm->view.name, ret->error);
	if (code < 0 && !sig && !ret->pid)
		return fcm_fail(err, FCM_GUEST, "the agent of '%s' gave a result that makes no sense",
			e->vm->view.name);
	ret->signal = (int)sig;
	ret->exit = sig ? 128 + (int)sig : MAX((int)code, 0);
	return 0;
}

/* ---- the plain form ---- */

struct output {
	struct buf b;
	bool truncated;
};

static void collect(struct output *o, const struct guest_piece *piece)
{
	/* one byte more than we show: it says whether the cut goes through a character */
	size_t n = MIN(piece->n, OUTPUT_MAX + 1 - o->b.n);

	buf_add(&o->b, piece->p, n);
}

/* Cut what is over the limit, at a whole character of UTF-8 (RFC 3629: at most 4 bytes). */
static void cut(struct output *o)
{
	size_t n = OUTPUT_MAX;

	o->truncated = o->b.n > n;
	if (!o->truncated)
		return;
	while (OUTPUT_MAX - n < 3 && ((unsigned char)o->b.p[n] & 0xc0) == 0x80)
		n--;
	o->b.n = n;
}

static void set_output(field_json *answer, const char *key, struct output *o)
{
	cut(o);
	field_json *text = fj_exact(o->b.p, o->b.n);
	if (text) {
		fj_set(answer, key, text);
		return;
	}
	auto_free char *name = xprintf("%s_base64", key), *encoded = crypt_base64(o->b.p, o->b.n);
	fj_set_str(answer, name, encoded);
}

static field_json *answer_of(const struct exec_result *result, struct output out[2])
{
	field_json *v = fj_object();

	if (result->pid) {
		fj_set_int(v, "pid", result->pid);
		return v;
	}
	fj_set_int(v, "exit", result->exit);
	if (result->signal)
		fj_set_int(v, "signal", result->signal);
	set_output(v, "stdout", &out[0]);
	set_output(v, "stderr", &out[1]);
	if (out[0].truncated || out[1].truncated)
		fj_set_bool(v, "truncated", true);
	if (result->error[0])
		fj_set_str(v, "reason", result->error);
	return v;
}

enum exec_news exec_wait(struct request *rq, struct guest_stream *stream, int64_t deadline)
{
	struct pollfd p[] = {
		{.fd = guest_stream_fd(stream), .events = POLLIN},
		{.fd = http_connection_fd(rq), .events = POLLRDHUP},
		{.fd = http_stop_fd(), .events = POLLIN},
	};
	int n;

	while ((n = poll(p, ARRAY_SIZE(p), clock_left(deadline))) < 0)
		;
	if (n == 0)
		return EXEC_LATE;
	if (p[1].revents)
		return EXEC_CLIENT_GONE;
	if (p[2].revents)
		return EXEC_STOPPING;
	guest_stream_clear(stream);
	return EXEC_NEWS;
}

static int wait_news(struct request *rq, const struct exec *e, struct fcm_error *err)
{
	switch (exec_wait(rq, e->stream, e->deadline)) {
	case EXEC_NEWS:
		return 0;
	case EXEC_LATE:
		return exec_too_late(e, err);
	case EXEC_CLIENT_GONE:
		return fcm_fail(err, FCM_CANCELLED, "the client went away; the command was ended");
	case EXEC_STOPPING:
		break;
	}
	return fcm_fail(err, FCM_UNAVAILABLE, "the daemon is stopping; the command was ended");
}

/* Feed it `input` and take what it says until it is over. */
static int wait_end(struct request *rq, const struct exec *e, const char *input, struct output out[2],
	struct fcm_error *err)
{
	size_t left = input ? strlen(input) : 0;
	auto_free struct guest_piece *piece = xalloc(sizeof *piece);
	bool ended = input == NULL;

	for (;;) {
		size_t n = guest_stream_write(e->stream, input, left);
		left -= n;
		input += n;
		ended = ended || (left == 0 && guest_stream_end(e->stream));
		switch (guest_stream_read(e->stream, piece)) {
		case GUEST_DATA:
			collect(&out[piece->channel - FRAME_STDOUT], piece);
			break;
		case GUEST_END:
			break;
		case GUEST_RESULT:
		case GUEST_BROKEN:
			return 0;
		case GUEST_LATER:
			if (wait_news(rq, e, err) < 0)
				return -1;
			break;
		}
	}
}

static int exec_plain(
	struct request *rq, const struct exec *e, const struct exec_request *b, struct fcm_error *err)
{
	struct output out[2] = {0};
	struct exec_result result = {0};

	int rc = wait_end(rq, e, b->input, out, err) < 0 ? -1 : exec_result(e, &result, err);
	if (rc == 0)
		rc = http_reply(rq, 200, answer_of(&result, out));
	buf_done(&out[0].b);
	buf_done(&out[1].b);
	return rc;
}

int api_vm_exec(struct request *rq, struct fcm_error *err)
{
	const struct exec_request *b = http_body(rq);
	bool stream = http_wants_upgrade(rq, EXEC_PROTOCOL);
	struct vm *vm = http_vm(rq);

	if (check_form(b, stream, err) < 0)
		return -1;
	_cleanup_(exec_freep) struct exec *e = exec_new(vm, b, err);
	if (e == NULL)
		return -1;
	return stream ? exec_stream(rq, STEAL(e)) : exec_plain(rq, e, b, err);
}
