#include "daemon/engine/op.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/core/clock.h"
#include "common/core/log.h"
#include "daemon/engine/engine.h"

/* One lock for the bookkeeping of all operations: it is held for a few instructions. A leaf lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned running;

enum {
	PROGRESS_MAX =
		16384, /* bytes of progress kept for a reader that doesn't come; an operation writes about 2 KiB */
	ROOM_MS = 10, /* between two looks whether he came */
};

struct op *op_new(
	const struct op_table *table, struct vm *vm, int (*run)(struct op *op, struct fcm_error *err))
{
	struct op *op = xalloc(sizeof *op);

	op->table = table;
	op->vm = vm ? vm_ref(vm) : NULL;
	op->run = run;
	op->what = table ? table->name : "";
	op->refs = 1;
	op->hold.fd = -1;
	op->import.in_fd = -1;
	op->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return op;
}

struct op *op_ref(struct op *op)
{
	pthread_mutex_lock(&lock);
	op->refs++;
	pthread_mutex_unlock(&lock);
	return op;
}

void op_unref(struct op *op)
{
	if (op == NULL)
		return;
	pthread_mutex_lock(&lock);
	bool last = --op->refs == 0;
	pthread_mutex_unlock(&lock);
	if (!last)
		return;
	vm_unref(op->vm);
	fcm_closep(&op->wake);
	buf_done(&op->progress);
	snapshot_drop(&op->hold);
	strv_done(&op->keys);
	strv_done(&op->publish);
	field_done(ready_fields, &op->ready);
	field_done(image_pull_fields, &op->pull);
	field_done(image_build_fields, &op->build);
	strv_done(&op->names);
	free(op->import.config);
	fcm_closep(&op->import.in_fd);
	field_done(update_request_fields, &op->update);
	strv_done(&op->was.labels);
	strv_done(&op->wanted.labels);
	free(op);
}

void op_give_up(struct op *op)
{
	atomic_store(&op->given_up, true);
	op_unref(op);
}

bool op_given_up(const struct op *op)
{
	return atomic_load(&op->given_up) || engine_stopping();
}

static void wake(struct op *op)
{
	uint64_t one = 1;

	(void)!write(op->wake, &one, sizeof one);
}

void op_run(struct op *op)
{
	int64_t t = clock_ms();
	bool given = op->hold.fd >= 0;

	op->rc = op->run(op, &op->err);
	op->took_ms = clock_ms() - t;
	if (given) /* whoever hears that it is over may remove the snapshot at once */
		snapshot_drop(&op->hold);
	if (op->rc < 0 && op->alone && op->err.code != FCM_NOT_FOUND)
		log_error(LOG_LEVEL_ERROR, op->vm->id.s, &op->err);
	pthread_mutex_lock(&lock);
	op->over = true;
	pthread_mutex_unlock(&lock);
	wake(op);
}

static void *op_thread(void *arg)
{
	struct op *op = arg;

	op_run(op);
	op_unref(op);
	pthread_mutex_lock(&lock);
	running--;
	pthread_mutex_unlock(&lock);
	return NULL;
}

int op_start(struct op *op, struct fcm_error *err)
{
	pthread_attr_t attr;
	pthread_t thread;

	if (op->wake < 0 && !op->alone)
		return fcm_fail(err, FCM_UNAVAILABLE, "no descriptor for the operation");
	pthread_mutex_lock(&lock);
	running++;
	op->refs++;
	pthread_mutex_unlock(&lock);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 256 << 10);
	int e = pthread_create(&thread, &attr, op_thread, op);
	pthread_attr_destroy(&attr);
	if (e == 0)
		return 0;
	pthread_mutex_lock(&lock);
	running--;
	pthread_mutex_unlock(&lock);
	op_unref(op);
	return fcm_fail(err, FCM_UNAVAILABLE, "no thread for the operation");
}

int op_wake_fd(const struct op *op)
{
	return op->wake;
}

bool op_poll(struct op *op, struct buf *lines)
{
	uint64_t n;

	(void)!read(op->wake, &n, sizeof n);
	pthread_mutex_lock(&lock);
	bool over = op->over;
	buf_add(lines, op->progress.p, op->progress.n);
	op->progress.n = 0;
	pthread_mutex_unlock(&lock);
	return over;
}

void op_progress(struct op *op, const char *step, const char *status, int64_t ms)
{
	field_json *line = fj_object();

	fj_set_str(line, "event", "step");
	fj_set_str(line, "step", step);
	fj_set_str(line, "status", status);
	fj_set_int(line, "ms", ms);
	op_tell(op, line);
}

/* False: there is no room for it. */
static bool add_progress(struct op *op, const char *text, size_t n)
{
	pthread_mutex_lock(&lock);
	bool room = op->progress.n < PROGRESS_MAX;
	if (room)
		buf_add(&op->progress, text, n);
	pthread_mutex_unlock(&lock);
	if (room)
		wake(op);
	return room;
}

static char *line_of(field_json *line)
{
	auto_free char *text = fj_print(line, false);

	fj_free(line);
	return xprintf("%s\n", text);
}

void op_tell(struct op *op, field_json *line)
{
	auto_free char *text = line_of(line);

	(void)add_progress(op, text, strlen(text));
}

void op_tell_all(struct op *op, field_json *line)
{
	auto_free char *text = line_of(line);

	while (!add_progress(op, text, strlen(text)) && !op_given_up(op))
		clock_sleep(ROOM_MS);
}

void op_tell_lines(struct op *op, const struct buf *lines)
{
	if (lines->n)
		(void)add_progress(op, lines->p, lines->n);
}

const char *op_subject(const struct op *op)
{
	if (op->vm)
		return op->vm->view.name;
	if (op->pull.image)
		return op->pull.image;
	if (op->build.name[0])
		return op->build.name;
	return op->names.n ? op->names.v[0] : op->import.of;
}

bool op_vmm_lives(const struct op *op)
{
	struct pollfd p = {.fd = op->vm->shim_pidfd, .events = POLLIN};

	return p.fd >= 0 && poll(&p, 1, 0) == 0;
}

bool ops_drain(int64_t deadline)
{
	for (;;) {
		pthread_mutex_lock(&lock);
		unsigned n = running;
		pthread_mutex_unlock(&lock);
		if (n == 0)
			return true;
		if (clock_left(deadline) == 0)
			return false;
		clock_sleep(10);
	}
}
