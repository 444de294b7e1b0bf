/*
 * How it works. A source's address is what epoll(7) hands back with an event, so a source must outlive every
 * event that epoll_wait() may still report of it. An event that was fetched before another thread removed the
 * source is the case that matters: removal takes the descriptor out of the epoll instance, marks the source
 * and puts it on the list of the dead; the loop's thread drops events of marked sources, and frees the dead
 * when it has worked off a whole batch, for the next epoll_wait() can't know them any more. (When nobody is
 * in loop_run() there is no batch: they are freed at once.)
 *
 * `current` is the source whose callback runs now; loop_remove() in another thread waits until it is another
 * one.
 *
 * A timer is a timerfd on CLOCK_BOOTTIME. It is read under the lock before its callback: nothing to read
 * means that the timer was set anew since the event was fetched, and the event is stale.
 */
#include "daemon/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include "common/core/clock.h"

enum { BATCH = 64 };

struct loop_source {
	struct loop *loop;
	struct loop_source *prev, *next; /* in loop->live, or (next only) in loop->dead */
	int fd;
	uint32_t events;
	loop_fn fn;
	void *arg;
	bool is_timer, removed;
};

struct loop {
	int epoll_fd, wake_fd;
	atomic_bool stop;
	pthread_mutex_t lock; /* for all that follows and for what is in the sources */
	pthread_cond_t idle;  /* `current` has changed */
	struct loop_source *live, *dead, *current;
	uint64_t turns;	  /* callbacks that have ended */
	pthread_t thread; /* valid while running */
	bool running;
};

int loop_new(struct loop **ret, struct fcm_error *err)
{
	auto_close int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	auto_close int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct epoll_event e = {.events = EPOLLIN}; /* data.ptr NULL: no source */

	if (epoll_fd < 0 || wake_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, wake_fd, &e) < 0)
		return fcm_fail_errno(err, "make the event loop");
	struct loop *loop = xalloc(sizeof *loop);
	loop->epoll_fd = STEAL_FD(epoll_fd);
	loop->wake_fd = STEAL_FD(wake_fd);
	pthread_mutex_init(&loop->lock, NULL);
	pthread_cond_init(&loop->idle, NULL);
	*ret = loop;
	return 0;
}

/* Async-signal-safe, and keeps errno. */
static void wake(struct loop *loop)
{
	int saved = errno;
	uint64_t one = 1;

	(void)!write(loop->wake_fd, &one, sizeof one); /* EAGAIN: it is awake already */
	errno = saved;
}

static void free_dead(struct loop *loop)
{
	while (loop->dead) {
		struct loop_source *s = loop->dead;
		loop->dead = s->next;
		free(s);
	}
}

void loop_free(struct loop *loop)
{
	if (loop == NULL)
		return;
	while (loop->live)
		loop_remove(loop->live);
	free_dead(loop);
	pthread_cond_destroy(&loop->idle);
	pthread_mutex_destroy(&loop->lock);
	close(loop->wake_fd);
	close(loop->epoll_fd);
	free(loop);
}

/* On success the loop's thread may call the source before we return; *ret is set by then, for its callback to
 * use. */
static int add(
	struct loop *loop, const struct loop_source *like, struct loop_source **ret, struct fcm_error *err)
{
	struct loop_source *s = xalloc(sizeof *s);
	struct epoll_event e = {.events = like->events, .data.ptr = s};

	*s = *like;
	s->loop = loop;
	pthread_mutex_lock(&loop->lock);
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, s->fd, &e) < 0) {
		int saved = errno;
		pthread_mutex_unlock(&loop->lock);
		free(s);
		errno = saved;
		return fcm_fail_errno(err, "watch a descriptor");
	}
	s->next = loop->live;
	if (s->next)
		s->next->prev = s;
	loop->live = s;
	*ret = s;
	pthread_mutex_unlock(&loop->lock);
	return 0;
}

int loop_add(struct loop *loop, int fd, uint32_t events, loop_fn fn, void *arg, struct loop_source **ret,
	struct fcm_error *err)
{
	return add(loop, &(struct loop_source){.fd = fd, .events = events, .fn = fn, .arg = arg}, ret, err);
}

void loop_change(struct loop_source *source, uint32_t events)
{
	struct loop *loop = source->loop;
	struct epoll_event e = {.events = events, .data.ptr = source};

	pthread_mutex_lock(&loop->lock);
	if (!source->removed && source->events != events) {
		source->events = events;
		epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &e);
	}
	pthread_mutex_unlock(&loop->lock);
}

static void arm(int fd, int64_t deadline)
{
	struct itimerspec t = {0}; /* disarmed */

	if (deadline != FCM_FOREVER) {
		deadline = MAX(deadline, (int64_t)1); /* 0 would disarm: timerfd_settime(2) */
		t.it_value.tv_sec = deadline / 1000;
		t.it_value.tv_nsec = deadline % 1000 * 1000000;
	}
	timerfd_settime(fd, TFD_TIMER_ABSTIME, &t, NULL);
}

int loop_add_timer(struct loop *loop, int64_t deadline, loop_fn fn, void *arg, struct loop_source **ret,
	struct fcm_error *err)
{
	int fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);

	if (fd < 0)
		return fcm_fail_errno(err, "make a timer");
	arm(fd, deadline);
	struct loop_source s = {.fd = fd, .events = EPOLLIN, .fn = fn, .arg = arg, .is_timer = true};
	if (add(loop, &s, ret, err) < 0) {
		close(fd);
		return -1;
	}
	return 0;
}

void loop_set_timer(struct loop_source *source, int64_t deadline)
{
	pthread_mutex_lock(&source->loop->lock);
	if (!source->removed)
		arm(source->fd, deadline);
	pthread_mutex_unlock(&source->loop->lock);
}

static void unlink_live(struct loop *loop, struct loop_source *s)
{
	if (s->prev)
		s->prev->next = s->next;
	else
		loop->live = s->next;
	if (s->next)
		s->next->prev = s->prev;
}

/* Called with the lock held. */
static void bury(struct loop *loop, struct loop_source *s)
{
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL);
	if (s->is_timer)
		close(s->fd);
	unlink_live(loop, s);
	s->removed = true;
	s->next = loop->dead;
	loop->dead = s;
}

void loop_remove(struct loop_source *source)
{
	if (source == NULL)
		return;
	struct loop *loop = source->loop;

	pthread_mutex_lock(&loop->lock);
	bury(loop, source);
	if (!loop->running) {
		free_dead(loop);
	} else if (!pthread_equal(loop->thread, pthread_self())) {
		/* `turns` as well: while we wait the loop may free the source, and a new one gets its
		 * address. */
		uint64_t turn = loop->turns;
		while (loop->current == source && loop->turns == turn)
			pthread_cond_wait(&loop->idle, &loop->lock);
		wake(loop); /* to free the dead: a quiet loop would keep them */
	}
	pthread_mutex_unlock(&loop->lock);
}

/* Is an event still meant for its source? Called with the lock held; *events is cut to what it still waits
 * for. */
static bool is_due(const struct loop_source *s, uint32_t *events)
{
	uint64_t expirations;

	if (s->removed)
		return false;
	if (s->is_timer) {
		*events = 0;
		return read(s->fd, &expirations, sizeof expirations) == sizeof expirations;
	}
	*events &= s->events | EPOLLHUP | EPOLLERR;
	return *events != 0;
}

static void dispatch(struct loop *loop, struct loop_source *s, uint32_t events)
{
	pthread_mutex_lock(&loop->lock);
	if (is_due(s, &events)) {
		loop->current = s;
		pthread_mutex_unlock(&loop->lock);
		s->fn(s->arg, events);
		pthread_mutex_lock(&loop->lock);
		loop->current = NULL;
		loop->turns++;
		pthread_cond_broadcast(&loop->idle);
	}
	pthread_mutex_unlock(&loop->lock);
}

static int run_once(struct loop *loop, struct fcm_error *err)
{
	struct epoll_event batch[BATCH];
	uint64_t count;
	int n = epoll_wait(loop->epoll_fd, batch, BATCH, -1);

	if (n < 0 && errno != EINTR)
		return fcm_fail_errno(err, "wait for events");
	for (int i = 0; i < n; i++) {
		if (batch[i].data.ptr)
			dispatch(loop, batch[i].data.ptr, batch[i].events);
		else
			(void)!read(loop->wake_fd, &count, sizeof count);
	}
	pthread_mutex_lock(&loop->lock);
	free_dead(loop);
	pthread_mutex_unlock(&loop->lock);
	return 0;
}

static void set_running(struct loop *loop, bool running)
{
	pthread_mutex_lock(&loop->lock);
	loop->running = running;
	loop->thread = pthread_self();
	pthread_mutex_unlock(&loop->lock);
}

int loop_run(struct loop *loop, struct fcm_error *err)
{
	int r = 0;

	set_running(loop, true);
	while (r == 0 && !atomic_exchange(&loop->stop, false))
		r = run_once(loop, err);
	set_running(loop, false);
	return r;
}

void loop_stop(struct loop *loop)
{
	atomic_store(&loop->stop, true);
	wake(loop);
}
