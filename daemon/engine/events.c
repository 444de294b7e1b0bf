#include "daemon/engine/events.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/log.h"
#include "daemon/engine/vm.h"

#define FILE_NOW "events.jsonl"
#define FILE_BEFORE "events.jsonl.1"

/* The first VM_STATES are states, in their order. */
enum { DESTROYED = VM_STATES, RENAMED, HEALTHY, UNHEALTHY, EXPOSED, PENDING, UNEXPOSED, NAMES };
const char *const event_names[] = {"creating", "stopped", "starting", "running", "paused", "suspending",
	"suspended", "stopping", "failed", "destroying", "destroyed", "renamed", "healthy", "unhealthy",
	"exposed", "pending", "unexposed", NULL};
_Static_assert(ARRAY_SIZE(event_names) == NAMES + 1, "event_names");

struct entry {
	uint64_t number;
	int64_t time;
	int name;
	char id[9];
	char vm[64];
	struct strv labels; /* that the VM had, as far as they are kept */
	char *text;
};

/* A token's label is no longer, and events are many. */
enum { LABEL_KEPT = 128, LABELS_KEPT = 1024 };

/* All guarded by the registry's lock. */
static struct entry ring[EVENTS_KEPT];
static size_t first, count;
static uint64_t next = 1; /* number of the next */

static struct {
	pthread_t thread;
	bool started, torn; /* torn: the file ends within a line */
	_Atomic bool stopping;
	int dirfd; /* borrowed */
	uint64_t written;
} writer;

/* ---- telling ---- */

static struct entry *at(size_t i)
{
	return &ring[(first + i) % EVENTS_KEPT];
}

static void keep(struct entry e)
{
	if (count == EVENTS_KEPT) {
		free(at(0)->text);
		strv_done(&at(0)->labels);
		first = (first + 1) % EVENTS_KEPT;
		count--;
	}
	e.number = next++;
	*at(count++) = e;
}

static void keep_labels(const struct strv *labels, struct strv *ret)
{
	size_t bytes = 0;

	for (size_t i = 0; i < labels->n; i++) {
		size_t n = strlen(labels->v[i]) + 1;
		if (n > LABEL_KEPT || bytes + n > LABELS_KEPT)
			continue;
		strv_add(ret, labels->v[i]);
		bytes += n;
	}
}

static field_json *labels_json(const struct strv *labels)
{
	field_json *o = fj_object();

	for (size_t i = 0; i < labels->n; i++) {
		auto_free char *key = xprintf("%.*s", (int)strcspn(labels->v[i], "="), labels->v[i]);
		fj_set_str(o, key, labels->v[i] + strlen(key) + 1);
	}
	return o;
}

static char *text_of(const struct entry *e, const char *code, const char *message)
{
	auto_json field_json *o = fj_object();

	fj_set_int(o, "seq", (int64_t)e->number);
	fj_set_str(o, "time", clock_rfc3339(e->time).s);
	fj_set_str(o, "event", event_names[e->name]);
	fj_set_str(o, "id", e->id);
	fj_set_str(o, "name", e->vm);
	if (e->labels.n)
		fj_set(o, "labels", labels_json(&e->labels));
	if (*code)
		fj_set_str(o, "code", code);
	if (*message)
		fj_set_str(o, "message", message);
	return fj_print(o, false);
}

static void tell(const struct vm *vm, int name, const char *code, const char *message)
{
	struct entry e = {.number = next, .time = clock_wall(), .name = name};

	fcm_copy(e.id, sizeof e.id, vm->id.s);
	fcm_copy(e.vm, sizeof e.vm, vm->view.name);
	keep_labels(&vm->view.spec.labels, &e.labels);
	e.text = text_of(&e, code, message);
	keep(e);
}

static void tell_renamed(const struct vm *vm, const char *before)
{
	char message[96];

	fcm_format(message, sizeof message, "it was '%s'", before);
	tell(vm, RENAMED, "", message);
}

static struct vm_told now(const struct vm *vm)
{
	const struct vm_view *v = &vm->view;
	int site = v->expose.port == 0			     ? UNEXPOSED
		   : strcmp(v->expose.status, "active") == 0 ? EXPOSED
							     : PENDING;

	struct vm_told told = {
		.listed = vm->listed, .state = v->state, .health = vm->health.status, .site = site};
	fcm_copy(told.name, sizeof told.name, v->name);
	return told;
}

void events_known(struct vm *vm)
{
	vm->told = now(vm);
}

void events_note(struct vm *vm)
{
	struct vm_told is = now(vm), was = vm->told;
	const struct vm_view *v = &vm->view;

	vm->told = is;
	if (!is.listed) {
		if (was.listed)
			tell(vm, DESTROYED, "", "");
		return;
	}
	if (!was.listed)
		was.site = UNEXPOSED;
	else if (strcmp(is.name, was.name) != 0)
		tell_renamed(vm, was.name);
	if (!was.listed || is.state != was.state)
		tell(vm, (int)is.state, v->reason.code, v->reason.message);
	if (is.health != was.health && is.health >= HEALTH_HEALTHY)
		tell(vm, is.health == HEALTH_HEALTHY ? HEALTHY : UNHEALTHY, "", vm->health.message);
	if (is.site != was.site)
		tell(vm, is.site, "", v->expose.domain);
}

/* ---- asking ---- */

static bool fits(const struct entry *e, const struct event_filter *f)
{
	return e->time >= f->since && (f->name == NULL || strcmp(event_names[e->name], f->name) == 0) &&
	       (f->vm == NULL || strcmp(e->vm, f->vm) == 0 || strcmp(e->id, f->vm) == 0) &&
	       labels_have(&e->labels, f->only);
}

/* The place of the first event with a larger number. */
static size_t behind(uint64_t number)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		if (at(middle)->number <= number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool events_next(uint64_t *after, const struct event_filter *filter, struct event *ret, uint64_t *ret_lost)
{
	bool found = false;

	registry_lock();
	*ret_lost = *after && count && *after + 1 < at(0)->number ? at(0)->number : 0;
	for (size_t i = behind(*after); !found && i < count; i++) {
		const struct entry *e = at(i);
		*after = e->number;
		found = fits(e, filter);
		if (found)
			*ret = (struct event){e->number, event_names[e->name], xstrdup(e->text)};
	}
	registry_unlock();
	return found;
}

uint64_t events_last(void)
{
	registry_lock();
	uint64_t last = next - 1;
	registry_unlock();
	return last;
}

/* ---- the files ---- */

static int name_of(const char *name)
{
	for (int i = 0; event_names[i]; i++)
		if (strcmp(event_names[i], name) == 0)
			return i;
	return -1;
}

static void load_labels(const field_json *labels, struct strv *ret)
{
	for (const char *key = NULL; labels && (key = fj_next_key(labels, key));) {
		auto_free char *label = xprintf("%s=%s", key, fj_get_str(labels, key));
		strv_add(ret, label);
	}
}

/* A line that isn't whole, or older than the one before it, is passed over. */
static void load_line(const char *line, size_t n)
{
	struct fcm_error ignored;
	auto_json field_json *o = fj_parse(line, n, &ignored);
	struct entry e = {.name = o ? name_of(fj_get_str(o, "event")) : -1};
	int64_t number = o ? fj_get_int(o, "seq", 0) : 0;

	if (e.name < 0 || number < (int64_t)next || clock_parse(fj_get_str(o, "time"), &e.time) < 0)
		return;
	next = (uint64_t)number;
	fcm_copy(e.id, sizeof e.id, fj_get_str(o, "id"));
	fcm_copy(e.vm, sizeof e.vm, fj_get_str(o, "name"));
	load_labels(fj_get(o, "labels"), &e.labels);
	e.text = xprintf("%.*s", (int)n, line);
	keep(e);
}

static void load(int dirfd, const char *file)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error err;

	if (file_read(dirfd, file, 2 * EVENTS_FILE, &text, &err) < 0) {
		if (err.code != FCM_NOT_FOUND)
			log_error(LOG_LEVEL_WARN, NULL, &err);
		return;
	}
	for (char *p = text.p, *end; (end = memchr(p, '\n', text.n - (size_t)(p - text.p))); p = end + 1)
		load_line(p, (size_t)(end - p));
	writer.torn = text.n && text.p[text.n - 1] != '\n';
}

/* Add to the file; a full one becomes the one before. */
static int write_down(const struct buf *text, struct fcm_error *err)
{
	auto_close int fd =
		openat(writer.dirfd, FILE_NOW, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || fd_write_all(fd, text->p, text->n) < 0)
		return fcm_fail_errno(err, "write %s", FILE_NOW);
	if (st.st_size + (off_t)text->n >= EVENTS_FILE &&
		renameat(writer.dirfd, FILE_NOW, writer.dirfd, FILE_BEFORE) < 0)
		return fcm_fail_errno(err, "rename %s", FILE_NOW);
	return 0;
}

/* A disk that is full costs the record of events, and says so once. */
static void write_new(void)
{
	static bool complained;
	_cleanup_(buf_done) struct buf text = {0};
	const struct event_filter all = {0};
	struct event e;
	struct fcm_error err;
	uint64_t lost;

	if (writer.torn)
		buf_str(&text, "\n");
	while (events_next(&writer.written, &all, &e, &lost)) {
		buf_printf(&text, "%s\n", e.text);
		free(e.text);
	}
	if (text.n <= writer.torn)
		return;
	writer.torn = false;
	bool failed = write_down(&text, &err) < 0;
	if (failed && !complained)
		log_error(LOG_LEVEL_WARN, NULL, &err);
	complained = failed;
}

static void *writer_main(void *arg)
{
	uint64_t seen = 0;

	(void)arg;
	while (!writer.stopping) {
		registry_wait(&seen, FCM_FOREVER);
		write_new();
	}
	write_new();
	return NULL;
}

int events_start(int state_dirfd, struct fcm_error *err)
{
	writer.dirfd = state_dirfd;
	load(state_dirfd, FILE_BEFORE);
	load(state_dirfd, FILE_NOW);
	writer.written = next - 1;
	if (next > 1)
		next += EVENTS_SKIPPED;
	errno = pthread_create(&writer.thread, NULL, writer_main, NULL);
	if (errno)
		return fcm_fail_errno(err, "start a thread");
	writer.started = true;
	return 0;
}

void events_stop(void)
{
	if (!writer.started)
		return;
	writer.stopping = true;
	registry_wake();
	pthread_join(writer.thread, NULL);
	writer.started = false;
}
