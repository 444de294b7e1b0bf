#include "daemon/engine/mainlog.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "common/core/log.h"
#include "daemon/engine/engine.h"
#include "daemon/loop.h"

#define LOG_NAME "main.log"
#define OLD_NAME "main.log.1"

enum {
	MAGIC = 0x4c4d4346, /* "FCML" */
	RECORD_HEAD = 3,    /* of the agent's records */
	RETRY_MS = 200,	    /* for a guest that has no session just now */
	PACE_MS = 2,	    /* between two answers: a flood leaves the loop to others */
};

struct mainlog {
	struct vm *vm; /* whose log it is, so not held */
	int epoll;     /* stands for the stream that there is */
	struct loop_source *source, *timer;
	struct guest_stream *stream; /* the question under way, or NULL */
	int fd;
	uint64_t size; /* of the file */
	uint64_t boot, pos;
	bool over;
};

/* ---- reading ---- */

static bool read_at(int fd, void *p, size_t n, uint64_t at)
{
	return pread(fd, p, n, (off_t)at) == (ssize_t)n;
}

static bool read_record(int fd, uint64_t at, struct mainlog_head *head, char *data)
{
	return read_at(fd, head, sizeof *head, at) && head->magic == MAGIC && head->n <= MAINLOG_RECORD &&
	       read_at(fd, data, head->n, at + sizeof *head);
}

static bool is_there(int dirfd, const char *name, int fd)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && fstatat(dirfd, name, &b, AT_SYMLINK_NOFOLLOW) == 0 &&
	       a.st_ino == b.st_ino;
}

/* Behind the end of a file that isn't the one that grows there is another: main.log, or what has become of it. */
static bool open_next(struct mainlog_reader *r, int dirfd)
{
	const char *name = LOG_NAME;

	if (r->fd < 0 && !r->second)
		name = OLD_NAME;
	if (r->fd >= 0 && is_there(dirfd, LOG_NAME, r->fd))
		return false;
	int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && r->fd < 0 && !r->second) {
		r->second = true;
		return open_next(r, dirfd);
	}
	if (fd < 0)
		return false;
	fcm_closep(&r->fd);
	*r = (struct mainlog_reader){.fd = fd, .second = true};
	return true;
}

bool mainlog_next(struct mainlog_reader *r, int dirfd, struct mainlog_head *head, char *data)
{
	for (;;) {
		bool grows = r->fd >= 0 && is_there(dirfd, LOG_NAME, r->fd);
		if (r->fd >= 0 && read_record(r->fd, r->at, head, data)) {
			r->at += sizeof *head + head->n;
			return true;
		}
		if (grows || !open_next(r, dirfd))
			return false;
	}
}

void mainlog_tail(int dirfd, size_t n, struct buf *ret)
{
	auto_free char *data = xalloc(MAINLOG_RECORD);
	struct mainlog_reader r = {.fd = -1};
	struct mainlog_head head;

	while (mainlog_next(&r, dirfd, &head, data)) {
		buf_add(ret, data, head.n);
		if (ret->n > n)
			buf_drop(ret, ret->n - n);
	}
	mainlog_reader_done(&r);
}

void mainlog_reader_done(struct mainlog_reader *r)
{
	fcm_closep(&r->fd);
}

/* ---- writing ---- */

int64_t mainlog_records(const void *p, size_t n, uint64_t boot, uint64_t pos, int64_t now, struct buf *ret)
{
	const uint8_t *s = p;
	int64_t total = 0;

	while (n > 0) {
		size_t bytes = n >= RECORD_HEAD ? (size_t)(s[1] | s[2] << 8) : 0;
		if (bytes == 0 || n - RECORD_HEAD < bytes || bytes > MAINLOG_RECORD ||
			(s[0] != FRAME_STDOUT && s[0] != FRAME_STDERR))
			return -1;
		const struct mainlog_head head = {.magic = MAGIC,
			.n = (uint16_t)bytes,
			.channel = s[0],
			.boot = boot,
			.pos = pos + (uint64_t)total,
			.time = now};
		buf_add(ret, &head, sizeof head);
		buf_add(ret, s + RECORD_HEAD, bytes);
		total += (int64_t)bytes;
		s += RECORD_HEAD + bytes;
		n -= RECORD_HEAD + bytes;
	}
	return total;
}

static int open_log(struct mainlog *m, struct fcm_error *err)
{
	m->fd = openat(m->vm->dirfd, LOG_NAME, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	m->size = 0;
	return m->fd < 0 ? fcm_fail_errno(err, "open %s", LOG_NAME) : 0;
}

/* Where this boot's process was when the last daemon wrote, and where the file's last whole record ends. */
static void find_end(struct mainlog *m)
{
	_cleanup_(mainlog_reader_done) struct mainlog_reader r = {.fd = -1};
	auto_free char *data = xalloc(MAINLOG_RECORD);
	struct mainlog_head head;

	while (mainlog_next(&r, m->vm->dirfd, &head, data)) {
		if (head.boot == m->boot)
			m->pos = head.pos + head.n;
		if (is_there(m->vm->dirfd, LOG_NAME, r.fd))
			m->size = r.at;
	}
	(void)!ftruncate(m->fd, (off_t)m->size);
}

static void rotate(struct mainlog *m)
{
	struct fcm_error err;

	if (m->size < MAINLOG_FILE)
		return;
	fcm_closep(&m->fd);
	renameat(m->vm->dirfd, LOG_NAME, m->vm->dirfd, OLD_NAME);
	if (open_log(m, &err) < 0)
		log_error(LOG_LEVEL_WARN, m->vm->id.s, &err);
}

/* On a disk that is full the output is lost, and the VM runs on. */
static void append(struct mainlog *m, const struct buf *b)
{
	rotate(m);
	if (m->fd >= 0 && fd_write_all(m->fd, b->p, b->n) == 0)
		m->size += b->n;
	else if (m->fd >= 0)
		(void)!ftruncate(m->fd, (off_t)m->size);
}

/* ---- collecting ---- */

static void again_in(struct mainlog *m, int64_t ms)
{
	loop_set_timer(m->timer, clock_in(ms));
}

static void end_question(struct mainlog *m)
{
	guest_stream_close(STEAL(m->stream)); /* its descriptor leaves m->epoll with it */
}

static void ask(struct mainlog *m)
{
	_cleanup_(buf_done) struct buf rq = {0};
	struct guest *g = vm_guest(m->vm);
	struct epoll_event event = {.events = EPOLLIN};
	struct fcm_error err;

	kv_add(&rq, "op", "output");
	kv_addf(&rq, "pos", "%llu", (unsigned long long)m->pos);
	if (g == NULL || guest_stream_open(g, &rq, clock_ms(), &m->stream, &err) < 0) {
		again_in(m, RETRY_MS);
	} else if (epoll_ctl(m->epoll, EPOLL_CTL_ADD, guest_stream_fd(m->stream), &event) < 0) {
		end_question(m);
		again_in(m, RETRY_MS);
	}
	guest_unref(g);
}

/* False when the agent talks nonsense or has no main process. */
static bool take(struct mainlog *m, const struct buf *answer)
{
	_cleanup_(buf_done) struct buf records = {0};
	int64_t pos = kv_i64(answer->p, answer->n, "pos", 0, INT64_MAX, -1);
	size_t n = 0;
	const void *p = kv_raw(answer->p, answer->n, &n);

	if (pos < 0 || (uint64_t)pos < m->pos || p == NULL)
		return false;
	int64_t bytes = mainlog_records(p, n, m->boot, (uint64_t)pos, clock_wall(), &records);
	if (bytes < 0)
		return false;
	if (bytes > 0)
		append(m, &records);
	m->pos = (uint64_t)(pos + bytes);
	m->over = kv_get(answer->p, answer->n, "exit") != NULL;
	return true;
}

static void finish_question(struct mainlog *m)
{
	const struct buf *answer;
	struct fcm_error err;

	if (guest_stream_result(m->stream, &answer, &err) < 0) {
		end_question(m);
		again_in(m, RETRY_MS);
		return;
	}
	bool good = take(m, answer);
	end_question(m);
	if (m->over)
		m->vm->main_over = true;
	else
		again_in(m, good ? PACE_MS : RETRY_MS * 10);
}

static void on_news(void *arg, uint32_t events)
{
	struct mainlog *m = arg;
	struct guest_piece piece;
	enum guest_read r = GUEST_END;

	(void)events;
	if (m->stream == NULL)
		return;
	guest_stream_clear(m->stream);
	while (r == GUEST_END || r == GUEST_DATA)
		r = guest_stream_read(m->stream, &piece);
	if (r != GUEST_LATER)
		finish_question(m);
}

static void on_timer(void *arg, uint32_t events)
{
	struct mainlog *m = arg;

	(void)events;
	if (m->stream == NULL && !m->over)
		ask(m);
}

static void free_log(struct mainlog *m)
{
	loop_remove(m->source);
	loop_remove(m->timer);
	end_question(m);
	fcm_closep(&m->epoll);
	fcm_closep(&m->fd);
	free(m);
}

int mainlog_watch(struct vm *vm, struct fcm_error *err)
{
	if (vm->mainlog || vm->view.spec.main.args.n == 0)
		return 0;
	struct mainlog *m = xalloc(sizeof *m);
	*m = (struct mainlog){
		.vm = vm, .fd = -1, .epoll = epoll_create1(EPOLL_CLOEXEC), .boot = (uint64_t)vm->view.boots};
	if (m->epoll < 0)
		(void)!fcm_fail_errno(err, "epoll_create1");
	if (m->epoll < 0 || open_log(m, err) < 0 ||
		loop_add_timer(engine()->loop, FCM_FOREVER, on_timer, m, &m->timer, err) < 0 ||
		loop_add(engine()->loop, m->epoll, EPOLLIN, on_news, m, &m->source, err) < 0) {
		free_log(m);
		return -1;
	}
	find_end(m);
	vm->main_over = false;
	vm->mainlog = m;
	again_in(m, 0);
	return 0;
}

void mainlog_unwatch(struct vm *vm)
{
	struct mainlog *m = STEAL(vm->mainlog);

	if (m)
		free_log(m);
}
