#include "daemon/engine/step.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "common/core/clock.h"
#include "common/core/log.h"
#include "daemon/engine/op.h"

enum fault { FAULT_NONE, FAULT_FAIL, FAULT_FAIL_AFTER, FAULT_KILL, FAULT_KILL_AFTER, FAULT_HANG };

static const char *const FAULTS[] = {
	[FAULT_FAIL] = "fail",
	[FAULT_FAIL_AFTER] = "fail-after",
	[FAULT_KILL] = "kill",
	[FAULT_KILL_AFTER] = "kill-after",
	[FAULT_HANG] = "hang",
};

/* What FCM_FAULT asks for at this row. */
static enum fault fault_at(const struct op *op, const struct step *step)
{
	static atomic_uint spent; /* a bit each */
	const char *one = getenv("FCM_FAULT");
	char here[64];

	if (one == NULL)
		return FAULT_NONE;
	fcm_format(here, sizeof here, "%s/%s:", op->table->name, step->name);
	size_t n = strlen(here);
	for (unsigned bit = 1; *one; bit <<= 1, one += strcspn(one, " "), one += strspn(one, " ")) {
		if (strncmp(one, here, n) != 0)
			continue;
		for (enum fault fault = FAULT_FAIL; fault <= FAULT_HANG; fault++) {
			size_t len = strlen(FAULTS[fault]);

			if (strncmp(one + n, FAULTS[fault], len) == 0 && strchr(" ", one[n + len]))
				return atomic_fetch_or(&spent, bit) & bit ? FAULT_NONE : fault;
		}
	}
	return FAULT_NONE;
}

static int run_row(struct op *op, size_t i, struct fcm_error *err)
{
	const struct step *step = op->table->rows[i].step;
	bool undo = op->table->rows[i].way == STEP_UNDO;
	int (*act)(struct op *, struct fcm_error *) = undo ? step->undo : step->run;
	enum fault fault = fault_at(op, step);
	int rc = 0;

	if (fault != FAULT_NONE)
		log_line(LOG_LEVEL_WARN, op->vm ? op->vm->id.s : NULL, "fault injected: %s/%s:%s",
			op->table->name, step->name, FAULTS[fault]);
	if (fault == FAULT_KILL)
		raise(SIGKILL);
	if (fault == FAULT_HANG)
		clock_sleep(120000);
	if (fault == FAULT_FAIL)
		rc = fcm_fail(err, FCM_INTERNAL, "fault injected before the step");
	else if (act)
		rc = act(op, err);
	if (fault == FAULT_KILL_AFTER)
		raise(SIGKILL);
	if (rc == 0 && fault == FAULT_FAIL_AFTER)
		rc = fcm_fail(err, FCM_INTERNAL, "fault injected after the step");
	if (rc < 0)
		fcm_copy(err->step, sizeof err->step, step->name);
	return rc;
}

/* Undo rows i, i - 1 ... 0, up to the first undo that fails. */
static void undo_rows(struct op *op, size_t i)
{
	for (size_t k = i + 1; k-- > 0;) {
		const struct step *step = op->table->rows[k].step;
		struct fcm_error err;

		if (op->table->rows[k].way == STEP_UNDO || step->undo == NULL)
			continue;
		if (step->undo(op, &err) < 0) {
			fcm_wrap(&err, "undo of %s", step->name);
			log_error(LOG_LEVEL_ERROR, op->vm ? op->vm->id.s : NULL, &err);
			return;
		}
	}
}

int steps_run(struct op *op, bool *ret_kept, struct fcm_error *err)
{
	*ret_kept = false;
	for (size_t i = 0; op->table->rows[i].step; i++) {
		const struct step *step = op->table->rows[i].step;
		bool keep = op->table->rows[i].way == STEP_KEEP;

		op_progress(op, step->name, "begin", 0);
		int64_t t = clock_ms();
		if (run_row(op, i, err) < 0) {
			*ret_kept = keep && op_vmm_lives(op);
			if (!*ret_kept)
				undo_rows(op, i);
			return -1;
		}
		op_progress(op, step->name, "done", clock_ms() - t);
	}
	return 0;
}

int steps_run_all(struct op *op, struct fcm_error *err)
{
	bool kept;

	return steps_run(op, &kept, err);
}

void steps_describe(const struct op *op, struct strv *ret)
{
	for (size_t i = 0; op->table->rows[i].step; i++) {
		const struct step *step = op->table->rows[i].step;
		struct strv lines = {0};

		if (step->describe)
			step->describe(op, op->table->rows[i].way == STEP_UNDO, &lines);
		for (size_t k = 0; k < lines.n; k++)
			strv_addf(ret, "%-10s %s", step->name, lines.v[k]);
		strv_done(&lines);
	}
}

void steps_list(struct strv *ret)
{
	static const char *const ways[] = {[STEP_DO] = "do", [STEP_KEEP] = "do keep", [STEP_UNDO] = "undo"};

	for (size_t t = 0; op_tables[t]; t++)
		for (size_t i = 0; op_tables[t]->rows[i].step; i++)
			strv_addf(ret, "%s/%s %s", op_tables[t]->name, op_tables[t]->rows[i].step->name,
				ways[op_tables[t]->rows[i].way]);
}
