/*
 * The handlers of common/routes.def, one file a resource. A handler reads the request, asks the engine, and
 * answers; it knows nothing of sockets, and the engine nothing of HTTP.
 */
#pragma once

#include "daemon/engine/engine.h"
#include "daemon/http/http.h"
#include "daemon/image/image.h"

#define X(method, pattern, handler, need, subject, query, body, size, max, flags)                            \
	int api_##handler(struct request *rq, struct fcm_error *err);
#include "common/routes.def"
#undef X

/* Start `op` (taken over) and answer the request with its outcome: with progress lines when the client asked
 * for them, else with one JSON object, when it is over. A client that goes away is forgotten; an operation on a VM
 * goes on. `result` makes the object from an operation that succeeded. */
int api_run(struct request *rq, struct op *op, int status, field_json *(*result)(const struct op *op),
	struct fcm_error *err);

/* Its two halves, for who has something to do between: both take `op` over when they fail, the second in any case. */
int api_start(struct request *rq, struct op *op, struct fcm_error *err) must_check;
int api_answer(struct request *rq, struct op *op, int status, field_json *(*result)(const struct op *op),
	struct fcm_error *err);

/* A VM as JSON; `show_env` with the values of env. */
field_json *api_vm_json(struct vm *vm, bool show_env);

/* The results of the operations on VMs: the VM, and how it went. */
field_json *api_vm_result(const struct op *op);

/* The result of an operation that made an image, or brought a kernel. */
field_json *api_image_result(const struct op *op);

/* A snapshot as JSON. */
field_json *api_snapshot_json(const struct snapshot *s);

/* Is the VM running or about to? */
bool api_vm_up(struct vm *vm);

/* The same: FCM_WRONG_STATE when it isn't. */
int api_vm_runs(struct vm *vm, struct fcm_error *err) must_check;

/* ?name= as a flag: "1", "true" or "yes". */
bool api_flag(const struct request *rq, const char *name);

/* ?name= as a number in min..max, `otherwise` when it is missing. FCM_INVALID naming it. */
int api_number(const struct request *rq, const char *name, int64_t min, int64_t max, int64_t otherwise,
	int64_t *ret, struct fcm_error *err) must_check;

/* ?name= as a time: "2026-11-25T16:48:13Z", or "5m": so long ago. 0 when it is missing. FCM_INVALID naming it. */
int api_time(const struct request *rq, const char *name, int64_t *ret, struct fcm_error *err) must_check;

/* An image as JSON. */
field_json *api_image_json(const struct image_info *info);

/* The image that ?ref= means. FCM_INVALID naming it, FCM_NO_IMAGE. */
int api_image_of(const struct request *rq, struct image_id *ret, struct fcm_error *err) must_check;

/* Does a VM or a snapshot need it? An image_used, whose `arg` isn't looked at. */
bool api_image_used(void *arg, const struct image_id *id);
