/*
 * What the main process printed (engine/mainlog.h), or the console: what the shim's ring holds, and, with follow, what comes. The shim marks when bytes came, once a second at
 * most, so a line has the time of the last mark at or before its first byte.
 */
#include <string.h>

#include "common/core/clock.h"
#include "daemon/api/api.h"
#include "daemon/engine/mainlog.h"
#include "daemon/shim/plan.h"
#include "daemon/shim/shim.h"

enum {
	TAIL_LINES_MAX = 100000,
	FOLLOW_MS = 100, /* the ring is looked at that often */
	MARKS = 64,	 /* are made room for at a time */
	PIECE = 4096,	 /* is given times at once: lines can be as short as one byte */
};

struct logs {
	struct request *rq;
	struct vm *vm; /* held */
	bool follow, timestamps, mid_line, of_main;
	struct mainlog_reader reader;
	struct buf text; /* the console up to byte `total` */
	uint64_t total;
	struct shim_mark *marks;
	size_t nmarks;
	struct buf out;
};

/* Cut all but the last `lines` lines. */
static void keep_lines(struct buf *b, int64_t lines)
{
	size_t at = b->n;

	if (lines > 0 && at && b->p[at - 1] == '\n')
		at--; /* it ends the last one */
	while (at && lines > 0)
		if (b->p[--at] == '\n' && --lines == 0)
			at++;
	if (lines == 0)
		buf_drop(b, at);
}

/* How many marks are at or before byte `pos`. */
static size_t marks_until(const struct logs *l, uint64_t pos)
{
	size_t low = 0, high = l->nmarks;

	while (low < high) {
		size_t middle = (low + high) / 2;
		if (l->marks[middle].pos <= pos)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Cut what came before `since`, and the rest of the line that was being written then. */
static int keep_since(struct logs *l, int64_t since, struct fcm_error *err)
{
	uint64_t begin = l->total - l->text.n, from = l->total;

	if (l->nmarks == 0 && l->text.n) {
		fcm_fail(err, FCM_WRONG_STATE, "the console of '%s' has no times: an older fcm started it",
			l->vm->view.name);
		return fcm_hint(err, "fcm restart %s", l->vm->view.name);
	}
	for (size_t i = l->nmarks; i > 0 && l->marks[i - 1].time >= since; i--)
		from = l->marks[i - 1].pos;
	/* the text was read before the marks: what came in between isn't in it */
	from = MIN(from, l->total);
	if (from <= begin)
		return 0;
	size_t cut = (size_t)(from - begin);
	const char *p = l->text.p + cut - 1, *end = memchr(p, '\n', l->text.n - cut + 1);
	buf_drop(&l->text, end ? (size_t)(end - l->text.p) + 1 : l->text.n);
	return 0;
}

/* Move a piece of the text to the output, with the time in front of each line. */
static void add_times(struct logs *l)
{
	size_t n = MIN(l->text.n, (size_t)PIECE);

	for (const char *p = l->text.p, *end = p + n, *next; p < end; p = next) {
		size_t mark = marks_until(l, l->total - l->text.n + (uint64_t)(p - l->text.p));
		const char *newline = memchr(p, '\n', (size_t)(end - p));
		next = newline ? newline + 1 : end;
		if (!l->mid_line)
			buf_printf(&l->out, "%s ", mark ? clock_rfc3339(l->marks[mark - 1].time).s : "-");
		buf_add(&l->out, p, (size_t)(next - p));
		l->mid_line = newline == NULL;
	}
	buf_drop(&l->text, n);
}

static void read_marks(struct logs *l)
{
	free(l->marks);
	l->nmarks = shim_ring_marks(registry_dirfd(l->vm), &l->marks);
}

static void add_mark(struct logs *l, int64_t time)
{
	if (l->nmarks && l->marks[l->nmarks - 1].time == time)
		return;
	if (l->nmarks % MARKS == 0)
		l->marks = xrealloc(l->marks, (l->nmarks + MARKS) * sizeof *l->marks);
	l->marks[l->nmarks++] = (struct shim_mark){.pos = l->total, .time = time};
}

/* What the main process has printed since, up to `max` bytes or a bit more. */
static void read_main(struct logs *l, size_t max)
{
	auto_free char *data = xalloc(MAINLOG_RECORD);
	struct mainlog_head head;

	while (l->text.n < max && mainlog_next(&l->reader, registry_dirfd(l->vm), &head, data)) {
		add_mark(l, head.time);
		buf_add(&l->text, data, head.n);
		l->total += head.n;
	}
}

/* Nothing more comes: who follows a program's output wants to know its end. */
static bool main_is_over(const struct logs *l)
{
	registry_lock();
	const struct vm_view *v = &l->vm->view;
	bool over = v->state == VM_STOPPED || (v->state == VM_FAILED && v->spec.restart == RESTART_NO);
	registry_unlock();
	return over;
}

/* The same of either. -1 when it can't be read. */
static int read_more(struct logs *l)
{
	struct fcm_error err;

	if (!l->of_main)
		return shim_ring_since(registry_dirfd(l->vm), l->total, &l->text, &l->total, &err);
	bool over = main_is_over(l);
	read_main(l, PIECE);
	if (over && l->text.n == 0)
		l->follow = false;
	return 0;
}

/* Wait until there is more. 1, 0 at the end, -1. */
static int wait_more(struct logs *l)
{
	while (l->text.n == 0) {
		if (!l->follow || http_cancelled(l->rq) || !registry_listed(l->vm))
			return 0;
		if (read_more(l) < 0)
			return -1;
		if (l->text.n == 0 && l->follow)
			clock_sleep(FOLLOW_MS);
		else if (l->timestamps && !l->of_main)
			read_marks(l);
	}
	return 1;
}

static ssize_t logs_more(void *arg, char *p, size_t max)
{
	struct logs *l = arg;

	if (l->out.n == 0) {
		int r = wait_more(l);
		if (r <= 0)
			return r;
		if (l->timestamps) {
			add_times(l);
		} else {
			buf_done(&l->out); /* empty, but with room */
			l->out = l->text;
			l->text = (struct buf){0};
		}
	}
	size_t n = MIN(max, l->out.n);
	memcpy(p, l->out.p, n);
	buf_drop(&l->out, n);
	return (ssize_t)n;
}

static void logs_free(void *arg)
{
	struct logs *l = arg;

	mainlog_reader_done(&l->reader);
	vm_unref(l->vm);
	buf_done(&l->text);
	buf_done(&l->out);
	free(l->marks);
	free(l);
}

/* Where there is a main process, people mean that. */
static int parse_source(struct logs *l, struct fcm_error *err)
{
	const char *s = http_query(l->rq, "source");
	bool has_main = l->vm->view.spec.main.args.n > 0;

	l->of_main = s ? strcmp(s, "main") == 0 : has_main;
	if (s && !l->of_main && strcmp(s, "console") != 0)
		return fcm_fail_field(err, FCM_INVALID, "source", "source: console or main");
	if (l->of_main && !has_main)
		return fcm_fail_field(
			err, FCM_WRONG_STATE, "source", "'%s' has no main process", l->vm->view.name);
	return 0;
}

static int read_all(struct logs *l, struct fcm_error *err)
{
	if (!l->of_main)
		return shim_ring_tail(registry_dirfd(l->vm), SHIM_RING, &l->text, &l->total, err);
	read_main(l, 2 * MAINLOG_FILE + MAINLOG_RECORD);
	return 0;
}

/* Read it, and keep of it what the query asks for. */
static int load(struct logs *l, struct fcm_error *err)
{
	int64_t tail, since;

	if (api_number(l->rq, "tail", 0, TAIL_LINES_MAX, -1, &tail, err) < 0 ||
		api_time(l->rq, "since", &since, err) < 0 || parse_source(l, err) < 0 || read_all(l, err) < 0)
		return -1;
	if ((since || l->timestamps) && !l->of_main)
		read_marks(l);
	if (since && keep_since(l, since, err) < 0)
		return -1;
	if (tail >= 0)
		keep_lines(&l->text, tail);
	return 0;
}

int api_vm_logs(struct request *rq, struct fcm_error *err)
{
	struct logs *l = xalloc(sizeof *l);

	*l = (struct logs){.rq = rq,
		.vm = vm_ref(http_vm(rq)),
		.reader = {.fd = -1},
		.follow = api_flag(rq, "follow"),
		.timestamps = api_flag(rq, "timestamps")};
	if (load(l, err) < 0) {
		logs_free(l);
		return -1;
	}
	if (l->follow || l->timestamps)
		return http_reply_stream(rq, "text/plain; charset=utf-8", logs_more, logs_free, l);
	int r = http_reply_text(rq, 200, "text/plain; charset=utf-8", l->text.p ? l->text.p : "", l->text.n);
	logs_free(l);
	return r;
}
