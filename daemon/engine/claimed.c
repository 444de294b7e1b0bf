#include "daemon/engine/claimed.h"

#include <string.h>

#include "common/core/clock.h"
#include "common/core/log.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/ops.h"
#include "daemon/engine/saved.h"
#include "daemon/engine/supervise.h"

enum {
	CLAIM_MS = 120000, /* how long a request waits for the operation before it */
	LOOK_MS = 1000,	   /* how often one that nobody waits for looks whether the daemon stops */
};

/* What nobody asked for is due once: the end of a VMM isn't told again. */
static int claim(struct op *op, struct fcm_error *err)
{
	int64_t wait = op->alone ? LOOK_MS : CLAIM_MS;

	while (registry_claim(op->vm, op, clock_in(wait), err) < 0)
		if (!op->alone || err->code != FCM_BUSY || engine_stopping())
			return -1;
	return 0;
}

static int refuse_broken(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	if (!vm->broken || op->run == op_destroy_run)
		return 0;
	registry_drop(vm);
	fcm_fail(err, FCM_CONFIG, "VM '%s': %s", vm->view.name, vm->view.reason.message);
	return fcm_hint(err, "mend %s/%s/config.json and restart fcmd, or fcm destroy %s",
		engine()->config->state_dir, vm->id.s, vm->id.s);
}

int claimed_begin(struct op *op, struct fcm_error *err)
{
	return claim(op, err) < 0 ? -1 : refuse_broken(op, err);
}

int claimed_try(struct op *op, struct fcm_error *err)
{
	return registry_claim(op->vm, op, clock_ms(), err) < 0 ? -1 : refuse_broken(op, err);
}

void vm_set_reason(struct vm *vm, const char *code, const struct fcm_error *err)
{
	VM_SET(vm, fcm_copy(view->reason.code, sizeof view->reason.code, code);
		fcm_copy(view->reason.step, sizeof view->reason.step, err->step);
		fcm_copy(view->reason.message, sizeof view->reason.message, fcm_veiled(err));
		view->reason.time = clock_wall());
}

void vm_save(struct vm *vm)
{
	struct fcm_error err;

	if (store_vm_save(&vm->view, &err) < 0)
		log_error(LOG_LEVEL_ERROR, vm->id.s, &err);
}

void claimed_keep(struct vm *vm, const struct fcm_error *why)
{
	const char *code = fcm_code_info(why->code)->wire;
	struct fcm_error err;

	if (engine_stopping())
		return;
	enum vm_state state = vm->paused ? VM_PAUSED : VM_RUNNING;
	if (vm->view.state != state || strcmp(vm->view.reason.code, code) != 0) {
		vm_set_reason(vm, code, why);
		VM_SET(vm, view->state = state; if (view->started == 0) view->started = clock_wall());
		vm_save(vm);
	}
	if (supervise_watch(vm, &err) < 0)
		log_error(LOG_LEVEL_ERROR, vm->id.s, &err);
	if (!vm->set_up && !vm->paused)
		supervise_lost(vm);
}

/* What a VM was before a table ran. */
struct before {
	enum vm_state state;
	enum vm_desired desired;
	struct vm_reason reason;
};

/* Has the roll-back brought it back to what it was: running, standing still, or with its memory on the disk? */
static bool stands(const struct op *op, const struct before *b)
{
	const struct op_table *t = op->table;

	if (t == &table_snapshot || t == &table_snapshot_stop || t == &table_pause || t == &table_resume)
		return !vm_state_up(b->state) || op_vmm_lives(op);
	if (t == &table_suspend)
		return op_vmm_lives(op) && !saved_there(op->vm);
	return t == &table_start && b->state == VM_SUSPENDED && saved_there(op->vm);
}

/* Write down that a table failed: a VM that wasn't touched yet is what it was, any other one has failed. So has one that
 * nobody waits for and that doesn't run: where else would its user see why? And one that was to start, which nobody does now. */
static void note_failure(struct op *op, const struct before *b, const struct fcm_error *err)
{
	struct vm *vm = op->vm;
	bool starts = op->table == &table_start; /* elsewhere `publish` is undone, behind `begin` */
	bool untouched = stands(op, b) || strcmp(err->step, "admit") == 0 ||
			 (starts && strcmp(err->step, "publish") == 0) || strcmp(err->step, "begin") == 0;
	bool waited = starts && b->state == VM_STARTING;
	bool same = untouched && !waited && (!op->alone || b->state == VM_RUNNING);
	/* a VMM that answered neither the pause nor the way back: a resume makes it certain */
	bool may_stand = same && b->state == VM_RUNNING && vm->paused;

	if (same)
		VM_SET(vm, view->state = b->state; view->desired = b->desired; view->reason = b->reason);
	if (!same || may_stand) {
		vm_set_reason(vm, fcm_code_info(err->code)->wire, err);
		VM_SET(vm, view->state = may_stand ? VM_PAUSED : VM_FAILED);
	}
	/* of a destroy that got stuck config.json goes on saying so: the next daemon finishes it */
	if (same || op->table != &table_destroy)
		vm_save(vm);
}

int claimed_run(struct op *op, const struct op_table *table, struct fcm_error *err)
{
	const struct vm_view *v = &op->vm->view;
	const struct before before = {v->state, v->desired, v->reason};
	bool kept;

	op->table = table;
	if (steps_run(op, &kept, err) == 0)
		return 0;
	if (kept)
		claimed_keep(op->vm, err);
	else
		note_failure(op, &before, err);
	return -1;
}

int claimed_release(struct op *op, enum vm_state state, struct fcm_error *err)
{
	op->end_state = state;
	return claimed_run(op, &table_ended, err);
}

int claimed_start(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	supervise_unwatch(vm);
	/* what is left of an earlier run: its VMM ended a moment ago, or a stop got stuck */
	if (vm->shim_pidfd >= 0 && claimed_release(op, VM_STOPPED, err) < 0)
		return -1;
	return claimed_run(op, &table_start, err);
}
