/*
 * What config.json says while an operation is under way. `begin` records the intention, so that a daemon that
 * is killed anywhere behind it finds in config.json what to finish; `end` records that it is done.
 */
#include <errno.h>

#include "common/core/clock.h"
#include "common/core/log.h"
#include "daemon/disk/disk.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/reconcile.h"
#include "daemon/engine/saved.h"
#include "daemon/engine/supervise.h"

enum { KILLED = 137 }; /* what a shell says of SIGKILL */

/* The operation that begins answers all that was wrong; one that parks says that nobody asked for the VM's end. */
static struct vm_reason reason_of(const struct op *op)
{
	struct vm_reason r = {0};

	if (op->park) {
		fcm_copy(r.code, sizeof r.code, REASON_HOST_SHUTDOWN);
		fcm_copy(r.message, sizeof r.message, "the host was shut down");
		r.time = clock_wall();
	}
	return r;
}

/* Destroying is how a full disk gets room, and a VM that fills it must be stopped: they go on without the record. (Not on
 * a disk that is read-only, where nothing of it could be removed.) A destroy that got stuck may find no directory. */
static bool needs_no_record(const struct op *op, const struct fcm_error *err)
{
	if (op->table == &table_destroy && err->code == FCM_NOT_FOUND)
		return true;
	bool ends =
		op->table == &table_destroy || (op->table == &table_stop && (op->park || !op->want_running));

	return ends && err->code == FCM_NO_SPACE && err->sys != EROFS;
}

static int begin(struct op *op, struct fcm_error *err)
{
	const struct op_table *t = op->table;

	if (t->begin == VM_STARTING)
		VM_SET(op->vm, view->exited = (struct vm_exited){0});
	if (t->begin == VM_STARTING && !saved_there(op->vm)) /* a saved machine has the size that it has */
		VM_SET(op->vm, update_take_next(view));
	if (t == &table_start)
		VM_SET(op->vm, view->spec.hold = false);
	/* a guest that boots writes its disk when it mounts it; one that goes on has done so long ago */
	if (t == &table_clone && disk_sync(op->vm->dirfd, err) < 0)
		return -1;
	VM_SET(op->vm, view->state = t->begin; view->desired = op->want_running ? WANT_RUNNING : t->desired;
		view->reason = reason_of(op));
	if (op->vm->view.ip.s_addr ==
		0) /* destroying what has no config.json that can be read: leave it so until it goes */
		return 0;
	if (store_vm_save(&op->vm->view, err) == 0)
		return 0;
	if (!needs_no_record(op, err))
		return -1;
	log_error(LOG_LEVEL_WARN, op->vm->id.s, err);
	return 0;
}

static void describe_begin(const struct op *op, bool undo, struct strv *ret)
{
	(void)undo;
	strv_addf(ret, "write %s/config.json: state %s, desired %s", op->vm->id.s,
		vm_state_names[op->table->begin], vm_desired_names[op->table->desired]);
}

/* What is taken back from here on is a VM that was never made: one that is cut in that isn't started. */
static int unbegin(struct op *op, struct fcm_error *err)
{
	if (op->table != &table_create && op->table != &table_clone)
		return 0;
	VM_SET(op->vm, view->state = VM_CREATING);
	if (store_vm_save(&op->vm->view, err) < 0)
		log_error(LOG_LEVEL_WARN, op->vm->id.s, err);
	return 0;
}

const struct step step_begin = {.name = "begin", .run = begin, .undo = unbegin, .describe = describe_begin};

/* How its main process ended: as the agent said, or with the VM that was killed. */
static void note_exit(struct op *op)
{
	struct vm *vm = op->vm;
	int code = vm_main_exit(vm);

	if (vm->view.spec.main.args.n == 0 || vm->view.exited.time || vm->view.boots == 0)
		return;
	const struct vm_exited exited = {clock_wall(), code < 0 ? KILLED : (uint32_t)code};
	VM_SET(vm, view->exited = exited);
}

/* What is on the disk is what the next daemon goes by: of a restart that a stop is half of, that it is to start. */
static enum vm_state end_state(const struct op *op)
{
	const struct op_table *t = op->table;

	if (t == &table_stop && op->want_running && !op->park)
		return VM_STARTING;
	return t == &table_ended ? op->end_state : t->end;
}

static int end(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	const struct op_table *t = op->table;
	enum vm_state state = end_state(op);
	bool runs = state == VM_RUNNING || state == VM_PAUSED;

	if (state == VM_STOPPED || state == VM_FAILED)
		note_exit(op);
	struct vm_view now = vm->view;
	now.disk_used = (int64_t)disk_used(vm->dirfd);
	now.state = state;
	if (state == VM_RUNNING)
		now.reason = vm_network(vm);
	else if (t == &table_revert)
		now.reason = (struct vm_reason){0};
	now.started = !runs ? 0 : now.started ? now.started : clock_wall();

	/* Written before it is shown: what somebody has seen the next daemon knows, too. */
	if (store_vm_save(&now, err) < 0) {
		if (t == &table_create || t == &table_start)
			return -1;
		log_error(LOG_LEVEL_WARN, vm->id.s, err); /* it is true, written or not */
	} else if (!runs && state != VM_STARTING && store_run_remove(&vm->id, err) < 0) {
		log_error(LOG_LEVEL_WARN, vm->id.s, err);
	}
	VM_SET(vm, view->disk_used = now.disk_used; view->state = now.state; view->reason = now.reason;
		view->started = now.started);
	return runs ? supervise_watch(vm, err) : 0;
}

static void describe_end(const struct op *op, bool undo, struct strv *ret)
{
	(void)undo;
	strv_addf(ret, "write %s/config.json: state %s", op->vm->id.s, vm_state_names[op->table->end]);
}

const struct step step_end = {.name = "end", .run = end, .describe = describe_end};
