/*
 * The engine's pure parts: what to do about a VM that is found (every case), what the end of a VMM means, and that every
 * table of steps is well formed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "common/core/util.h"
#include "daemon/engine/op.h"
#include "daemon/engine/reconcile.h"
#include "daemon/engine/step.h"
#include "daemon/engine/supervise.h"

static enum repair found(
	enum vm_state state, enum vm_desired desired, enum vm_restart restart, bool lives, bool same_boot)
{
	struct found f = {.state = state,
		.desired = desired,
		.restart = restart,
		.lives = lives,
		.booted = lives,
		.same_boot = same_boot};

	return reconcile(&f);
}

/* Whatever else is true: a half-made VM goes, a half-destroyed one too. */
static void half_things_go(void **unused)
{
	(void)unused;
	for (int i = 0; i < 32; i++) {
		enum vm_desired d = i & 1 ? WANT_RUNNING : WANT_STOPPED;
		enum vm_restart r = i >> 3 & 3;
		assert_int_equal(found(VM_CREATING, d, r, i & 2, i & 4), REPAIR_DESTROY);
		assert_int_equal(found(VM_DESTROYING, d, r, i & 2, i & 4), REPAIR_DESTROY);
	}
}

/* A build that is gone has no use for its VM, whatever that is doing. */
static void a_builds_vm_goes(void **unused)
{
	(void)unused;
	for (int state = VM_CREATING; state <= VM_DESTROYING; state++)
		for (int i = 0; i < 8; i++) {
			struct found f = {.state = (enum vm_state)state,
				.desired = i & 1 ? WANT_RUNNING : WANT_STOPPED,
				.lives = i & 2,
				.booted = i & 2,
				.same_boot = i & 4,
				.throwaway = true};
			assert_int_equal(reconcile(&f), REPAIR_DESTROY);
		}
}

/* A VM that lives is never killed unless somebody had asked for its end. */
static void the_living_are_kept(void **unused)
{
	(void)unused;
	for (int r = RESTART_NO; r <= RESTART_UNLESS_STOPPED; r++) {
		assert_int_equal(found(VM_RUNNING, WANT_RUNNING, r, true, true), REPAIR_ADOPT);
		assert_int_equal(found(VM_STARTING, WANT_RUNNING, r, true, true), REPAIR_ADOPT);
		assert_int_equal(found(VM_FAILED, WANT_RUNNING, r, true, true), REPAIR_ADOPT);
		assert_int_equal(found(VM_STOPPING, WANT_STOPPED, r, true, true), REPAIR_STOP);
		assert_int_equal(found(VM_STOPPING, WANT_RUNNING, r, true, true), REPAIR_RESTART);
		assert_int_equal(found(VM_STOPPED, WANT_STOPPED, r, true, true), REPAIR_STOP);
	}
}

/* With its memory on the disk, whole, a suspend only has to be finished; without, it never was. */
static void suspended(void **unused)
{
	struct found f = {.state = VM_SUSPENDING, .same_boot = true, .lives = true, .booted = true};

	(void)unused;
	assert_int_equal(reconcile(&f), REPAIR_ADOPT);
	f.saved = true;
	assert_int_equal(reconcile(&f), REPAIR_SUSPEND);
	f.lives = false;
	assert_int_equal(reconcile(&f), REPAIR_SUSPEND);
	f.same_boot = false;
	assert_int_equal(reconcile(&f), REPAIR_SUSPEND);
	f.saved = false;
	assert_int_equal(reconcile(&f), REPAIR_RELEASE);
	f = (struct found){.state = VM_SUSPENDED, .restart = RESTART_ALWAYS, .saved = true};
	assert_int_equal(reconcile(&f), REPAIR_NONE);
	f.lives = true;
	assert_int_equal(reconcile(&f), REPAIR_SUSPEND);
}

static void the_paused_are_kept(void **unused)
{
	(void)unused;
	for (int r = RESTART_NO; r <= RESTART_UNLESS_STOPPED; r++) {
		assert_int_equal(found(VM_PAUSED, WANT_RUNNING, r, true, true), REPAIR_ADOPT);
		assert_int_equal(found(VM_PAUSED, WANT_RUNNING, r, false, true), REPAIR_ENDED);
	}
	assert_int_equal(found(VM_PAUSED, WANT_RUNNING, RESTART_ALWAYS, false, false), REPAIR_START);
}

/* A daemon that was killed between the VMM's start and its boot: nobody else will boot it. */
static void the_unborn_are_started_again(void **unused)
{
	(void)unused;
	for (int r = RESTART_NO; r <= RESTART_UNLESS_STOPPED; r++) {
		struct found f = {.state = VM_STARTING,
			.desired = WANT_RUNNING,
			.restart = r,
			.lives = true,
			.same_boot = true};
		assert_int_equal(reconcile(&f), REPAIR_START);
		f.state = VM_FAILED;
		assert_int_equal(reconcile(&f), REPAIR_START);
	}
}

/* The daemon ended while a restart after a crash was due. */
static void planned_restarts_are_kept(void **unused)
{
	(void)unused;
	for (int r = RESTART_NO; r <= RESTART_UNLESS_STOPPED; r++) {
		assert_int_equal(found(VM_FAILED, WANT_RUNNING, r, false, false),
			r == RESTART_NO ? REPAIR_NONE : REPAIR_START);
		assert_int_equal(found(VM_FAILED, WANT_STOPPED, r, false, false), REPAIR_NONE);
	}
}

static void after_a_reboot(void **unused)
{
	(void)unused;
	assert_int_equal(found(VM_RUNNING, WANT_RUNNING, RESTART_UNLESS_STOPPED, false, false), REPAIR_START);
	assert_int_equal(found(VM_RUNNING, WANT_RUNNING, RESTART_ALWAYS, false, false), REPAIR_START);
	assert_int_equal(found(VM_RUNNING, WANT_RUNNING, RESTART_ON_FAILURE, false, false), REPAIR_RELEASE);
	assert_int_equal(found(VM_RUNNING, WANT_RUNNING, RESTART_NO, false, false), REPAIR_RELEASE);
	assert_int_equal(found(VM_STOPPED, WANT_STOPPED, RESTART_ALWAYS, false, false), REPAIR_NONE);
	assert_int_equal(found(VM_STOPPED, WANT_RUNNING, RESTART_UNLESS_STOPPED, false, false), REPAIR_NONE);
	assert_int_equal(found(VM_STARTING, WANT_RUNNING, RESTART_NO, false, false), REPAIR_RELEASE);
	assert_int_equal(found(VM_FAILED, WANT_RUNNING, RESTART_NO, false, false), REPAIR_NONE);
}

/* The host's end isn't the user's wish: a VM that was parked comes back by its policy, one that its guest switched off
 * doesn't. */
static void parked(void **unused)
{
	(void)unused;
	for (int i = 0; i < 8; i++) {
		struct found f = {.state = i & 1 ? VM_STOPPED : VM_STOPPING,
			.desired = WANT_RUNNING,
			.parked = true,
			.same_boot = i & 2,
			.restart = i & 4 ? RESTART_ALWAYS : RESTART_UNLESS_STOPPED};
		assert_int_equal(reconcile(&f), REPAIR_START);
		f.restart = i & 4 ? RESTART_NO : RESTART_ON_FAILURE;
		assert_int_equal(reconcile(&f), i & 1 ? REPAIR_NONE : REPAIR_RELEASE);
		f.lives = true; /* the daemon was killed in the middle of parking it */
		assert_int_equal(reconcile(&f), i & 1 ? REPAIR_STOP : REPAIR_RESTART);
	}
}

static void died_while_nobody_looked(void **unused)
{
	(void)unused;
	assert_int_equal(found(VM_RUNNING, WANT_RUNNING, RESTART_NO, false, true), REPAIR_ENDED);
	assert_int_equal(found(VM_STARTING, WANT_RUNNING, RESTART_NO, false, true), REPAIR_START);
	assert_int_equal(found(VM_STOPPING, WANT_STOPPED, RESTART_ALWAYS, false, true), REPAIR_STOP);
}

static void what_an_end_means(void **unused)
{
	(void)unused;
	for (int r = RESTART_NO; r <= RESTART_UNLESS_STOPPED; r++) {
		struct verdict off = supervise_verdict(GUEST_POWEROFF, -1, r, WANT_RUNNING, 0);
		struct verdict again = supervise_verdict(GUEST_REBOOT, -1, r, WANT_RUNNING, 0);
		struct verdict crash = supervise_verdict(GUEST_CRASHED, -1, r, WANT_RUNNING, 0);
		assert_int_equal(off.state, VM_STOPPED);
		assert_false(off.restart);
		assert_true(again.restart);
		assert_int_equal(again.delay_ms, 0);
		assert_int_equal(crash.state, VM_FAILED);
		assert_int_equal(crash.restart, r != RESTART_NO);
		assert_string_equal(crash.code, "crashed");
	}
	assert_false(supervise_verdict(GUEST_CRASHED, -1, RESTART_ALWAYS, WANT_STOPPED, 0).restart);
}

/* One that does nothing else would keep the host busy. */
static void a_guest_that_reboots_for_ever_waits(void **unused)
{
	(void)unused;
	for (unsigned crashes = 0; crashes < 100; crashes++) {
		struct verdict v = supervise_verdict(GUEST_REBOOT, -1, RESTART_NO, WANT_RUNNING, crashes);
		assert_true(v.restart);
		assert_int_equal(v.delay_ms > 0, crashes >= 5);
		assert_int_equal(v.state, VM_STARTING);
		assert_true(v.delay_ms <= 60000);
		assert_string_equal(v.code, "");
	}
}

/* A main process that ended means what it does to docker. */
static void what_an_exit_means(void **unused)
{
	(void)unused;
	for (int r = RESTART_NO; r <= RESTART_UNLESS_STOPPED; r++)
		for (int status = 0; status < 2; status++) {
			struct verdict v = supervise_verdict(GUEST_POWEROFF, status, r, WANT_RUNNING, 0);
			assert_int_equal(v.restart, r != RESTART_NO && (r != RESTART_ON_FAILURE || status));
			assert_string_equal(v.code, v.restart ? "exited" : "");
			assert_int_equal(v.state, v.restart ? VM_FAILED : VM_STOPPED);
			assert_false(supervise_verdict(GUEST_POWEROFF, status, r, WANT_STOPPED, 0).restart);
		}
}

/* Restarts come later and later, but never later than a minute. */
static void backoff_grows_and_ends(void **unused)
{
	int64_t last = 0;

	(void)unused;
	for (unsigned crashes = 0; crashes < 100; crashes++) {
		int64_t d =
			supervise_verdict(GUEST_CRASHED, -1, RESTART_ALWAYS, WANT_RUNNING, crashes).delay_ms;
		assert_true(d >= last && d <= 60000);
		last = d;
	}
	assert_int_equal(last, 60000);
}

static bool does(const struct op_table *t, size_t i, const struct step *step, enum step_way way)
{
	return t->rows[i].step == step && t->rows[i].way == way;
}

static bool has(const struct op_table *t, const struct step *step, enum step_way way)
{
	for (size_t i = 0; t->rows[i].step; i++)
		if (does(t, i, step, way))
			return true;
	return false;
}

/* Whatever start makes and can undo, stop, destroy and the end of a VMM release; whatever create makes, destroy does. */
/* `begin` makes nothing: it is a word in config.json, which its undo takes back. */
static bool makes(const struct step *step)
{
	return step->undo && step != &step_begin;
}

static void all_that_is_made_is_released(void **unused)
{
	const struct op_table *const releases[] = {&table_stop, &table_destroy, &table_ended};

	(void)unused;
	for (size_t i = 0; table_start.rows[i].step; i++)
		for (size_t k = 0; makes(table_start.rows[i].step) && k < ARRAY_SIZE(releases); k++)
			assert_true(has(releases[k], table_start.rows[i].step, STEP_UNDO));
	for (size_t i = 0; table_create.rows[i].step; i++)
		assert_true(!makes(table_create.rows[i].step) ||
			    has(&table_destroy, table_create.rows[i].step, STEP_UNDO));
}

/* ---- the runner, with steps that write down what is done to them ---- */

static struct buf trace;

static int note(const char *what, bool fails, struct fcm_error *err)
{
	buf_str(&trace, what);
	return fails ? fcm_fail(err, FCM_HOST, "scripted") : 0;
}

#define STEP(name_, fails, undo_fails)                                                                       \
	static int run_##name_(struct op *op, struct fcm_error *err)                                         \
	{                                                                                                    \
		(void)op;                                                                                    \
		return note("+" #name_, fails, err);                                                         \
	}                                                                                                    \
	static int undo_##name_(struct op *op, struct fcm_error *err)                                        \
	{                                                                                                    \
		(void)op;                                                                                    \
		return note("-" #name_, undo_fails, err);                                                    \
	}                                                                                                    \
	static const struct step step_##name_ = {.name = #name_, .run = run_##name_, .undo = undo_##name_}

STEP(good, false, false);
STEP(sticky, false, true);
STEP(bad, true, false);

static void run_and_expect(const struct op_table *table, const char *expected)
{
	struct vm *vm = vm_new();
	struct op *op = op_new(table, vm, NULL);
	struct fcm_error err;
	bool kept = true;

	assert_int_equal(steps_run(op, &kept, &err), -1);
	assert_false(kept); /* no VMM lives */
	assert_string_equal(err.step, "bad");
	assert_string_equal(trace.p, expected);
	buf_done(&trace);
	op_unref(op);
	vm_unref(vm);
}

/* The row that failed may be half done, so it is undone too; what a row undid is not done again. */
static void what_was_done_is_undone(void **unused)
{
	static const struct op_table table = {.name = "test",
		.rows = {{&step_good, STEP_DO}, {&step_bad, STEP_UNDO}, {&step_good, STEP_DO},
			{&step_bad, STEP_KEEP}}};

	(void)unused;
	run_and_expect(&table, "+good-bad+good+bad-bad-good-good");
}

/* What is below a failed undo may still be in use. */
static void a_failed_undo_ends_the_roll_back(void **unused)
{
	static const struct op_table table = {.name = "test",
		.rows = {{&step_good, STEP_DO}, {&step_sticky, STEP_DO}, {&step_good, STEP_DO},
			{&step_bad, STEP_DO}}};

	(void)unused;
	run_and_expect(&table, "+good+sticky+good+bad-bad-good-sticky");
}

static void rows_are_well_formed(void **unused)
{
	(void)unused;
	for (size_t t = 0; op_tables[t]; t++)
		for (size_t i = 0; op_tables[t]->rows[i].step; i++) {
			const struct step *s = op_tables[t]->rows[i].step;
			assert_true(i < STEP_ROWS - 1);
			assert_true(strlen(s->name) < sizeof((struct fcm_error *)0)->step);
			if (op_tables[t]->rows[i].way == STEP_UNDO)
				assert_non_null(s->undo);
			else
				assert_non_null(s->run);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(half_things_go),
		cmocka_unit_test(a_builds_vm_goes),
		cmocka_unit_test(the_living_are_kept),
		cmocka_unit_test(suspended),
		cmocka_unit_test(the_paused_are_kept),
		cmocka_unit_test(the_unborn_are_started_again),
		cmocka_unit_test(planned_restarts_are_kept),
		cmocka_unit_test(after_a_reboot),
		cmocka_unit_test(parked),
		cmocka_unit_test(died_while_nobody_looked),
		cmocka_unit_test(what_an_end_means),
		cmocka_unit_test(what_an_exit_means),
		cmocka_unit_test(backoff_grows_and_ends),
		cmocka_unit_test(a_guest_that_reboots_for_ever_waits),
		cmocka_unit_test(all_that_is_made_is_released),
		cmocka_unit_test(what_was_done_is_undone),
		cmocka_unit_test(a_failed_undo_ends_the_roll_back),
		cmocka_unit_test(rows_are_well_formed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
