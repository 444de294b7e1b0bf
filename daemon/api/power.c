/*
 * Start, stop, restart, kill; exposure; keys: the other operations on a VM.
 */
#include "daemon/api/api.h"

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

int api_vm_kill(struct request *rq, struct fcm_error *err)
{
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
