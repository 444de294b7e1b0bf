/*
 * The main process of a VM over a connection that speaks fcm-stream (execstream.c): its output comes from the log on the host,
 * from the beginning of this run or from now on; stdin, signals and the terminal's size go to the agent. Many may be there at a
 * time, and one that has left leaves the process alone.
 */
#include "common/core/clock.h"
#include "common/core/kv.h"
#include "daemon/api/exec.h"

enum { HELLO_MS = 5000 };

/* Pass over what is there: only what comes is wanted. */
static void skip(struct exec *e)
{
	auto_free char *data = xalloc(MAINLOG_RECORD);
	struct mainlog_head head;

	while (mainlog_next(&e->log, registry_dirfd(e->vm), &head, data))
		;
}

/* One that ended between our look and the agent's is one that has ended: its stream says so at once. */
static int open_stream(struct exec *e, bool with_stdin, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf rq = {0};
	struct guest *g = exec_guest(e->vm, err);

	if (g == NULL)
		return -1;
	kv_add(&rq, "op", "attach");
	kv_add(&rq, "stdin", with_stdin ? "1" : "0");
	int rc = guest_stream_open(g, &rq, clock_in(HELLO_MS), &e->stream, err);
	guest_unref(g);
	return rc;
}

static struct exec *attach_new(struct vm *vm)
{
	struct exec *e = xalloc(sizeof *e);

	registry_lock();
	*e = (struct exec){.vm = vm,
		.attached = true,
		.deadline = FCM_FOREVER,
		.boot = (uint64_t)vm->view.boots,
		.log = {.fd = -1}};
	vm->refs++;
	registry_unlock();
	return e;
}

int api_vm_attach(struct request *rq, struct fcm_error *err)
{
	struct vm *vm = http_vm(rq);

	if (vm->view.spec.main.args.n == 0) {
		fcm_fail(err, FCM_WRONG_STATE, "'%s' has no main process", vm->view.name);
		return fcm_hint(err, "fcm exec -it %s sh, or: fcm console %s", vm->view.name, vm->view.name);
	}
	if (vm->view.spec.hold) {
		fcm_fail(err, FCM_WRONG_STATE, "the main process of '%s' hasn't been started", vm->view.name);
		return fcm_hint(err, "fcm start %s", vm->view.name);
	}
	struct exec *e = attach_new(vm);
	bool logs = api_flag(rq, "logs");
	registry_lock();
	bool ended = vm->view.exited.time || vm->main_exit >= 0;
	registry_unlock();
	if ((!ended || !logs) && open_stream(e, api_flag(rq, "stdin"), err) < 0) {
		exec_free(e);
		return -1;
	}
	if (!logs)
		skip(e);
	return exec_stream(rq, e);
}
