/*
 * What config.json says while an operation is under way. `begin` records the intention, so that a daemon that
 * is killed anywhere behind it finds in config.json what to finish; `end` records that it is done.
 */
#include "common/core/clock.h"
#include "daemon/disk/disk.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/supervise.h"

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

static int begin(struct op *op, struct fcm_error *err)
{
	const struct op_table *t = op->table;

	VM_SET(op->vm, view->state = t->begin; view->desired = op->want_running ? WANT_RUNNING : t->desired;
		view->reason = reason_of(op));
	if (store_vm_save(&op->vm->view, err) == 0)
		return 0;
	/* destroy is how a full disk gets room: it goes on without the record */
	return t == &table_destroy && err->code == FCM_NO_SPACE ? 0 : -1;
}

static void describe_begin(const struct op *op, bool undo, struct strv *ret)
{
	(void)undo;
	strv_addf(ret, "write %s/config.json: state %s, desired %s", op->vm->id.s,
		vm_state_names[op->table->begin], vm_desired_names[op->table->desired]);
}

const struct step step_begin = {.name = "begin", .run = begin, .describe = describe_begin};

static int end(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	enum vm_state state = op->ended ? op->end_state : op->table->end;

	int64_t used = (int64_t)disk_used(vm->dirfd);

	VM_SET(vm, view->disk_used = used; view->state = state; if (state != VM_RUNNING) view->started = 0;
		else if (view->started == 0) view->started = clock_wall());
	if (store_vm_save(&vm->view, err) < 0)
		return -1;
	return state == VM_RUNNING ? supervise_watch(vm, err) : 0;
}

static void describe_end(const struct op *op, bool undo, struct strv *ret)
{
	(void)undo;
	strv_addf(ret, "write %s/config.json: state %s", op->vm->id.s, vm_state_names[op->table->end]);
}

const struct step step_end = {.name = "end", .run = end, .describe = describe_end};
