/*
 * The console: what the shim's ring holds, and, with follow, what comes.
 */
#include <string.h>

#include "common/core/clock.h"
#include "daemon/api/api.h"
#include "daemon/shim/plan.h"
#include "daemon/shim/shim.h"

enum {
	TAIL_LINES_MAX = 100000,
	FOLLOW_MS = 100, /* the ring is looked at that often */
};

struct follow {
	struct request *rq;
	struct vm *vm; /* held */
	struct buf out;
	uint64_t total;
};

/* Cut all but the last `lines` lines. */
static void keep_lines(struct buf *b, int64_t lines)
{
	const char *p = b->p + b->n;

	if (b->n && p[-1] == '\n')
		p--;
	while (p > b->p && lines > 0)
		if (*--p == '\n')
			lines--;
	if (lines == 0)
		buf_drop(b, (size_t)(p - b->p) + 1);
}

static ssize_t follow_more(void *arg, char *p, size_t max)
{
	struct follow *f = arg;
	struct fcm_error err;

	while (f->out.n == 0) {
		if (http_cancelled(f->rq) || !registry_listed(f->vm))
			return 0;
		if (shim_ring_since(registry_dirfd(f->vm), f->total, &f->out, &f->total, &err) < 0)
			return -1;
		if (f->out.n == 0)
			clock_sleep(FOLLOW_MS);
	}
	size_t n = MIN(max, f->out.n);
	memcpy(p, f->out.p, n);
	buf_drop(&f->out, n);
	return (ssize_t)n;
}

static void follow_done(void *arg)
{
	struct follow *f = arg;

	vm_unref(f->vm);
	buf_done(&f->out);
	free(f);
}

int api_vm_logs(struct request *rq, struct fcm_error *err)
{
	struct vm *vm = http_vm(rq);
	_cleanup_(buf_done) struct buf text = {0};
	uint64_t total = 0;
	int64_t tail;

	if (api_number(rq, "tail", 0, TAIL_LINES_MAX, -1, &tail, err) < 0 ||
		shim_ring_tail(registry_dirfd(vm), SHIM_RING, &text, &total, err) < 0)
		return -1;
	if (tail >= 0)
		keep_lines(&text, tail);
	if (!api_flag(rq, "follow"))
		return http_reply_text(rq, 200, "text/plain; charset=utf-8", text.p ? text.p : "", text.n);
	struct follow *f = xalloc(sizeof *f);
	*f = (struct follow){.rq = rq, .vm = vm_ref(vm), .out = text, .total = total};
	text = (struct buf){0};
	return http_reply_stream(rq, "text/plain; charset=utf-8", follow_more, follow_done, f);
}
