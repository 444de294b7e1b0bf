#include "daemon/engine/script.h"

#include <poll.h>
#include <string.h>

#include "common/core/clock.h"
#include "common/core/kv.h"
#include "common/core/tar.h"
#include "common/crypt.h"

/* The agent's own place, which is in memory: no image has anything of it. */
#define FOLDER "/run/fcm"
#define NAME "build"
#define PATH FOLDER "/" NAME

enum {
	HELLO_MS = 5000, /* for a session that is just being mended */
	TURN_MS = 250,	 /* between two looks whether anybody still waits */
	SAID_MAX = 8192, /* bytes of what the agent's own program says */
};

/* One program of the guest's, from its begin to its end. */
struct talk {
	struct op *op;
	struct vm *vm;
	struct guest_stream *stream;
	const char *in; /* its stdin, n bytes */
	size_t n;
	bool ended;
	void (*take)(struct talk *t, const struct guest_piece *piece);
	struct buf said; /* of put */
};

static int fail_cancelled(struct fcm_error *err)
{
	return fcm_fail(err, FCM_CANCELLED, "the build was cancelled");
}

/* ---- what it says ---- */

static void tell(struct talk *t, const struct guest_piece *piece)
{
	field_json *line = fj_object(), *text = fj_exact(piece->p, piece->n);

	fj_set_str(line, "event", "output");
	fj_set_str(line, "stream", piece->channel == FRAME_STDERR ? "stderr" : "stdout");
	if (text) {
		fj_set(line, "data", text);
	} else {
		auto_free char *encoded = crypt_base64(piece->p, piece->n);
		fj_set_str(line, "data_base64", encoded);
	}
	op_tell_all(t->op, line);
}

static void keep(struct talk *t, const struct guest_piece *piece)
{
	buf_add(&t->said, piece->p, MIN(piece->n, SAID_MAX - t->said.n));
}

/* ---- to its end ---- */

/* All that is there. False when it is over. */
static bool take_all(struct talk *t, struct guest_piece *piece)
{
	for (;;) {
		switch (guest_stream_read(t->stream, piece)) {
		case GUEST_LATER:
			return true;
		case GUEST_DATA:
			t->take(t, piece);
			if (op_given_up(t->op))
				return true;
			break;
		case GUEST_END:
			break;
		case GUEST_RESULT:
		case GUEST_BROKEN:
			return false;
		}
	}
}

static void give(struct talk *t)
{
	size_t done = guest_stream_write(t->stream, t->in, t->n);

	t->in += done;
	t->n -= done;
	t->ended = t->ended || (t->n == 0 && guest_stream_end(t->stream));
}

static int to_the_end(struct talk *t, struct fcm_error *err)
{
	auto_free struct guest_piece *piece = xalloc(sizeof *piece);
	struct pollfd p = {.fd = guest_stream_fd(t->stream), .events = POLLIN};

	for (;;) {
		guest_stream_clear(t->stream);
		if (!t->ended)
			give(t);
		if (!take_all(t, piece))
			return 0;
		if (op_given_up(t->op))
			return fail_cancelled(err);
		poll(&p, 1, TURN_MS);
	}
}

/* Open it, and go on until its result is there, which is good until talk_done(). */
static int talk(struct talk *t, const struct buf *request, const struct buf **ret, struct fcm_error *err)
{
	struct guest *g = vm_guest(t->vm);

	if (g == NULL)
		return fcm_fail(err, FCM_GUEST, "the channel to the VM's agent broke");
	int r = guest_stream_open(g, request, clock_in(HELLO_MS), &t->stream, err);
	guest_unref(g);
	if (r < 0 || to_the_end(t, err) < 0)
		return -1;
	if (guest_stream_result(t->stream, ret, err) == 0)
		return 0;
	return fcm_fail(err, FCM_GUEST, "the VM, or its agent, ended while the script ran");
}

static void talk_done(struct talk *t)
{
	guest_stream_close(t->stream);
	buf_done(&t->said);
}

/* ---- put ---- */

static void pack(const char *script, size_t n, struct buf *ret)
{
	auto_free struct tar_entry *e = xalloc(sizeof *e);

	e->type = TAR_FILE;
	(void)fcm_copy(e->path, sizeof e->path, NAME);
	e->mode = 0755;
	e->size = n;
	tar_add(ret, e);
	buf_add(ret, script, n);
	tar_pad(ret, n);
	tar_add_end(ret);
}

static int put_script(struct op *op, struct vm *vm, const char *script, size_t n, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf tar = {0}, request = {0};
	struct talk t = {.op = op, .vm = vm, .take = keep};
	const struct buf *result;
	char why[200];

	pack(script, n, &tar);
	kv_add(&request, "op", "put");
	kv_add(&request, "path", FOLDER);
	t.in = tar.p;
	t.n = tar.n;
	int r = talk(&t, &request, &result, err);
	if (r == 0 && kv_i64(result->p, result->n, "exit", 0, 255, -1) != 0) {
		const char *error = kv_get(t.said.p, t.said.n, "error");
		guest_text(error ? error : "it gave no reason", why, sizeof why);
		r = fcm_fail(err, FCM_GUEST, "put the script into the VM: %s", why);
	}
	talk_done(&t);
	return r;
}

/* ---- run ---- */

static void write_exec(const char *script, size_t n, struct buf *ret)
{
	kv_add(ret, "op", "exec");
	if (n < 2 || memcmp(script, "#!", 2) != 0)
		kv_add(ret, "arg", "/bin/sh");
	kv_add(ret, "arg", PATH);
	kv_add(ret, "dir", "/");
}

/* Its status as a shell has it, for the client's own. */
static void tell_exit(struct op *op, int status)
{
	field_json *line = fj_object();

	fj_set_str(line, "event", "exit");
	fj_set_int(line, "exit", status);
	op_tell_all(op, line);
}

/* As docs/AGENT.md has the result of exec. */
static int judge(struct op *op, const struct buf *result, struct fcm_error *err)
{
	const char *error = kv_get(result->p, result->n, "error");
	int status = (int)kv_i64(result->p, result->n, "exit", 0, 255, error ? 126 : -1),
	    signal = (int)kv_i64(result->p, result->n, "signal", 1, 64, 0);
	char why[200];

	if (status < 0 && signal == 0)
		return fcm_fail(err, FCM_GUEST, "the agent gave a result that makes no sense");
	tell_exit(op, signal ? 128 + signal : status);
	if (error) {
		guest_text(error, why, sizeof why);
		return fcm_fail(err, FCM_SCRIPT, "the script can't be run: %s; nothing is kept", why);
	}
	if (signal)
		return fcm_fail(
			err, FCM_SCRIPT, "the script was killed by signal %d; nothing is kept", signal);
	if (status)
		return fcm_fail(err, FCM_SCRIPT, "the script ended with status %d; nothing is kept", status);
	return 0;
}

int script_run(struct op *op, struct vm *vm, const char *script, size_t n, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf request = {0};
	struct talk t = {.op = op, .vm = vm, .ended = true, .take = tell};
	const struct buf *result;

	op_progress(op, "script", "begin", 0);
	if (put_script(op, vm, script, n, err) < 0)
		return -1;
	write_exec(script, n, &request);
	int r = talk(&t, &request, &result, err);
	if (r == 0)
		r = judge(op, result, err);
	talk_done(&t);
	return r;
}
