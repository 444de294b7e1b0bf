/*
 * How it works. A watched VM has one timer on the loop, which does all: it asks, looks whether there is an answer, more and
 * more rarely, and gives up after the check's timeout. So nothing waits: a guest that never answers costs its timer and
 * one stream of its session, and others are asked meanwhile. At most AT_ONCE are asked at a time.
 *
 * A VM that becomes unhealthy is an operation's business (op_unhealthy_run): the restart policy decides.
 */
#include "daemon/engine/health.h"

#include <string.h>

#include "common/core/clock.h"
#include "common/core/log.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/ops.h"
#include "daemon/engine/probe.h"
#include "daemon/engine/supervise.h"
#include "daemon/loop.h"

enum {
	FIRST_MS = 1000,  /* from the start of the VM to the first check */
	AT_ONCE = 128,	  /* checks under way */
	CROWDED_MS = 250, /* before one tries again to be among them */
	LOOK_MIN_MS = 5,  /* between two looks for an answer; doubles to the maximum */
	LOOK_MAX_MS = 160,
};

struct checks {
	struct vm *vm; /* whose checks they are, so not held */
	struct loop_source *timer;
	struct probe *probe; /* under way, or NULL */
	int64_t deadline;    /* for its answer */
	int64_t look_ms;
	int64_t early_until; /* failures don't count */
};

static _Atomic unsigned under_way;

bool health_count(struct vm_health *h, bool good, bool early, uint32_t retries)
{
	enum health before = h->status;

	if (good) {
		h->failing = 0;
		h->status = HEALTH_HEALTHY;
	} else if (!early || before != HEALTH_STARTING) {
		h->failing += h->failing < UINT32_MAX;
		if (h->failing >= retries)
			h->status = HEALTH_UNHEALTHY;
	}
	return h->status != before;
}

/* The policy is asked when the VM becomes unhealthy, and again while it stays so: it may be busy, and then nobody waits for it. */
static void restart_if_wanted(struct vm *vm, const struct vm_health *h)
{
	if (h->status != HEALTH_UNHEALTHY || h->failing % vm->view.spec.health.retries != 0)
		return;
	registry_lock();
	bool busy = vm->busy;
	int64_t boots = vm->view.boots;
	registry_unlock();
	if (busy)
		return;
	struct op *op = op_new(&table_stop, vm, op_unhealthy_run);
	op->boots = boots;
	supervise_run(op);
}

static void end_probe(struct checks *c)
{
	if (c->probe == NULL)
		return;
	probe_free(STEAL(c->probe));
	under_way--;
}

static void take(struct checks *c, bool good, const char *why)
{
	struct vm *vm = c->vm;
	const struct health_spec *spec = &vm->view.spec.health;
	bool early = clock_ms() < c->early_until || !vm->set_up; /* it boots */
	struct vm_health before, now;

	end_probe(c);
	registry_lock();
	before = vm->health;
	bool changed = health_count(&vm->health, good, early, spec->retries);
	fcm_copy(vm->health.message, sizeof vm->health.message, why);
	now = vm->health;
	if (changed || before.failing != now.failing || strcmp(before.message, now.message) != 0)
		registry_changed(vm);
	registry_unlock();
	if (changed)
		log_line(now.status == HEALTH_HEALTHY ? LOG_LEVEL_INFO : LOG_LEVEL_WARN, vm->id.s,
			"it is %s%s%s", health_names[now.status], *why ? ": " : "", why);
	loop_set_timer(c->timer, clock_in(spec->interval * 1000ll));
	restart_if_wanted(vm, &now);
}

static int ask(struct checks *c, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf rq = {0};
	struct guest *g = vm_guest(c->vm);

	if (g == NULL)
		return fcm_fail(err, FCM_GUEST, "there is no channel to the guest's agent");
	probe_of_health(&c->vm->view.spec, &rq);
	int rc = probe_begin(g, &rq, &c->probe, err);
	guest_unref(g);
	return rc;
}

static void begin(struct checks *c)
{
	struct fcm_error err;

	if (under_way >= AT_ONCE) {
		loop_set_timer(c->timer, clock_in(CROWDED_MS));
		return;
	}
	if (ask(c, &err) < 0) {
		take(c, false, err.msg);
		return;
	}
	under_way++;
	c->deadline = clock_in(c->vm->view.spec.health.timeout * 1000ll);
	c->look_ms = LOOK_MIN_MS;
	loop_set_timer(c->timer, clock_in(c->look_ms));
}

static void look(struct checks *c)
{
	char why[PROBE_WHY];

	switch (probe_poll(c->probe, why)) {
	case PROBE_GOOD:
		take(c, true, "");
		return;
	case PROBE_BAD:
		take(c, false, why);
		return;
	case PROBE_LATER:
		break;
	}
	if (clock_left(c->deadline) == 0) {
		(void)fcm_format(why, sizeof why, "no answer within %u s", c->vm->view.spec.health.timeout);
		take(c, false, why);
		return;
	}
	c->look_ms = MIN(c->look_ms * 2, (int64_t)LOOK_MAX_MS);
	loop_set_timer(c->timer, MIN(clock_in(c->look_ms), c->deadline));
}

static void on_timer(void *arg, uint32_t events)
{
	struct checks *c = arg;

	(void)events;
	if (c->probe)
		look(c);
	else
		begin(c);
}

static void set_status(struct vm *vm, enum health status)
{
	registry_lock();
	vm->health = (struct vm_health){.status = status};
	registry_changed(vm);
	registry_unlock();
}

static struct checks *new_checks(struct vm *vm)
{
	struct checks *c = xalloc(sizeof *c);

	*c = (struct checks){.vm = vm, .early_until = clock_in(vm->view.spec.health.start_period * 1000ll)};
	set_status(vm, HEALTH_STARTING);
	return c;
}

int health_watch(struct vm *vm, struct fcm_error *err)
{
	const struct health_spec *spec = &vm->view.spec.health;

	if (spec->interval == 0 || vm->view.spec.hold)
		return 0;
	if (vm->checks == NULL)
		vm->checks = new_checks(vm);
	struct checks *c = vm->checks;
	if (c->timer)
		return 0;
	/* not due before c->timer is set */
	if (loop_add_timer(engine()->loop, FCM_FOREVER, on_timer, c, &c->timer, err) < 0)
		return -1;
	loop_set_timer(c->timer, clock_in(MIN(FIRST_MS, spec->interval * 1000ll)));
	return 0;
}

void health_rest(struct vm *vm)
{
	struct checks *c = vm->checks;

	if (c == NULL)
		return;
	loop_remove(c->timer); /* which waits for a callback that runs, and that sets it */
	c->timer = NULL;
	end_probe(c);
}

void health_unwatch(struct vm *vm)
{
	if (vm->checks == NULL)
		return;
	health_rest(vm);
	free(STEAL(vm->checks));
	set_status(vm, HEALTH_NONE);
}
