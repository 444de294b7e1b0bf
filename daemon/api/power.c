/*
 * Start, stop, restart, kill; exposure; keys: the other operations on a VM.
 */
#include <signal.h>

#include "common/core/clock.h"
#include "common/core/kv.h"
#include "daemon/api/exec.h"

enum { SIGNAL_MS = 10000 }; /* for the agent's answer */

int api_vm_start(struct request *rq, struct fcm_error *err)
{
	const struct start_request *body = http_body(rq);

	return api_run(rq, engine_start(http_vm(rq), &body->ready), 200, api_vm_result, err);
}

int api_vm_stop(struct request *rq, struct fcm_error *err)
{
	const struct stop_request *body = http_body(rq);

	return api_run(rq, engine_stop_vm(http_vm(rq), body->time * 1000ll), 200, api_vm_result, err);
}

int api_vm_restart(struct request *rq, struct fcm_error *err)
{
	const struct stop_request *body = http_body(rq);

	return api_run(rq, engine_restart(http_vm(rq), body->time * 1000ll), 200, api_vm_result, err);
}

/* What its main process is sent, by the agent. Nothing else of the VM changes, so it is no operation. */
static int send_signal(struct vm *vm, uint32_t signal, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf rq = {0};
	struct guest *g = exec_guest(vm, err);

	if (g == NULL)
		return -1;
	kv_add(&rq, "op", "kill");
	kv_addf(&rq, "signal", "%u", signal);
	int rc = guest_call(g, &rq, clock_in(SIGNAL_MS), NULL, err);
	guest_unref(g);
	return rc;
}

int api_vm_pause(struct request *rq, struct fcm_error *err)
{
	return api_run(rq, engine_pause(http_vm(rq)), 200, api_vm_result, err);
}

int api_vm_resume(struct request *rq, struct fcm_error *err)
{
	return api_run(rq, engine_resume(http_vm(rq)), 200, api_vm_result, err);
}

int api_vm_suspend(struct request *rq, struct fcm_error *err)
{
	return api_run(rq, engine_suspend(http_vm(rq)), 200, api_vm_result, err);
}

int api_vm_kill(struct request *rq, struct fcm_error *err)
{
	const struct kill_request *body = http_body(rq);
	struct vm *vm = http_vm(rq);

	if (body->signal && body->signal != SIGKILL) {
		if (vm->view.spec.main.args.n == 0) {
			fcm_fail_field(err, FCM_WRONG_STATE, "signal",
				"'%s' has no main process that could be sent a signal", vm->view.name);
			return fcm_hint(err, "fcm exec %s kill ..., or without --signal to end the VM",
				vm->view.name);
		}
		if (send_signal(vm, body->signal, err) < 0)
			return -1;
		return http_reply(rq, 200, api_vm_json(vm, false));
	}
	return api_run(rq, engine_stop_vm(http_vm(rq), 0), 200, api_vm_result, err);
}

int api_vm_expose(struct request *rq, struct fcm_error *err)
{
	const struct expose_request *body = http_body(rq);

	return api_run(
		rq, engine_expose(http_vm(rq), (uint16_t)body->port, body->domain), 200, api_vm_result, err);
}

int api_vm_unexpose(struct request *rq, struct fcm_error *err)
{
	return api_run(rq, engine_expose(http_vm(rq), 0, ""), 200, api_vm_result, err);
}

int api_vm_publish(struct request *rq, struct fcm_error *err)
{
	const struct publish_request *body = http_body(rq);

	return api_run(rq, engine_publish(http_vm(rq), &body->publish, false), 200, api_vm_result, err);
}

int api_vm_unpublish(struct request *rq, struct fcm_error *err)
{
	const struct publish_request *body = http_body(rq);

	return api_run(rq, engine_publish(http_vm(rq), &body->publish, true), 200, api_vm_result, err);
}

int api_vm_ssh_keys(struct request *rq, struct fcm_error *err)
{
	const struct keys_request *body = http_body(rq);

	return api_run(rq, engine_add_keys(http_vm(rq), &body->keys), 200, api_vm_result, err);
}
