#include "daemon/engine/timekeeper.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "common/core/clock.h"
#include "common/core/kv.h"
#include "common/core/log.h"
#include "daemon/engine/vm.h"

enum {
	LOOK_MS = 10000, /* between two looks at the host's own clock */
	JUMP_MS = 250,	 /* a clock that ran away by more was set; NTP's slewing does 5 ms in that time */
	STACK_BYTES = 256 << 10,
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards `stopping` */
static pthread_cond_t changed;
static pthread_t thread;
static bool started, stopping;

static int64_t wall_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* How far the wall clock is from one that nobody sets and that stands while the host sleeps. */
static int64_t wall_skew_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return wall_ns() / 1000000 - ((int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000);
}

static int ask_uptime(struct guest *g, int64_t deadline, int64_t *ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf ping = {0}, answer = {0};

	kv_add(&ping, "op", "ping");
	if (guest_call(g, &ping, deadline, &answer, err) < 0)
		return -1;
	int64_t uptime = kv_i64(answer.p, answer.n, "uptime_ms", 0, INT64_MAX, -1);
	if (uptime < 0)
		return fcm_fail(err, FCM_GUEST, "the guest's agent didn't say its uptime");
	*ret = uptime;
	return 0;
}

int guest_tell_time(struct guest *g, int64_t deadline, int64_t trip_ms, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf request = {0};
	int64_t uptime = 0, begun = wall_ns(), begun_ms = clock_ms();

	if (ask_uptime(g, deadline, &uptime, err) < 0)
		return -1;
	int64_t trip = clock_ms() - begun_ms;
	if (trip > trip_ms)
		return fcm_fail(err, FCM_TIMEOUT, "the guest's agent was too slow to be told the time");
	kv_add(&request, "op", "clock");
	int64_t then = begun + trip * 1000000 / 2;
	kv_addf(&request, "ns", "%lld", (long long)then);
	kv_addf(&request, "uptime_ms", "%lld", (long long)uptime);
	return guest_call(g, &request, deadline, NULL, err);
}

/* Sleep, at most until `deadline`. False when it is time to end. */
static bool rest(int64_t deadline)
{
	struct timespec t = clock_monotonic(deadline);
	bool go_on;

	pthread_mutex_lock(&lock);
	while (!stopping && pthread_cond_timedwait(&changed, &lock, &t) == 0)
		;
	go_on = !stopping;
	pthread_mutex_unlock(&lock);
	return go_on;
}

static bool is_up(struct vm *vm)
{
	registry_lock();
	bool up = vm->view.state == VM_RUNNING;
	registry_unlock();
	return up;
}

/* A guest that doesn't answer is somebody else's matter (supervise.h). */
static void tell(struct vm *vm)
{
	struct guest *guest = is_up(vm) ? vm_guest(vm) : NULL;
	struct fcm_error err;

	if (guest && guest_tell_time(guest, clock_in(TIME_ANSWER_MS), TIME_TRIP_MS, &err) < 0)
		log_error(LOG_LEVEL_DEBUG, vm->id.s, &err);
	guest_unref(guest);
}

static void tell_all(void)
{
	struct vm **all;
	size_t n = registry_all(&all);

	for (size_t i = 0; i < n && rest(0); i++)
		tell(all[i]);
	registry_all_done(all, n);
}

static void *keep(void *arg)
{
	int64_t period = (intptr_t)arg * 1000, due = clock_in(period), skew = wall_skew_ms();

	while (rest(MIN(due, clock_in(LOOK_MS)))) {
		int64_t before = skew;
		skew = wall_skew_ms();
		bool jumped = skew - before > JUMP_MS || before - skew > JUMP_MS;
		if (!jumped && clock_left(due))
			continue;
		tell_all();
		due = clock_in(period);
	}
	return NULL;
}

int timekeeper_start(uint32_t seconds, struct fcm_error *err)
{
	pthread_condattr_t clock;
	pthread_attr_t attr;

	if (seconds == 0)
		return 0;
	pthread_condattr_init(&clock);
	pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
	pthread_cond_init(&changed, &clock);
	pthread_condattr_destroy(&clock);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	errno = pthread_create(&thread, &attr, keep, (void *)(intptr_t)seconds);
	pthread_attr_destroy(&attr);
	if (errno != 0)
		return fcm_fail_errno(err, "start the thread that keeps the guests' clocks");
	started = true;
	return 0;
}

void timekeeper_stop(void)
{
	if (!started)
		return;
	pthread_mutex_lock(&lock);
	stopping = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	pthread_join(thread, NULL);
	started = false;
}
