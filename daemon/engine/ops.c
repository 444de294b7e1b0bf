/*
 * The operations that the API asks for.
 */
#include "daemon/engine/ops.h"

#include <string.h>

#include "daemon/engine/claimed.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/health.h"
#include "daemon/engine/saved.h"
#include "daemon/engine/snapshots.h"
#include "daemon/engine/supervise.h"

int op_create_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	bool kept;
	int rc = steps_run(op, &kept, err);

	if (kept) {
		claimed_keep(vm, err);
	} else if (rc < 0 && vm->listed) {
		/* the roll-back got stuck; config.json says creating, or starting, so destroy or the next daemon go on */
		vm_set_reason(vm, fcm_code_info(err->code)->wire, err);
		VM_SET(vm, view->state = VM_FAILED);
	}
	if (rc == 0 && op->save && (rc = snapshot_take(op, err)) < 0)
		fcm_wrap(err, "VM '%s' is up, but there is no snapshot of it", vm->view.name);
	registry_drop(vm);
	op->changed = true;
	return rc;
}

/* Let the main process of a VM go that was made with `hold`. What is written down first the next daemon does. */
static int release(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	if (!vm->set_up)
		return fcm_fail(err, FCM_UNAVAILABLE, "the guest of '%s' isn't set up yet", vm->view.name);
	VM_SET(vm, view->spec.hold = false);
	if (store_vm_save(&vm->view, err) < 0) {
		VM_SET(vm, view->spec.hold = true);
		return -1;
	}
	return guest_start_main(vm, err) < 0 ? -1 : health_watch(vm, err);
}

static int wait_ready(struct op *op, struct fcm_error *err)
{
	int rc = step_ready.run(op, err);

	if (rc < 0)
		fcm_copy(err->step, sizeof err->step, step_ready.name);
	return rc;
}

int op_start_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	if (claimed_begin(op, err) < 0)
		return -1;
	int rc = 0;
	if (vm->view.state == VM_PAUSED && op_vmm_lives(op)) {
		op->changed = op->resumed = true;
		rc = claimed_reach(op, err) < 0 ? -1 : claimed_run(op, &table_resume, err);
	} else if (vm->view.state != VM_RUNNING || !op_vmm_lives(op)) {
		op->changed = true;
		vm->crashes = 0;
		rc = claimed_start(op, err);
	} else if (vm->view.spec.hold) {
		op->changed = true;
		rc = release(op, err) < 0 ? -1 : wait_ready(op, err);
	} else if (ready_given(&op->ready)) {
		rc = wait_ready(op, err);
	}
	registry_drop(vm);
	return rc;
}

static bool is_down(const struct vm *vm)
{
	return vm->view.state == VM_STOPPED && vm->shim_pidfd < 0 && !saved_there(vm);
}

/* One that is suspended, or couldn't go on from there, loses its memory, as with a power cut. */
static int drop_saved(struct vm *vm, struct fcm_error *err)
{
	return saved_there(vm) ? saved_discard(vm, err) : 0;
}

int op_stop_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	if (claimed_begin(op, err) < 0)
		return -1;
	int rc = 0;
	op->changed = !is_down(vm);
	if (op->changed || vm->view.desired != WANT_STOPPED)
		rc = drop_saved(vm, err) < 0 ? -1 : claimed_run(op, &table_stop, err);
	registry_drop(vm);
	supervise_remove(vm);
	return rc;
}

int op_restart_run(struct op *op, struct fcm_error *err)
{
	if (claimed_begin(op, err) < 0)
		return -1;
	op->want_running = true;
	op->changed = true;
	op->vm->crashes = 0;
	/* before it is stopped: could it be started at all? */
	int rc = step_admit.run(op, err);
	if (rc < 0)
		fcm_copy(err->step, sizeof err->step, step_admit.name);
	else if (drop_saved(op->vm, err) < 0 || claimed_run(op, &table_stop, err) < 0)
		rc = -1;
	else
		rc = claimed_start(op, err);
	registry_drop(op->vm);
	return rc;
}

static int fail_state(const struct vm *vm, struct fcm_error *err)
{
	const char *verb = vm_state_verb(vm->view.state);

	fcm_fail(err, FCM_WRONG_STATE, "VM '%s' is %s", vm->view.name, vm_state_names[vm->view.state]);
	return fcm_hint(err, "fcm %s %s", verb, vm->view.name);
}

int claimed_reach(struct op *op, struct fcm_error *err)
{
	if (op->vm->vmm || !op_vmm_lives(op))
		return 0;
	if (claimed_adopt(op, err) < 0)
		return -1;
	return op->vm->vmm ? 0 : fail_state(op->vm, err); /* it ended, and is treated so */
}

/* Run `table` on a VM in state `from`, unless it is what it becomes by that. */
static int change_claimed(struct op *op, enum vm_state from, enum vm_state also, struct fcm_error *err)
{
	const struct op_table *table = op->table;
	enum vm_state is = op->vm->view.state;
	bool lives = op_vmm_lives(op);

	if ((is == from || is == also) && lives) {
		op->changed = true;
		return claimed_reach(op, err) < 0 ? -1 : claimed_run(op, table, err);
	}
	return is != table->end || (vm_state_up(is) && !lives) ? fail_state(op->vm, err) : 0;
}

static int change(struct op *op, enum vm_state from, enum vm_state also, struct fcm_error *err)
{
	if (claimed_begin(op, err) < 0)
		return -1;
	int rc = change_claimed(op, from, also, err);
	registry_drop(op->vm);
	return rc;
}

int op_pause_run(struct op *op, struct fcm_error *err)
{
	return change(op, VM_RUNNING, VM_RUNNING, err);
}

int op_resume_run(struct op *op, struct fcm_error *err)
{
	return change(op, VM_PAUSED, VM_PAUSED, err);
}

int op_suspend_run(struct op *op, struct fcm_error *err)
{
	int rc;

	if (claimed_begin(op, err) < 0)
		return -1;
	if (op->vm->view.state == VM_FAILED && saved_there(op->vm)) {
		op->changed = true; /* a suspend that got stuck behind its saved machine is finished */
		rc = claimed_release(op, VM_SUSPENDED, err);
	} else {
		rc = change_claimed(op, VM_RUNNING, VM_PAUSED, err);
	}
	registry_drop(op->vm);
	return rc;
}

int op_park_run(struct op *op, struct fcm_error *err)
{
	int rc = 0;

	if (claimed_begin(op, err) < 0)
		return -1;
	if (op_vmm_lives(op) || op->vm->view.state == VM_STARTING) { /* or waits for its turn */
		op->park = op->want_running = op->vm->view.desired == WANT_RUNNING;
		op->changed = true;
		rc = claimed_run(op, &table_stop, err);
	}
	registry_drop(op->vm);
	return rc;
}

int op_destroy_run(struct op *op, struct fcm_error *err)
{
	if (claimed_begin(op, err) < 0)
		return -1;
	op->changed = true;
	int rc = claimed_run(op, &table_destroy, err);
	registry_drop(op->vm);
	return rc;
}

int op_expose_run(struct op *op, struct fcm_error *err)
{
	bool kept;

	if (claimed_begin(op, err) < 0)
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

	if (claimed_begin(op, err) < 0)
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
