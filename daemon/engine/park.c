/*
 * The host goes down, or is about to: every VM ends quietly, all at one time, and none forgets that it is wanted.
 */
#include <poll.h>

#include "daemon/engine/engine.h"
#include "daemon/engine/ops.h"

static struct op *begin(struct vm *vm, int64_t grace_ms, struct park_result *result)
{
	struct op *op = op_new(&table_stop, vm, op_park_run);
	struct fcm_error err;

	op->what = "park";
	op->alone = true;
	op->grace_ms = grace_ms;
	if (op_wake_fd(op) >= 0 && op_start(op, &err) == 0)
		return op;
	result->failed++;
	op_unref(op);
	return NULL;
}

static void finish(struct op *op, struct park_result *result)
{
	_cleanup_(buf_done) struct buf progress = {0};
	struct pollfd p = {.fd = op_wake_fd(op), .events = POLLIN};

	while (!op_poll(op, &progress))
		poll(&p, 1, -1);
	result->failed += op->rc < 0;
	result->parked += op->rc == 0 && op->changed;
	result->forced += op->rc == 0 && op->forced;
	op_unref(op);
}

void engine_park(int64_t grace_ms, struct park_result *ret)
{
	struct vm **all;
	size_t n = registry_all(&all);
	auto_free struct op **ops = xalloc((n + 1) * sizeof(struct op *));

	*ret = (struct park_result){0};
	for (size_t i = 0; i < n; i++)
		ops[i] = begin(all[i], grace_ms, ret);
	for (size_t i = 0; i < n; i++)
		if (ops[i])
			finish(ops[i], ret);
	registry_all_done(all, n);
}
