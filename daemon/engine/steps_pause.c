/*
 * Standing still: the agent freezes the guest's programs (docs/AGENT.md, "Freeze"), then the VMM halts the virtual CPUs. Going
 * on is the reverse, and in between the guest learns the time: so no program sees a clock that stood still, and of a machine
 * that was saved like this (saved.c) none runs on before it has its new name, keys and random numbers.
 *
 * A guest whose agent doesn't answer, or doesn't know the word, is paused all the same; vm->frozen tells.
 */
#include "common/core/clock.h"
#include "common/core/kv.h"
#include "common/core/log.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/health.h"
#include "daemon/engine/supervise.h"
#include "daemon/engine/wait.h"

enum {
	FREEZE_MS = 8000, /* for the agent's answer: it waits until everything stands still */
	HOLD_MS = 120000, /* after that much of its own time the guest thaws by itself, should we be killed */
	THAW_MS = 1000,	  /* for the answer; a VMM that saved its machine has cut the channel */
	REACH_MS = 5000,  /* for a new channel */
	HALT_MS = 10000,  /* for the VMM's answer */
};

/* ---- freeze ---- */

static int freeze(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	_cleanup_(buf_done) struct buf rq = {0};
	struct fcm_error why;

	(void)err;
	if (vm->paused)
		return 0; /* it is frozen or not, as it was paused */
	vm->frozen = false;
	if (vm->guest == NULL || !vm->set_up)
		return 0;
	kv_add(&rq, "op", "freeze");
	kv_addf(&rq, "hold_ms", "%d", HOLD_MS);
	kv_add(&rq, "sync", "1");
	if (guest_call(vm->guest, &rq, clock_in(FREEZE_MS), NULL, &why) == 0)
		vm->frozen = true;
	else
		log_error(LOG_LEVEL_WARN, vm->id.s, &why);
	return 0;
}

static int ask_thaw(struct vm *vm, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf rq = {0};

	kv_add(&rq, "op", "thaw");
	return guest_call(vm->guest, &rq, clock_in(THAW_MS), NULL, err);
}

/* One that can't be reached thaws by itself, and a new session will tell it to (steps_guest.c). */
static int thaw(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	struct fcm_error why;

	(void)err;
	if (!vm->frozen || vm->paused)
		return 0;
	vm->frozen = false;
	if (vm->guest && ask_thaw(vm, &why) == 0)
		return 0;
	if (guest_reach(op, clock_in(REACH_MS), &why) < 0 || ask_thaw(vm, &why) < 0) {
		log_error(LOG_LEVEL_WARN, vm->id.s, &why);
		supervise_lost(vm);
	}
	return 0;
}

static void describe_freeze(const struct op *op, bool undo, struct strv *ret)
{
	(void)op;
	strv_add(ret, undo ? "agent thaw" : "agent freeze");
}

const struct step step_freeze = {.name = "freeze", .run = freeze, .undo = thaw, .describe = describe_freeze};

/* ---- pause ---- */

static int halt(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	op->was_paused = vm->paused;
	if (vm->paused || !op_vmm_lives(op))
		return 0; /* a VM that is stopped has its disk copied */
	if (vm->vmm == NULL)
		return fcm_fail(err, FCM_VMM, "there is no connection to the VMM of '%s' now", vm->view.name);
	health_rest(vm);
	op->paused_at = clock_ms();
	vm->paused =
		true; /* one that doesn't answer in time may be halted all the same: the undo lets it run */
	return vm->driver->pause(vm->vmm, clock_in(HALT_MS), err);
}

static int go_on(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	struct fcm_error why;

	if (!vm->paused || op->was_paused)
		return 0;
	if (vm->vmm == NULL)
		return fcm_fail(err, FCM_VMM, "there is no connection to the VMM of '%s' now", vm->view.name);
	if (vm->driver->resume(vm->vmm, clock_in(HALT_MS), err) < 0)
		return -1;
	vm->paused = false;
	op->pause_ms = op->paused_at ? clock_ms() - op->paused_at : 0;
	if (health_watch(vm, &why) < 0)
		log_error(LOG_LEVEL_WARN, vm->id.s, &why);
	if (vm->set_up)
		guest_set_clock(vm);
	else
		supervise_new(vm);
	if (vm->facts_late)
		guest_renew_facts(vm);
	return 0;
}

static void describe_halt(const struct op *op, bool undo, struct strv *ret)
{
	(void)op;
	strv_add(ret, undo ? "let the virtual CPUs run, agent clock" : "halt the virtual CPUs");
}

const struct step step_pause = {.name = "pause", .run = halt, .undo = go_on, .describe = describe_halt};
