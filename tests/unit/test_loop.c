/* The event loop: order, timers, and above all removal while other threads and fetched events are about. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "common/core/clock.h"
#include "daemon/loop.h"

static int make_loop(void **state)
{
	struct fcm_error err;
	struct loop *loop;

	if (loop_new(&loop, &err) < 0)
		return -1;
	*state = loop;
	return 0;
}

static int drop_loop(void **state)
{
	loop_free(*state);
	return 0;
}

static void *run(void *arg)
{
	struct fcm_error err;
	int r = loop_run(arg, &err);

	return (void *)(intptr_t)r;
}

static pthread_t start(struct loop *loop)
{
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, run, loop), 0);
	return t;
}

static void stop(struct loop *loop, pthread_t t)
{
	void *r;

	loop_stop(loop);
	assert_int_equal(pthread_join(t, &r), 0);
	assert_null(r);
}

static int ready_fd(void)
{
	int fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);

	assert_true(fd >= 0);
	return fd;
}

struct seen {
	struct loop *loop;
	struct loop_source *source, *other;
	atomic_int calls;
	atomic_bool inside, let_go;
	uint32_t events;
};

static void count_and_stop(void *arg, uint32_t events)
{
	struct seen *seen = arg;

	seen->calls++;
	seen->events = events;
	loop_stop(seen->loop);
}

static void test_calls_with_events(void **state)
{
	struct seen seen = {.loop = *state};
	struct fcm_error err;
	int fd = ready_fd();

	assert_int_equal(loop_add(seen.loop, fd, EPOLLIN, count_and_stop, &seen, &seen.source, &err), 0);
	assert_int_equal(loop_run(seen.loop, &err), 0);
	assert_int_equal(seen.calls, 1);
	assert_int_equal(seen.events, EPOLLIN);
	loop_change(seen.source, EPOLLOUT);
	assert_int_equal(loop_run(seen.loop, &err), 0);
	assert_int_equal(seen.events, EPOLLOUT);
	loop_remove(seen.source);
	close(fd);
}

static void test_bad_descriptor(void **state)
{
	struct loop_source *source = NULL;
	struct fcm_error err = {0};

	assert_int_equal(loop_add(*state, -1, EPOLLIN, count_and_stop, NULL, &source, &err), -1);
	assert_int_equal(err.sys, EBADF);
	assert_null(source);
	loop_remove(NULL);
	loop_free(NULL);
}

static void test_stop_before_run(void **state)
{
	struct fcm_error err;

	loop_stop(*state);
	assert_int_equal(loop_run(*state, &err), 0);
}

static struct loop *signalled;

static void on_signal(int sig)
{
	(void)sig;
	loop_stop(signalled);
}

static void test_stop_from_signal(void **state)
{
	struct sigaction sa = {.sa_handler = on_signal};

	signalled = *state;
	sigaction(SIGUSR1, &sa, NULL);
	pthread_t t = start(*state);
	clock_sleep(20);
	pthread_kill(t, SIGUSR1);
	assert_int_equal(pthread_join(t, NULL), 0);
}

static void test_timer(void **state)
{
	struct seen seen = {.loop = *state};
	struct fcm_error err;
	int64_t begin = clock_ms();

	assert_int_equal(
		loop_add_timer(seen.loop, clock_in(30), count_and_stop, &seen, &seen.source, &err), 0);
	assert_int_equal(loop_run(seen.loop, &err), 0);
	assert_in_range(clock_ms() - begin, 29, 2000);
	assert_int_equal(seen.calls, 1);
	assert_int_equal(seen.events, 0);
	loop_set_timer(seen.source, 0); /* long past: at once */
	assert_int_equal(loop_run(seen.loop, &err), 0);
	assert_int_equal(seen.calls, 2);
	loop_remove(seen.source);
}

static void test_timer_forever(void **state)
{
	struct seen never = {.loop = *state}, soon = {.loop = *state};
	struct fcm_error err;

	assert_int_equal(loop_add_timer(*state, clock_in(1), count_and_stop, &never, &never.source, &err), 0);
	loop_set_timer(never.source, FCM_FOREVER);
	assert_int_equal(loop_add_timer(*state, clock_in(40), count_and_stop, &soon, &soon.source, &err), 0);
	assert_int_equal(loop_run(*state, &err), 0);
	assert_int_equal(never.calls, 0);
	assert_int_equal(soon.calls, 1); /* both left to loop_free() */
}

/* Put off the other timer, which has expired in the same batch: it must not fire now. */
static void put_off(void *arg, uint32_t events)
{
	struct seen *seen = arg;

	(void)events;
	seen->calls++;
	loop_set_timer(seen->other, FCM_FOREVER);
	loop_stop(seen->loop);
}

static void test_timer_set_after_fetched(void **state)
{
	struct seen a = {.loop = *state}, b = {.loop = *state};
	struct fcm_error err;

	assert_int_equal(loop_add_timer(*state, FCM_FOREVER, put_off, &a, &a.source, &err), 0);
	assert_int_equal(loop_add_timer(*state, FCM_FOREVER, put_off, &b, &b.source, &err), 0);
	a.other = b.source;
	b.other = a.source;
	loop_set_timer(a.source, 1);
	loop_set_timer(b.source, 1);
	assert_int_equal(loop_run(*state, &err), 0);
	assert_int_equal(a.calls + b.calls, 1);
}

static void remove_both(void *arg, uint32_t events)
{
	struct seen *seen = arg;

	(void)events;
	seen->calls++;
	loop_remove(seen->source); /* oneself */
	loop_remove(seen->other);  /* fetched in the same batch */
	loop_stop(seen->loop);
}

static void test_remove_in_callback(void **state)
{
	struct seen a = {.loop = *state}, b = {.loop = *state};
	struct fcm_error err;
	int fd[2] = {ready_fd(), ready_fd()};

	assert_int_equal(loop_add(*state, fd[0], EPOLLIN, remove_both, &a, &a.source, &err), 0);
	assert_int_equal(loop_add(*state, fd[1], EPOLLIN, remove_both, &b, &b.source, &err), 0);
	a.other = b.source;
	b.other = a.source;
	assert_int_equal(loop_run(*state, &err), 0);
	assert_int_equal(a.calls + b.calls, 1);
	close(fd[0]);
	close(fd[1]);
}

/* Another thread removes a source whose event is fetched already: it returns at once, and the event is
 * dropped. */
static void *remover(void *arg)
{
	loop_remove(arg);
	return NULL;
}

static void remove_other_elsewhere(void *arg, uint32_t events)
{
	struct seen *seen = arg;
	pthread_t t;

	(void)events;
	seen->calls++;
	pthread_create(&t, NULL, remover, seen->other);
	pthread_join(t, NULL); /* would hang if removal waited for any callback but its own */
	loop_remove(seen->source);
	loop_stop(seen->loop);
}

static void test_remove_fetched_from_thread(void **state)
{
	struct seen a = {.loop = *state}, b = {.loop = *state};
	struct fcm_error err;
	int fd[2] = {ready_fd(), ready_fd()};

	assert_int_equal(loop_add(*state, fd[0], EPOLLIN, remove_other_elsewhere, &a, &a.source, &err), 0);
	assert_int_equal(loop_add(*state, fd[1], EPOLLIN, remove_other_elsewhere, &b, &b.source, &err), 0);
	a.other = b.source;
	b.other = a.source;
	assert_int_equal(loop_run(*state, &err), 0);
	assert_int_equal(a.calls + b.calls, 1);
	close(fd[0]);
	close(fd[1]);
}

static void slow(void *arg, uint32_t events)
{
	struct seen *seen = arg;

	(void)events;
	seen->inside = true;
	clock_sleep(50);
	seen->calls++;
	seen->inside = false;
}

static void test_remove_waits_for_callback(void **state)
{
	struct seen seen = {.loop = *state};
	struct fcm_error err;
	int fd = ready_fd();
	pthread_t t = start(*state);

	assert_int_equal(loop_add(*state, fd, EPOLLIN, slow, &seen, &seen.source, &err), 0);
	while (!seen.inside)
		clock_sleep(1);
	loop_remove(seen.source);
	assert_false(seen.inside);
	int calls = seen.calls;
	assert_true(calls >= 1);
	clock_sleep(80);
	assert_int_equal(seen.calls, calls);
	close(fd);
	stop(*state, t);
}

static void tick(void *arg, uint32_t events)
{
	struct seen *seen = arg;

	(void)events;
	assert_true(seen->let_go); /* false once removed */
	seen->calls++;
}

static void *churn(void *arg)
{
	struct loop *loop = arg;
	struct fcm_error err;

	for (int i = 0; i < 2000; i++) {
		struct seen seen = {.loop = loop, .let_go = true};
		int fd = ready_fd();
		if (loop_add(loop, fd, EPOLLIN, tick, &seen, &seen.source, &err) < 0)
			return loop;
		for (int spins = 0; i % 3 && seen.calls == 0 && spins < 100000; spins++)
			sched_yield();
		loop_change(seen.source, i % 2 ? EPOLLIN | EPOLLOUT : EPOLLIN);
		loop_remove(seen.source);
		seen.let_go = false; /* on our stack: the sanitizers see a late callback as well */
		close(fd);
		seen.let_go = true;
		if (loop_add_timer(loop, clock_in(i % 2), tick, &seen, &seen.source, &err) < 0)
			return loop;
		loop_set_timer(seen.source, clock_in(1));
		loop_remove(seen.source);
	}
	return NULL;
}

static void test_churn(void **state)
{
	pthread_t t = start(*state), threads[3];
	void *r;

	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, churn, *state), 0);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
		pthread_join(threads[i], &r);
		assert_null(r);
	}
	stop(*state, t);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, make_loop, drop_loop)
	const struct CMUnitTest tests[] = {
		T(test_calls_with_events),
		T(test_bad_descriptor),
		T(test_stop_before_run),
		T(test_stop_from_signal),
		T(test_timer),
		T(test_timer_forever),
		T(test_timer_set_after_fetched),
		T(test_remove_in_callback),
		T(test_remove_fetched_from_thread),
		T(test_remove_waits_for_callback),
		T(test_churn),
	};
	return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
