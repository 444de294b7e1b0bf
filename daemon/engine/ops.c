#include "daemon/engine/ops.h"

#include <stdio.h>
#include <string.h>

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
	{DO(admit), DO(reserve), DO(directory), DO(disk), DO(filter), DO(tap), DO(cgroup), DO(vmm),
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

static int claim(struct op *op, struct fcm_error *err)
{
	return registry_claim(op->vm, op, clock_in(CLAIM_MS), err);
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

/* A guest that doesn't answer in time runs on; a daemon that stops leaves the rest to the next one. */
static void keep_running(struct vm *vm, const struct fcm_error *why)
{
	struct fcm_error err;

	if (engine_stopping())
		return;
	set_reason(vm, fcm_code_info(why->code)->wire, why);
	VM_SET(vm, view->state = VM_RUNNING; if (view->started == 0) view->started = clock_wall());
	save_or_log(vm);
	if (supervise_watch(vm, &err) < 0)
		log_error(LOG_LEVEL_ERROR, vm->id.s, &err);
}

/* Run the tables of a start on a claimed VM. */
static int start_claimed(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	enum vm_state before = vm->view.state;
	bool kept;

	op->table = &table_start;
	op->ended = false; /* what was released before this start doesn't say how it ends */
	supervise_unwatch(vm);
	if (steps_run(op, &kept, err) == 0)
		return 0;
	if (kept) {
		keep_running(vm, err);
		return -1;
	}
	bool untouched = strcmp(err->step, "admit") == 0;
	set_reason(vm, fcm_code_info(err->code)->wire, err);
	VM_SET(vm, view->state = untouched ? before : VM_FAILED);
	save_or_log(vm);
	return -1;
}

/* Run the table of a stop on a claimed VM; `desired` is what the user wants afterwards. */
static int stop_claimed(struct op *op, struct fcm_error *err)
{
	bool kept;

	op->table = &table_stop;
	if (steps_run(op, &kept, err) == 0)
		return 0;
	set_reason(op->vm, fcm_code_info(err->code)->wire, err);
	VM_SET(op->vm, view->state = VM_FAILED);
	save_or_log(op->vm);
	return -1;
}

int op_create_run(struct op *op, struct fcm_error *err)
{
	bool kept;
	int rc = steps_run(op, &kept, err);

	if (kept)
		keep_running(op->vm, err);
	registry_drop(op->vm);
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
		rc = stop_claimed(op, err);
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
	int rc = stop_claimed(op, err) < 0 ? -1 : start_claimed(op, err);
	registry_drop(op->vm);
	return rc;
}

int op_park_run(struct op *op, struct fcm_error *err)
{
	int rc = 0;

	if (claim(op, err) < 0)
		return -1;
	if (op_vmm_lives(op)) {
		op->park = op->want_running = op->vm->view.desired == WANT_RUNNING;
		op->changed = true;
		rc = stop_claimed(op, err);
	}
	registry_drop(op->vm);
	return rc;
}

static int destroy_claimed(struct op *op, struct fcm_error *err)
{
	bool kept;

	op->table = &table_destroy;
	if (steps_run(op, &kept, err) == 0)
		return 0;
	set_reason(op->vm, fcm_code_info(err->code)->wire, err);
	VM_SET(op->vm, view->state = VM_FAILED);
	return -1;
}

int op_destroy_run(struct op *op, struct fcm_error *err)
{
	if (claim(op, err) < 0)
		return -1;
	op->changed = true;
	int rc = destroy_claimed(op, err);
	registry_drop(op->vm);
	return rc;
}

int op_expose_run(struct op *op, struct fcm_error *err)
{
	bool kept;

	if (claim(op, err) < 0)
		return -1;
	op->changed = true;
	op->before = op->vm->view.expose;
	int rc = steps_run(op, &kept, err);
	registry_drop(op->vm);
	return rc;
}

int op_keys_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	int rc = 0;

	if (claim(op, err) < 0)
		return -1;
	for (size_t i = 0; i < op->keys.n; i++)
		if (!strv_has(&vm->view.spec.ssh_keys, op->keys.v[i])) {
			VM_SET(vm, strv_add(&view->spec.ssh_keys, op->keys.v[i]));
			op->changed = true;
		}
	if (vm->view.spec.ssh_keys.n > VM_MAX_KEYS) {
		rc = fcm_fail_field(err, FCM_INVALID, "keys", "a VM holds at most %d keys", VM_MAX_KEYS);
		while (vm->view.spec.ssh_keys.n > VM_MAX_KEYS)
			VM_SET(vm, free(view->spec.ssh_keys.v[--view->spec.ssh_keys.n]));
	}
	if (rc == 0 && op->changed)
		rc = store_vm_save(&vm->view, err);
	if (rc == 0 && op->changed && vm->guest && strcmp(vm->sshd, "none") != 0)
		rc = guest_put_keys(vm, err);
	registry_drop(vm);
	return rc;
}

/* ---- what nobody asked for ---- */

enum {
	STABLE_S = 60,	     /* a VM that ran that long begins its restarts anew */
	RECONNECT_MS = 1000, /* between a broken channel and the next try; doubles up to a minute */
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

/* Release what a VM had whose VMM is gone, and leave it in `state`. */
static int release_claimed(struct op *op, enum vm_state state, struct fcm_error *err)
{
	bool kept;

	op->table = &table_ended;
	op->ended = true;
	op->end_state = state;
	return steps_run(op, &kept, err);
}

static int ended_claimed(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	struct fcm_error why;

	if (vm->view.started && clock_wall() - vm->view.started > STABLE_S)
		vm->crashes = 0;
	struct verdict v =
		supervise_verdict(vm->intent, vm->view.spec.restart, vm->view.desired, vm->crashes);
	describe_end(vm, &why);
	if (v.code[0]) {
		vm->crashes++;
		set_reason(vm, v.code, &why);
		log_line(LOG_LEVEL_WARN, vm->id.s, "%s", why.msg);
	}
	if (release_claimed(op, v.state, err) < 0)
		return -1;
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

int op_revive_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	if (claim(op, err) < 0)
		return -1;
	int rc = 0;
	if (vm->view.desired == WANT_RUNNING && vm->view.state != VM_RUNNING && !engine_stopping())
		rc = start_claimed(op, err);
	registry_drop(vm);
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
		rc = release_claimed(op, VM_STOPPED, err) < 0 ? -1 : start_claimed(op, err);
		break;
	case REPAIR_STOP:
		rc = stop_claimed(op, err);
		break;
	case REPAIR_RESTART:
		op->want_running = true;
		rc = stop_claimed(op, err) < 0 ? -1 : start_claimed(op, err);
		break;
	case REPAIR_DESTROY:
		rc = destroy_claimed(op, err);
		break;
	}
	registry_drop(op->vm);
	return rc;
}

/* Wait before the agent's channel is tried again: longer each time that it breaks soon after, for a guest that breaks it on
 * purpose shall cost nothing. */
static void wait_to_reconnect(struct vm *vm)
{
	int64_t now = clock_ms();

	vm->losses = now - vm->lost_at > STABLE_S * 1000ll ? 0 : MIN(vm->losses + 1, 6u);
	vm->lost_at = now;
	for (int64_t until = clock_in(RECONNECT_MS << vm->losses); clock_left(until) && !engine_stopping();)
		clock_sleep(MIN(RECONNECT_MS, clock_left(until)));
}

/* Is the session that there is now broken, too? While we waited another operation may have begun a new one. */
static bool is_deaf(const struct vm *vm)
{
	struct guest_hello hello;
	struct fcm_error err;

	return vm->guest && guest_hello(vm->guest, clock_ms(), &hello, &err) < 0 && err.code == FCM_GUEST;
}

int op_reconnect_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	int rc = 0;

	wait_to_reconnect(vm);
	if (claim(op, err) < 0)
		return -1;
	if (is_deaf(vm) && vm->view.state == VM_RUNNING && op_vmm_lives(op) && !engine_stopping()) {
		guest_close(STEAL(vm->guest));
		if (vm->vmm)
			vm->driver->free(STEAL(vm->vmm));
		rc = adopt_claimed(op, err);
	}
	registry_drop(vm);
	return rc;
}
