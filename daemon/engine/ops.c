#include "daemon/engine/ops.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/core/clock.h"
#include "common/core/log.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/supervise.h"

#define DO(s)                                                                                                \
	{                                                                                                    \
		&step_##s, STEP_DO                                                                           \
	}
#define KEEP(s)                                                                                              \
	{                                                                                                    \
		&step_##s, STEP_KEEP                                                                         \
	}
#define UNDO(s)                                                                                              \
	{                                                                                                    \
		&step_##s, STEP_UNDO                                                                         \
	}

/* What stop, destroy and the end of a VMM release, and what start makes, in reverse. */
#define RELEASE UNDO(guest), UNDO(attach), UNDO(vmm), UNDO(cgroup), UNDO(tap), UNDO(filter)

const struct op_table table_create = {"create", VM_STARTING, VM_RUNNING, WANT_RUNNING,
	{DO(reserve), DO(admit), DO(directory), DO(disk), DO(filter), DO(tap), DO(cgroup), DO(vmm),
		DO(attach), DO(boot), DO(begin), KEEP(guest), KEEP(ready), KEEP(site), DO(end)}};

const struct op_table table_start = {"start", VM_STARTING, VM_RUNNING, WANT_RUNNING,
	{DO(admit), DO(begin), DO(filter), DO(tap), DO(cgroup), DO(vmm), DO(attach), DO(boot), KEEP(guest),
		KEEP(ready), DO(end)}};

const struct op_table table_stop = {
	"stop", VM_STOPPING, VM_STOPPED, WANT_STOPPED, {DO(begin), DO(quiet), RELEASE, DO(end)}};

const struct op_table table_destroy = {"destroy", VM_DESTROYING, VM_DESTROYING, WANT_STOPPED,
	{DO(begin), UNDO(site), DO(quiet), RELEASE, UNDO(directory), UNDO(reserve)}};

const struct op_table table_adopt = {
	"adopt", VM_RUNNING, VM_RUNNING, WANT_RUNNING, {DO(attach), KEEP(guest), DO(end)}};

const struct op_table table_ended = {"ended", VM_STOPPED, VM_STOPPED, WANT_RUNNING, {RELEASE, DO(end)}};

const struct op_table table_expose = {"expose", VM_RUNNING, VM_RUNNING, WANT_RUNNING, {DO(want), DO(site)}};

const struct op_table table_unexpose = {
	"unexpose", VM_RUNNING, VM_RUNNING, WANT_RUNNING, {UNDO(site), DO(want)}};

enum { CLAIM_MS = 120000 }; /* how long an operation waits for the one before it */

/* Claim the VM. One whose config.json is broken can only be destroyed: everything else would write a new one over what its
 * user may still mend. */
static int claim(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	if (registry_claim(vm, op, clock_in(CLAIM_MS), err) < 0)
		return -1;
	if (!vm->broken || op->run == op_destroy_run)
		return 0;
	registry_drop(vm);
	fcm_fail(err, FCM_CONFIG, "VM '%s': %s", vm->view.name, vm->view.reason.message);
	return fcm_hint(err, "mend %s/%s/config.json and restart fcmd, or fcm destroy %s",
		engine()->config->state_dir, vm->id.s, vm->id.s);
}

/* Record why a VM is not what its user wants. */
static void set_reason(struct vm *vm, const char *code, const struct fcm_error *err)
{
	VM_SET(vm, fcm_copy(view->reason.code, sizeof view->reason.code, code);
		fcm_copy(view->reason.step, sizeof view->reason.step, err->step);
		fcm_copy(view->reason.message, sizeof view->reason.message, err->msg);
		view->reason.time = clock_wall());
}

static void save_or_log(struct vm *vm)
{
	struct fcm_error err;

	if (store_vm_save(&vm->view, &err) < 0)
		log_error(LOG_LEVEL_ERROR, vm->id.s, &err);
}

/* A guest that doesn't answer in time runs on, and is set up when it does; a daemon that stops leaves that to the next one. */
static void keep_running(struct vm *vm, const struct fcm_error *why)
{
	const char *code = fcm_code_info(why->code)->wire;
	struct fcm_error err;

	if (engine_stopping())
		return;
	if (vm->view.state != VM_RUNNING || strcmp(vm->view.reason.code, code) != 0) {
		set_reason(vm, code, why);
		VM_SET(vm, view->state = VM_RUNNING; if (view->started == 0) view->started = clock_wall());
		save_or_log(vm);
	}
	if (supervise_watch(vm, &err) < 0)
		log_error(LOG_LEVEL_ERROR, vm->id.s, &err);
	if (!vm->set_up)
		supervise_lost(vm);
}

/* What a VM was before a table ran. */
struct before {
	enum vm_state state;
	enum vm_desired desired;
	struct vm_reason reason;
};

/* Write down that a table failed: a VM that wasn't touched yet is what it was, any other one has failed. So has one that
 * nobody waits for and that doesn't run: where else would its user see why? */
static void note_failure(struct op *op, const struct before *b, const struct fcm_error *err)
{
	struct vm *vm = op->vm;
	bool untouched = strcmp(err->step, "admit") == 0 || strcmp(err->step, "begin") == 0;
	bool same = untouched && (!op->alone || b->state == VM_RUNNING);

	if (same) {
		VM_SET(vm, view->state = b->state; view->desired = b->desired; view->reason = b->reason);
	} else {
		set_reason(vm, fcm_code_info(err->code)->wire, err);
		VM_SET(vm, view->state = VM_FAILED);
	}
	/* of a destroy that got stuck config.json goes on saying so: the next daemon finishes it */
	if (same || op->table != &table_destroy)
		save_or_log(vm);
}

/* Run a table on a claimed VM, and leave in the VM how it went. */
static int run_table(struct op *op, const struct op_table *table, struct fcm_error *err)
{
	const struct vm_view *v = &op->vm->view;
	const struct before before = {v->state, v->desired, v->reason};
	bool kept;

	op->table = table;
	if (steps_run(op, &kept, err) == 0)
		return 0;
	if (kept)
		keep_running(op->vm, err);
	else
		note_failure(op, &before, err);
	return -1;
}

/* Release what a VM had whose VMM is gone, and leave it in `state`. */
static int release_claimed(struct op *op, enum vm_state state, struct fcm_error *err)
{
	op->end_state = state;
	return run_table(op, &table_ended, err);
}

static int start_claimed(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	supervise_unwatch(vm);
	/* what is left of an earlier run: its VMM ended a moment ago, or a stop got stuck */
	if (vm->shim_pidfd >= 0 && release_claimed(op, VM_STOPPED, err) < 0)
		return -1;
	return run_table(op, &table_start, err);
}

/* A start that nobody waits for. When it fails the policy decides whether to try again, later and later. */
static int start_alone(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	struct fcm_error why;

	if (start_claimed(op, err) == 0)
		return 0;
	if (vm->view.state != VM_FAILED || engine_stopping())
		return -1;
	struct verdict v =
		supervise_verdict(GUEST_CRASHED, vm->view.spec.restart, vm->view.desired, vm->crashes++);
	if (v.restart && supervise_restart_in(vm, v.delay_ms, &why) < 0)
		log_error(LOG_LEVEL_ERROR, vm->id.s, &why);
	return -1;
}

int op_create_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	bool kept;
	int rc = steps_run(op, &kept, err);

	if (kept) {
		keep_running(vm, err);
	} else if (rc < 0 && vm->listed) {
		/* the roll-back got stuck; config.json says creating, or starting, so destroy or the next daemon go on */
		set_reason(vm, fcm_code_info(err->code)->wire, err);
		VM_SET(vm, view->state = VM_FAILED);
	}
	registry_drop(vm);
	op->changed = true;
	return rc;
}

int op_start_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	if (claim(op, err) < 0)
		return -1;
	int rc = 0;
	if (vm->view.state != VM_RUNNING || !op_vmm_lives(op)) {
		op->changed = true;
		vm->crashes = 0;
		rc = start_claimed(op, err);
	}
	registry_drop(vm);
	return rc;
}

static bool is_down(const struct vm *vm)
{
	return vm->view.state == VM_STOPPED && vm->shim_pidfd < 0;
}

int op_stop_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	if (claim(op, err) < 0)
		return -1;
	int rc = 0;
	if (!is_down(vm) || vm->view.desired != WANT_STOPPED) {
		op->changed = !is_down(vm);
		rc = run_table(op, &table_stop, err);
	}
	registry_drop(vm);
	return rc;
}

int op_restart_run(struct op *op, struct fcm_error *err)
{
	if (claim(op, err) < 0)
		return -1;
	op->want_running = true;
	op->changed = true;
	op->vm->crashes = 0;
	/* before it is stopped: could it be started at all? */
	int rc = step_admit.run(op, err);
	if (rc < 0)
		fcm_copy(err->step, sizeof err->step, step_admit.name);
	else
		rc = run_table(op, &table_stop, err) < 0 ? -1 : start_claimed(op, err);
	registry_drop(op->vm);
	return rc;
}

int op_park_run(struct op *op, struct fcm_error *err)
{
	int rc = 0;

	if (claim(op, err) < 0)
		return -1;
	if (op_vmm_lives(op) || op->vm->view.state == VM_STARTING) { /* or waits for its turn */
		op->park = op->want_running = op->vm->view.desired == WANT_RUNNING;
		op->changed = true;
		rc = run_table(op, &table_stop, err);
	}
	registry_drop(op->vm);
	return rc;
}

int op_destroy_run(struct op *op, struct fcm_error *err)
{
	if (claim(op, err) < 0)
		return -1;
	op->changed = true;
	int rc = run_table(op, &table_destroy, err);
	registry_drop(op->vm);
	return rc;
}

int op_expose_run(struct op *op, struct fcm_error *err)
{
	bool kept;

	if (claim(op, err) < 0)
		return -1;
	op->before = op->vm->view.expose;
	int rc = steps_run(op, &kept, err);
	const struct vm_expose *now = &op->vm->view.expose;
	op->changed = now->port != op->before.port || strcmp(now->domain, op->before.domain) != 0;
	registry_drop(op->vm);
	return rc;
}

/* Take the keys away that were added last. */
static void cut_keys(struct vm *vm, size_t n)
{
	VM_SET(vm, while (view->spec.ssh_keys.n > n) free(view->spec.ssh_keys.v[--view->spec.ssh_keys.n]));
}

int op_keys_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	struct strv *keys = &vm->view.spec.ssh_keys;
	int rc = 0;

	if (claim(op, err) < 0)
		return -1;
	size_t before = keys->n;
	for (size_t i = 0; i < op->keys.n; i++)
		if (!strv_has(keys, op->keys.v[i]))
			VM_SET(vm, strv_add(&view->spec.ssh_keys, op->keys.v[i]));
	op->changed = keys->n > before;
	if (keys->n > VM_MAX_KEYS)
		rc = fcm_fail_field(err, FCM_INVALID, "keys", "a VM holds at most %d keys", VM_MAX_KEYS);
	else if (op->changed)
		rc = store_vm_save(&vm->view, err);
	if (rc < 0)
		cut_keys(vm, before);
	else if (op->changed && vm->set_up && strcmp(vm->sshd, "none") != 0)
		rc = guest_put_keys(vm, err);
	registry_drop(vm);
	return rc;
}

/* ---- what nobody asked for ---- */

enum {
	STABLE_S = 60,	 /* a VM that ran that long begins its restarts anew */
	SLICE_MS = 500,	 /* how often a wait looks whether it still makes sense */
	RETRY_MS = 5000, /* for the answer of a guest that is tried again; its VM is claimed meanwhile */
};

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

static int ended_claimed(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	struct fcm_error why;

	if (vm->view.started && clock_wall() - vm->view.started > STABLE_S)
		vm->crashes = 0;
	struct verdict v =
		supervise_verdict(vm_last_wish(vm), vm->view.spec.restart, vm->view.desired, vm->crashes);
	describe_end(vm, &why);
	if (v.code[0]) {
		vm->crashes++;
		set_reason(vm, v.code, &why);
		log_line(LOG_LEVEL_WARN, vm->id.s, "%s", why.msg);
	}
	if (release_claimed(op, v.state, err) < 0)
		return -1;
	if (v.restart &&
		v.delay_ms == 0) /* the guest rebooted: one operation, so that nobody sees it stopped */
		return start_alone(op, err);
	return v.restart ? supervise_restart_in(vm, v.delay_ms, err) : 0;
}

int op_ended_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	if (claim(op, err) < 0)
		return -1;
	int rc = 0;
	if (vm->shim_pidfd >= 0 && !op_vmm_lives(op)) /* else another operation was first */
		rc = ended_claimed(op, err);
	registry_drop(vm);
	return rc;
}

/* Starts that nobody waits for take turns: a boot of the host makes all of them due, and guests that boot together on few
 * processors starve each other until every one is late. Whoever waits for a turn hasn't claimed its VM, which can be
 * stopped, destroyed or started at once meanwhile. */
static sem_t turns;

static void make_turns(void)
{
	uint32_t n = engine()->config->starts_at_once;

	sem_init(&turns, 0, n ? n : (unsigned)sysconf(_SC_NPROCESSORS_ONLN) + 1);
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

	if (claim(op, err) < 0)
		return -1;
	int rc = 0;
	if (v->desired == WANT_RUNNING && (v->state == VM_STARTING || v->state == VM_FAILED) &&
		!engine_stopping())
		rc = start_alone(op, err);
	registry_drop(op->vm);
	return rc;
}

int op_revive_run(struct op *op, struct fcm_error *err)
{
	if (!take_turn())
		return 0; /* config.json says what is due */
	int rc = revive(op, err);
	sem_post(&turns);
	return rc;
}

static int adopt_claimed(struct op *op, struct fcm_error *err)
{
	bool kept;

	op->table = &table_adopt;
	if (steps_run(op, &kept, err) == 0)
		return 0;
	if (op_vmm_lives(op)) {
		keep_running(op->vm, err);
		return -1;
	}
	return ended_claimed(op, err);
}

/* A stop was under way, and the guest may still be shutting down: it gets the time that it would have had. */
static int stop_again(struct op *op, struct fcm_error *err)
{
	struct fcm_error deaf;

	if (op_vmm_lives(op) && step_attach.run(op, &deaf) == 0)
		op->grace_ms = engine()->config->stop_seconds * 1000ll;
	return run_table(op, &table_stop, err);
}

int op_repair_run(struct op *op, struct fcm_error *err)
{
	int rc = 0;

	if (claim(op, err) < 0)
		return -1;
	switch (op->repair) {
	case REPAIR_NONE:
		break;
	case REPAIR_ADOPT:
		rc = adopt_claimed(op, err);
		break;
	case REPAIR_ENDED:
		rc = ended_claimed(op, err);
		break;
	case REPAIR_RELEASE:
		rc = release_claimed(op, VM_STOPPED, err);
		break;
	case REPAIR_START:
		rc = release_claimed(op, VM_STARTING, err);
		break;
	case REPAIR_STOP:
		rc = stop_again(op, err);
		break;
	case REPAIR_RESTART:
		op->want_running = true;
		rc = stop_again(op, err) < 0 ? -1 : release_claimed(op, VM_STARTING, err);
		break;
	case REPAIR_DESTROY:
		rc = run_table(op, &table_destroy, err);
		break;
	}
	bool due = rc == 0 && op->vm->view.state == VM_STARTING;
	registry_drop(op->vm);
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
	return adopt_claimed(op, err) < 0 && !op_vmm_lives(op) ? -1 : 0;
}

int op_reconnect_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	for (int64_t until = clock_in(op->delay_ms); clock_left(until) && same_run(op);)
		clock_sleep(MIN(SLICE_MS, clock_left(until)));
	bool same = same_run(op);
	int rc = same ? claim(op, err) : 0;
	vm->reconnecting = false;
	if (!same || rc < 0)
		return rc;
	rc = reconnect_claimed(op, err);
	registry_drop(vm);
	return rc;
}

int op_tap_gone_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	if (claim(op, err) < 0)
		return -1;
	struct vm_reason lost = vm_network(vm); /* no longer, where another operation was first */
	if (lost.code[0] && vm->view.state == VM_RUNNING) {
		VM_SET(vm, view->reason = lost);
		save_or_log(vm);
	}
	registry_drop(vm);
	return 0;
}
