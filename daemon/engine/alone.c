/*
 * The operations that nobody asked for: a VMM ended, a start is due, the daemon began and found VMs, a guest needs its
 * session again, a TAP is gone.
 */
#include <pthread.h>
#include <semaphore.h>
#include <string.h>
#include <time.h>

#include "common/core/clock.h"
#include "common/core/log.h"
#include "daemon/engine/claimed.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/ops.h"
#include "daemon/engine/saved.h"
#include "daemon/engine/supervise.h"

enum {
	STABLE_S = 60,	    /* a VM that ran that long begins its restarts anew */
	SLICE_MS = 500,	    /* how often a wait looks whether it still makes sense */
	OFFER_MS = 10000,   /* how long one that goes by itself stays for who wants to know how it ended */
	OFFER_LOOK_MS = 50, /* between two looks whether somebody knows it */
	RETRY_MS = 5000,    /* for the answer of a guest that is tried again; its VM is claimed meanwhile */
};

/* A start that nobody waits for. When it fails the policy decides whether to try again, later and later. */
static int start_alone(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	struct fcm_error why;

	if (claimed_start(op, err) == 0)
		return 0;
	if (vm->view.state != VM_FAILED || engine_stopping())
		return -1;
	struct verdict v =
		supervise_verdict(GUEST_CRASHED, -1, vm->view.spec.restart, vm->view.desired, vm->crashes++);
	if (v.restart && supervise_restart_in(vm, v.delay_ms, &why) < 0)
		log_error(LOG_LEVEL_ERROR, vm->id.s, &why);
	return -1;
}

/* How a VMM that ended by itself did so, for people. */
static void describe_end(struct vm *vm, struct fcm_error *why)
{
	struct vm_exit how;
	struct fcm_error err;

	*why = (struct fcm_error){.code = FCM_VMM};
	if (store_exit_load(&vm->id, &how, &err) < 0)
		fcm_format(why->msg, sizeof why->msg, "the VMM's supervisor was killed");
	else if (how.signal)
		fcm_format(why->msg, sizeof why->msg, "the VMM was killed by signal %d", how.signal);
	else if (how.status)
		fcm_format(why->msg, sizeof why->msg, "the VMM ended with status %d", how.status);
	else
		fcm_format(why->msg, sizeof why->msg,
			"the guest reset itself without a word: a panic, most likely");
}

static void forget_crashes(struct vm *vm)
{
	if (vm->view.started && clock_wall() - vm->view.started > STABLE_S)
		vm->crashes = 0;
}

static int ended_claimed(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	struct fcm_error why;

	forget_crashes(vm);
	struct verdict v = supervise_verdict(
		vm_last_wish(vm), vm_main_exit(vm), vm->view.spec.restart, vm->view.desired, vm->crashes);
	describe_end(vm, &why);
	if (strcmp(v.code, "exited") == 0)
		fcm_format(why.msg, sizeof why.msg, "its main process ended with %d", vm_main_exit(vm));
	vm->crashes += v.code[0] || v.restart;
	if (v.code[0]) {
		vm_set_reason(vm, v.code, &why);
		log_line(LOG_LEVEL_WARN, vm->id.s, "%s", why.msg);
	}
	if (claimed_release(op, v.state, err) < 0)
		return -1;
	if (v.restart &&
		v.delay_ms == 0) /* the guest rebooted: one operation, so that nobody sees it stopped */
		return start_alone(op, err);
	return v.restart ? supervise_restart_in(vm, v.delay_ms, err) : 0;
}

int op_ended_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	if (claimed_begin(op, err) < 0)
		return -1;
	int rc = 0;
	if (vm->shim_pidfd >= 0 && !op_vmm_lives(op)) /* else another operation was first */
		rc = ended_claimed(op, err);
	registry_drop(vm);
	supervise_remove(vm);
	return rc;
}

/* Starts that nobody waits for take turns: a boot of the host makes all of them due. Whoever waits for a turn hasn't claimed its
 * VM, which can be stopped, destroyed or started at once meanwhile. */
static sem_t turns;

static void make_turns(void)
{
	sem_init(&turns, 0, engine_starts_at_once());
}

/* False when the daemon stops. */
static bool take_turn(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, make_turns);
	while (!engine_stopping()) {
		struct timespec t;
		clock_gettime(CLOCK_MONOTONIC, &t);
		t.tv_sec++;
		if (sem_clockwait(&turns, CLOCK_MONOTONIC, &t) == 0)
			return true;
	}
	return false;
}

static int revive(struct op *op, struct fcm_error *err)
{
	const struct vm_view *v = &op->vm->view;
	int rc = 0;
	bool due = v->state == VM_STARTING || (v->state == VM_FAILED && v->spec.restart != RESTART_NO);
	if (v->desired == WANT_RUNNING && due && !engine_stopping())
		rc = start_alone(op, err);
	registry_drop(op->vm);
	return rc;
}

/* A turn isn't kept for a VM that somebody else has: that may take as long as he waits for its guest. */
int op_revive_run(struct op *op, struct fcm_error *err)
{
	while (take_turn()) {
		bool mine = claimed_try(op, err) == 0;
		int rc = mine ? revive(op, err) : -1;
		sem_post(&turns);
		if (mine || err->code != FCM_BUSY)
			return rc;
		clock_sleep(SLICE_MS);
	}
	return 0; /* config.json says what is due */
}

int claimed_adopt(struct op *op, struct fcm_error *err)
{
	bool kept;

	op->table = op->vm->view.state == VM_PAUSED ? &table_adopt_paused : &table_adopt;
	if (steps_run(op, &kept, err) == 0)
		return 0;
	if (op_vmm_lives(op)) {
		claimed_keep(op->vm, err);
		return -1;
	}
	return ended_claimed(op, err);
}

/* A stop was under way, and the guest may still be shutting down: it gets the time that it would have had. */
static int stop_again(struct op *op, struct fcm_error *err)
{
	if (op_vmm_lives(op))
		op->grace_ms = engine()->config->stop_seconds * 1000ll;
	return claimed_run(op, &table_stop, err);
}

enum repair repair_due(const struct vm *vm)
{
	struct found f = {
		.state = vm->view.state,
		.desired = vm->view.desired,
		.restart = vm->view.spec.restart,
		.lives = vm->shim_pidfd >= 0,
		/* the saved machine goes before the first instruction: then the VMM has the only one */
		.booted = vm->run.booted || (vm->run.loaded != LOADED_NOT && !saved_there(vm)),
		.same_boot = strcmp(vm->run.shim.boot_id, proc_boot_id()) == 0,
		.saved = saved_there(vm),
		.throwaway = vm->view.throwaway,
		.parked = strcmp(vm->view.reason.code, REASON_HOST_SHUTDOWN) == 0,
	};

	return vm->broken ? REPAIR_NONE : reconcile(&f);
}

/* Requests come meanwhile, and one of them may have been first: what is due is what is due now. */
int op_repair_run(struct op *op, struct fcm_error *err)
{
	int rc = 0;

	if (claimed_begin(op, err) < 0)
		return -1;
	switch (repair_due(op->vm)) {
	case REPAIR_NONE:
		break;
	case REPAIR_ADOPT:
		if (op->vm->view.state == VM_SUSPENDING) /* which is taken back */
			VM_SET(op->vm, view->desired = WANT_RUNNING);
		rc = claimed_adopt(op, err);
		break;
	case REPAIR_ENDED:
		rc = ended_claimed(op, err);
		break;
	case REPAIR_RELEASE:
		rc = claimed_release(op, VM_STOPPED, err);
		break;
	case REPAIR_START:
		rc = claimed_release(op, VM_STARTING, err);
		break;
	case REPAIR_STOP:
		rc = stop_again(op, err);
		break;
	case REPAIR_RESTART:
		op->want_running = true;
		rc = stop_again(op, err) < 0 ? -1 : claimed_release(op, VM_STARTING, err);
		break;
	case REPAIR_SUSPEND:
		rc = claimed_release(op, VM_SUSPENDED, err);
		break;
	case REPAIR_DESTROY:
		rc = claimed_run(op, &table_destroy, err);
		break;
	}
	bool due = rc == 0 && op->vm->view.state == VM_STARTING;
	registry_drop(op->vm);
	supervise_remove(op->vm);
	return due ? op_revive_run(op, err) : rc;
}

/* Is it still the same run of the VM? Most channels break because the VM ends. */
static bool same_run(const struct op *op)
{
	const struct vm *vm = op->vm;

	registry_lock();
	bool same = vm->listed && vm->view.boots == op->boots && vm->view.state != VM_STOPPED &&
		    vm->view.state != VM_FAILED;
	registry_unlock();
	return same && !engine_stopping();
}

/* Has the guest no setup, or no session any more? While we waited another operation may have mended that. */
static bool is_deaf(const struct vm *vm)
{
	struct guest_hello hello;
	struct fcm_error err;

	return !vm->set_up || (guest_hello(vm->guest, clock_ms(), &hello, &err) < 0 && err.code == FCM_GUEST);
}

static int reconnect_claimed(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	if (!is_deaf(vm) || vm->view.state != VM_RUNNING || !op_vmm_lives(op) || engine_stopping())
		return 0;
	if (step_guest.undo(op, err) < 0)
		return -1;
	op->patience_ms = RETRY_MS;
	/* of one that runs on, `reason` tells what is wrong, without a line in the log for each try */
	return claimed_adopt(op, err) < 0 && !op_vmm_lives(op) ? -1 : 0;
}

/* Has another run begun meanwhile whose guest isn't set up? Its own wish for that found this operation planned. */
static bool is_late(const struct op *op)
{
	const struct vm *vm = op->vm;

	registry_lock();
	bool late = vm->listed && vm->view.boots != op->boots && !vm->set_up &&
		    (vm->view.state == VM_STARTING || vm->view.state == VM_RUNNING);
	registry_unlock();
	return late && !engine_stopping();
}

int op_reconnect_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	for (int64_t until = clock_in(op->delay_ms); clock_left(until) && same_run(op);)
		clock_sleep(MIN(SLICE_MS, clock_left(until)));
	bool same = same_run(op);
	int rc = same ? claimed_begin(op, err) : 0;
	vm->reconnecting = false;
	if (!same && is_late(op))
		supervise_new(vm);
	if (!same || rc < 0)
		return rc;
	rc = reconnect_claimed(op, err);
	registry_drop(vm);
	return rc;
}

/* Stop the guest as gently as its user would, then let the policy start it again; it is an end like a crash. Until that is
 * done config.json says what a restart would: the next daemon finishes it. */
static int unhealthy_claimed(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	struct fcm_error why = {.code = FCM_GUEST};

	forget_crashes(vm);
	struct verdict v =
		supervise_verdict(GUEST_CRASHED, -1, vm->view.spec.restart, vm->view.desired, vm->crashes);
	if (!v.restart)
		return 0;
	vm->crashes++;
	registry_lock();
	fcm_format(why.msg, sizeof why.msg, "the VM was not healthy: %s", vm->health.message);
	registry_unlock();
	log_line(LOG_LEVEL_WARN, vm->id.s, "%s; it is started again", why.msg);
	op->want_running = true;
	op->grace_ms = engine()->config->stop_seconds * 1000ll;
	struct vm_reason reason = vm->view.reason;
	if (step_begin.run(op, err) < 0) { /* not written down, so not begun */
		VM_SET(vm, view->state = VM_RUNNING; view->reason = reason);
		return -1;
	}
	if (step_quiet.run(op, err) < 0)
		return -1;
	vm_set_reason(vm, "unhealthy", &why);
	return claimed_release(op, VM_FAILED, err) < 0 ? -1 : supervise_restart_in(vm, v.delay_ms, err);
}

int op_unhealthy_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	int rc = 0;

	if (claimed_begin(op, err) < 0)
		return -1;
	registry_lock();
	bool still = vm->health.status == HEALTH_UNHEALTHY;
	registry_unlock();
	if (still && same_run(op) && vm->view.state == VM_RUNNING && op_vmm_lives(op))
		rc = unhealthy_claimed(op, err);
	registry_drop(vm);
	return rc;
}

int op_remove_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	for (int64_t until = clock_in(OFFER_MS); !vm->offered && clock_left(until) && !engine_stopping();)
		clock_sleep(MIN(OFFER_LOOK_MS, clock_left(until)));
	if (engine_stopping() || claimed_begin(op, err) < 0)
		return 0; /* the next daemon finds it, or it is gone */
	int rc = vm->view.state == VM_STOPPED || vm->view.state == VM_FAILED
			 ? claimed_run(op, &table_destroy, err)
			 : 0;
	registry_drop(vm);
	return rc;
}

int op_tap_gone_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	if (claimed_begin(op, err) < 0)
		return -1;
	struct vm_reason lost = vm_network(vm); /* no longer, where another operation was first */
	if (lost.code[0] && vm->view.state == VM_RUNNING) {
		VM_SET(vm, view->reason = lost);
		vm_save(vm);
	}
	registry_drop(vm);
	return 0;
}
