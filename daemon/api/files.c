/*
 * GET and PUT files: a tar archive of what is in a guest, and one that is unpacked there, by its agent (op=get, op=put). As a
 * command it claims nothing and ends with its client or its VM.
 *
 * Nothing is kept beyond a piece in each direction: the guest sends as much as the client takes, and the client's body is
 * read as fast as the guest writes it. What the guest's program says of itself is a kv list on its stderr (an error) and, of
 * put, on its stdout (what came). A GET that fails when its answer has begun is cut off; the archive then ends with the
 * reason (common/core/tar.h), if the guest could still give it.
 */
#include <errno.h>
#include <string.h>

#include "common/core/clock.h"
#include "common/core/kv.h"
#include "common/core/log.h"
#include "daemon/api/exec.h"

enum {
	GUEST_PATH_MAX = 4096, /* with its NUL: PATH_MAX of Linux */
	SAID_MAX = 8192,       /* bytes of what the program says of itself */
	HELLO_MS = 5000,       /* for a session that is just being mended */
};

struct copy {
	struct vm *vm; /* held */
	struct guest_stream *stream;
	struct request *rq;
	const char *verb;
	struct guest_piece piece; /* of the archive, from `taken` on not sent yet */
	size_t taken;
	bool reads;	       /* the archive is the program's stdout */
	struct buf said, told; /* on stderr, and of put on stdout */
};

static void copy_free(void *arg)
{
	struct copy *c = arg;

	guest_stream_close(c->stream);
	vm_unref(c->vm);
	buf_done(&c->said);
	buf_done(&c->told);
	free(c);
}

static int write_request(struct request *rq, const char *op, struct buf *kv, struct fcm_error *err)
{
	const char *path = http_query(rq, "path");

	if (path == NULL || path[0] == '\0')
		return fcm_fail_field(err, FCM_INVALID, "path", "path: which file or directory? ?path=/srv");
	if (path[0] != '/')
		return fcm_fail_field(err, FCM_INVALID, "path", "path: '%.200s' doesn't begin with /", path);
	if (strlen(path) >= GUEST_PATH_MAX)
		return fcm_fail_field(
			err, FCM_INVALID, "path", "path: longer than %d bytes", GUEST_PATH_MAX - 1);
	kv_add(kv, "op", op);
	kv_add(kv, "path", path);
	if (api_flag(rq, "place"))
		kv_add(kv, "place", "1");
	return 0;
}

static struct copy *copy_new(struct request *rq, const char *op, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf kv = {0};
	struct guest_stream *stream = NULL;
	struct vm *vm = http_vm(rq);

	if (write_request(rq, op, &kv, err) < 0)
		return NULL;
	struct guest *g = exec_guest(vm, err);
	if (g == NULL)
		return NULL;
	int r = guest_stream_open(g, &kv, clock_in(HELLO_MS), &stream, err);
	guest_unref(g);
	if (r < 0)
		return NULL;
	struct copy *c = xalloc(sizeof *c);
	c->vm = vm_ref(vm);
	c->stream = stream;
	c->rq = rq;
	c->verb = op;
	c->reads = strcmp(op, "get") == 0;
	return c;
}

/* ---- the end ---- */

/* The errors that are the request's; all others are the guest's. */
static enum fcm_code code_of(const char *wire)
{
	enum fcm_code code = fcm_code_from_wire(wire ? wire : "");

	if (code == FCM_UNAVAILABLE) /* an archive that ends early */
		return FCM_BAD_REQUEST;
	return code == FCM_NOT_FOUND || code == FCM_INVALID || code == FCM_NO_SPACE ? code : FCM_GUEST;
}

/* What to do about it: as the guest's program has it, in words of our own where fcm's are about the host. */
static int hint_said(const struct copy *c, enum fcm_code code, struct fcm_error *err)
{
	const char *hint = kv_get(c->said.p, c->said.n, "hint");
	char text[sizeof err->hint] = "";

	if (code == FCM_NO_SPACE)
		return fcm_hint(err, "make room in the VM: fcm exec %s df -h", c->vm->view.name);
	if (code == FCM_NOT_FOUND)
		return fcm_hint(err, "see what is there: fcm exec %s ls", c->vm->view.name);
	if (hint && code != FCM_GUEST)
		guest_text(hint, text, sizeof text);
	return fcm_hint(err, "%s", text);
}

static int fail_said(const struct copy *c, struct fcm_error *err)
{
	const char *error = kv_get(c->said.p, c->said.n, "error");
	enum fcm_code code = code_of(kv_get(c->said.p, c->said.n, "code"));
	char text[300];

	guest_text(error ? error : "it gave no reason", text, sizeof text);
	const char *field = kv_get(c->said.p, c->said.n, "field") ? "path" : "";
	fcm_fail_field(err, code, field, "%s files of '%s': %s", c->verb, c->vm->view.name, text);
	return hint_said(c, code, err);
}

static int broken(const struct copy *c, struct fcm_error *err)
{
	registry_lock();
	enum vm_state state = c->vm->view.state;
	registry_unlock();
	if (state == VM_RUNNING)
		return fcm_wrap(err, "%s files of '%s'", c->verb, c->vm->view.name);
	fcm_fail(err, FCM_GUEST, "%s files of '%s': the VM ended meanwhile", c->verb, c->vm->view.name);
	return fcm_hint(err, "fcm %s %s", vm_state_verb(state), c->vm->view.name);
}

/* How it went, after GUEST_RESULT or GUEST_BROKEN. */
static int result(const struct copy *c, struct fcm_error *err)
{
	const struct buf *kv;
	char text[200];

	if (guest_stream_result(c->stream, &kv, err) < 0)
		return broken(c, err);
	const char *error = kv_get(kv->p, kv->n, "error");
	if (error) {
		guest_text(error, text, sizeof text);
		return fcm_fail(err, FCM_GUEST, "the agent of '%s' says: %s", c->vm->view.name, text);
	}
	return kv_i64(kv->p, kv->n, "exit", 0, 255, -1) == 0 ? 0 : fail_said(c, err);
}

/* ---- both ---- */

static void collect(struct buf *b, const struct guest_piece *piece)
{
	buf_add(b, piece->p, MIN(piece->n, SAID_MAX - b->n));
}

/* Take what the guest sends up to a piece of the archive (1), the end (0), or until nothing is there (-1). */
static int take(struct copy *c)
{
	for (;;) {
		switch (guest_stream_read(c->stream, &c->piece)) {
		case GUEST_LATER:
			return -1;
		case GUEST_DATA:
			if (c->reads && c->piece.channel == FRAME_STDOUT)
				return 1;
			collect(c->piece.channel == FRAME_STDERR ? &c->said : &c->told, &c->piece);
			break;
		case GUEST_END:
			break;
		case GUEST_RESULT:
		case GUEST_BROKEN:
			return 0;
		}
	}
}

static int wait_news(struct copy *c, struct fcm_error *err)
{
	switch (exec_wait(c->rq, c->stream, FCM_FOREVER)) {
	case EXEC_NEWS:
		return 0;
	case EXEC_CLIENT_GONE:
		return fcm_fail(err, FCM_CANCELLED, "the client went away");
	case EXEC_LATE:
	case EXEC_STOPPING:
		break;
	}
	return fcm_fail(err, FCM_UNAVAILABLE, "the daemon is stopping");
}

/* Wait for a piece of the archive (1) or the end (0). */
static int next(struct copy *c, struct fcm_error *err)
{
	int r;

	while ((r = take(c)) < 0)
		if (wait_news(c, err) < 0)
			return -1;
	c->taken = 0;
	return r == 0 && result(c, err) < 0 ? -1 : r;
}

/* ---- GET ---- */

static ssize_t send_more(void *arg, char *p, size_t max)
{
	struct copy *c = arg;
	struct fcm_error err;

	if (c->taken == c->piece.n) {
		int r = next(c, &err);
		if (r < 0 && err.code != FCM_CANCELLED)
			log_line(LOG_LEVEL_WARN, c->vm->id.s, "%s, request %s", err.msg,
				http_request_id(c->rq));
		if (r <= 0)
			return r;
	}
	size_t n = MIN(max, c->piece.n - c->taken);
	memcpy(p, c->piece.p + c->taken, n);
	c->taken += n;
	return (ssize_t)n;
}

/* What fails before the first byte is an error as any other. */
int api_vm_files_get(struct request *rq, struct fcm_error *err)
{
	struct copy *c = copy_new(rq, "get", err);

	if (c == NULL)
		return -1;
	int r = next(c, err);
	if (r > 0)
		return http_reply_stream(rq, "application/x-tar", send_more, copy_free, c);
	if (r == 0)
		r = fcm_fail(err, FCM_GUEST, "the agent of '%s' sent nothing", c->vm->view.name);
	copy_free(c);
	return r;
}

/* ---- PUT ---- */

/* A program that ends before its input does has failed. */
static int feed(void *arg, const void *p, size_t n, struct fcm_error *err)
{
	struct copy *c = arg;
	const char *from = p;

	while (n > 0) {
		if (take(c) == 0)
			return result(c, err) < 0 ? -1
						  : fcm_fail(err, FCM_BAD_REQUEST,
							    "the body goes on behind the archive's end");
		size_t done = guest_stream_write(c->stream, from, n);
		from += done;
		n -= done;
		if (n > 0 && wait_news(c, err) < 0)
			return -1;
	}
	return 0;
}

static int finish(void *arg, struct request *rq, struct fcm_error *err)
{
	struct copy *c = arg;

	while (!guest_stream_end(c->stream))
		if (wait_news(c, err) < 0)
			return -1;
	if (next(c, err) < 0)
		return -1;
	field_json *answer = fj_object();
	fj_set_int(answer, "entries", kv_i64(c->told.p, c->told.n, "entries", 0, INT64_MAX, 0));
	fj_set_int(answer, "bytes", kv_i64(c->told.p, c->told.n, "bytes", 0, INT64_MAX, 0));
	return http_reply(rq, 200, answer);
}

int api_vm_files_put(struct request *rq, struct fcm_error *err)
{
	struct copy *c = copy_new(rq, "put", err);

	return c ? http_receive(rq, feed, finish, copy_free, c) : -1;
}
