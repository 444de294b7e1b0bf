#include "daemon/engine/supervise.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>

#include "common/core/clock.h"
#include "common/core/log.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/health.h"
#include "daemon/engine/ops.h"
#include "daemon/engine/site.h"
#include "daemon/loop.h"
#include "daemon/net/net.h"

enum {
	BACKOFF_MS = 1000, /* before the first restart after a crash; doubles each time */
	BACKOFF_MAX_MS = 60000,
	REBOOTS = 5,	      /* in a row, of runs that were short, that begin at once */
	RECONNECT_MS = 1000,  /* before a guest without a session is tried again; doubles up to a minute */
	STEADY_MS = 60000,    /* a session that held that long begins anew */
	SITE_RETRY_MS = 5000, /* between tries of pending sites; doubles to the maximum */
	SITE_RETRY_MAX_MS = 60000,
	SITE_TRIES = 8, /* sites retried at a time */
	LATE_MS = 1000, /* before an operation without a thread is tried again */
};

/* ---- operations that nobody asked for ---- */

/* Those for which there was no thread. A leaf lock. */
static struct {
	pthread_mutex_t lock;
	struct op *first;
	struct loop_source *timer;
} late = {.lock = PTHREAD_MUTEX_INITIALIZER};

void supervise_run(struct op *op)
{
	struct fcm_error err;

	op->alone = true;
	if (op_start(op, &err) == 0) {
		op_unref(op);
		return;
	}
	log_error(LOG_LEVEL_ERROR, op->vm->id.s, &err);
	pthread_mutex_lock(&late.lock);
	op->later = late.first;
	late.first = op;
	pthread_mutex_unlock(&late.lock);
	if (late.timer) /* else supervise_host() sets it */
		loop_set_timer(late.timer, clock_in(LATE_MS));
}

static void on_late(void *arg, uint32_t events)
{
	struct op *op, *next;

	(void)arg;
	(void)events;
	pthread_mutex_lock(&late.lock);
	op = STEAL(late.first);
	pthread_mutex_unlock(&late.lock);
	for (; op; op = next) {
		next = STEAL(op->later);
		supervise_run(op);
	}
}

/* ---- the end of a VMM ---- */

static int64_t backoff(unsigned crashes)
{
	return MIN((int64_t)BACKOFF_MS << MIN(crashes, 6u), (int64_t)BACKOFF_MAX_MS);
}

struct verdict supervise_verdict(enum guest_power intent, int status, enum vm_restart policy,
	enum vm_desired desired, unsigned crashes)
{
	struct verdict v = {.state = VM_STOPPED, .code = ""};

	switch (intent) {
	case GUEST_POWEROFF:
		if (status < 0 || policy == RESTART_NO || (policy == RESTART_ON_FAILURE && status == 0) ||
			desired != WANT_RUNNING)
			return v;
		v.state = VM_FAILED;
		v.code = "exited";
		v.restart = true;
		v.delay_ms = backoff(crashes);
		return v;
	case GUEST_REBOOT:
		v.restart = desired == WANT_RUNNING;
		if (v.restart)
			v.state = VM_STARTING;
		if (v.restart && crashes >= REBOOTS)
			v.delay_ms = backoff(crashes - REBOOTS);
		return v;
	case GUEST_CRASHED:
		break;
	}
	v.state = VM_FAILED;
	v.code = "crashed";
	v.restart = policy != RESTART_NO && desired == WANT_RUNNING;
	v.delay_ms = backoff(crashes);
	return v;
}

static void on_end(void *arg, uint32_t events)
{
	(void)events;
	supervise_run(op_new(&table_ended, arg, op_ended_run));
}

int supervise_watch(struct vm *vm, struct fcm_error *err)
{
	if (vm->paused)
		health_unwatch(vm);
	else if (health_watch(vm, err) < 0)
		return -1;
	if (vm->watch)
		return 0;
	/* once: a pidfd stays readable after the end */
	return loop_add(engine()->loop, vm->shim_pidfd, EPOLLIN | EPOLLONESHOT, on_end, vm, &vm->watch, err);
}

void supervise_unwatch(struct vm *vm)
{
	health_unwatch(vm);
	loop_remove(STEAL(vm->watch));
	loop_remove(STEAL(vm->timer));
}

static void on_restart_due(void *arg, uint32_t events)
{
	struct vm *vm = arg;

	(void)events;
	supervise_run(op_new(&table_start, vm, op_revive_run));
}

int supervise_restart_in(struct vm *vm, int64_t delay_ms, struct fcm_error *err)
{
	loop_remove(STEAL(vm->timer));
	return loop_add_timer(engine()->loop, clock_in(delay_ms), on_restart_due, vm, &vm->timer, err);
}

/* ---- the agent ---- */

void supervise_power(void *arg, enum guest_power intent)
{
	struct vm *vm = arg;

	vm->intent = (int)intent;
}

void supervise_main(void *arg, int exit)
{
	struct vm *vm = arg;

	vm->main_exit = exit;
}

void supervise_remove(struct vm *vm)
{
	registry_lock();
	bool due = vm->listed && vm->view.spec.auto_remove && vm->view.boots > 0 &&
		   (vm->view.state == VM_STOPPED || vm->view.state == VM_FAILED);
	registry_unlock();
	if (due && !engine_stopping())
		supervise_run(op_new(&table_destroy, vm, op_remove_run));
}

/* Longer each time, for a guest that never answers, or breaks each session on purpose, shall cost nothing. */
static int64_t reconnect_delay(struct vm *vm)
{
	vm->tries = clock_ms() - vm->tried_at > STEADY_MS ? 0 : MIN(vm->tries + 1, 6u);
	int64_t delay = (int64_t)RECONNECT_MS << vm->tries;
	vm->tried_at = clock_in(delay);
	return delay;
}

static void plan_setup(struct vm *vm, bool anew)
{
	if (atomic_exchange(&vm->reconnecting, true))
		return;
	struct op *op = op_new(&table_adopt, vm, op_reconnect_run);
	op->delay_ms = anew ? RECONNECT_MS : reconnect_delay(vm);
	registry_lock();
	op->boots = vm->view.boots;
	registry_unlock();
	supervise_run(op);
}

void supervise_lost(void *arg)
{
	plan_setup(arg, false);
}

void supervise_new(struct vm *vm)
{
	plan_setup(vm, true);
}

/* ---- the host ---- */

static void on_network_change(void *arg, const char *what)
{
	(void)arg;
	log_warn("the network was changed by somebody else: %s", what);
}

static void on_tap_gone(void *arg, const struct vm_id *id)
{
	struct fcm_error err;
	struct vm *vm = registry_find(id->s, true, NULL, &err);

	(void)arg;
	if (vm)
		supervise_run(op_new(&table_adopt, vm, op_tap_gone_run));
	vm_unref(vm);
}

static struct loop_source *site_timer;
static _Atomic int64_t site_delay = SITE_RETRY_MS; /* any thread may begin anew */

static bool site_due(struct vm *vm)
{
	registry_lock();
	bool due = vm->view.expose.port && strcmp(vm->view.expose.status, "pending") == 0 && vm->busy == NULL;
	registry_unlock();
	return due;
}

/* Retry some of the pending sites, each time beginning behind the last one that was tried. */
static void on_site_timer(void *arg, uint32_t events)
{
	static size_t next;
	struct vm **all;
	size_t n = registry_all(&all);
	unsigned tries = 0;

	(void)arg;
	(void)events;
	for (size_t i = 0; i < n && tries < SITE_TRIES; i++, next++) {
		struct vm *vm = all[next % n];
		if (!site_due(vm))
			continue;
		supervise_run(op_new(&table_expose, vm, op_site_retry_run));
		tries++;
	}
	registry_all_done(all, n);
	tries += site_api_retry();
	int64_t delay = tries ? MIN(site_delay * 2, (int64_t)SITE_RETRY_MAX_MS) : SITE_RETRY_MS;
	site_delay = delay;
	loop_set_timer(site_timer, clock_in(delay));
}

void supervise_sites(void)
{
	site_delay = SITE_RETRY_MS;
	if (site_timer)
		loop_set_timer(site_timer, clock_in(SITE_RETRY_MS));
}

int supervise_host(struct fcm_error *err)
{
	const struct net_events events = {.changed = on_network_change, .tap_gone = on_tap_gone};

	if (net_watch(engine()->loop, &events, err) < 0)
		return -1;
	if (loop_add_timer(engine()->loop, clock_in(LATE_MS), on_late, NULL, &late.timer, err) < 0)
		return -1;
	return loop_add_timer(engine()->loop, clock_in(SITE_RETRY_MS), on_site_timer, NULL, &site_timer, err);
}
