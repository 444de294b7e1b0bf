/*
 * Requests to the daemon, as the commands make them: a method, a path and JSON in, JSON or a struct fcm_error out. The
 * error object of an answer becomes the struct that the daemon had (docs/API.md), so both print the same words.
 */
#pragma once

#include "common/core/error.h"
#include "common/field.h"
#include "common/httpc.h"

struct api;
struct where;

/* `url`, `context` and `token_file` are the global options, or NULL; they stay the caller's and must live as long. Never fails:
 * the daemon is looked for at the first request. */
struct api *api_new(const char *url, const char *context, const char *token_file);

/* The same for one that is found already; `token` is NULL where none is needed. */
struct api *api_at(const struct where *w, const char *token);
void api_free(struct api *a);

/* Where requests go, for messages; finds the daemon. */
const char *api_place(struct api *a);

/* Is the daemon, if there is one, on this machine? One that has a context may be behind a tunnel. */
bool api_is_here(struct api *a);

/* The context that they go to by, or "". */
const char *api_context(struct api *a);

/* The path of a VM's route: "/v1/vms/<escaped vm><rest>"; the caller's. */
char *api_vm_path(const char *vm, const char *rest);

/* The same of a snapshot's: "/v1/snapshots/<escaped snapshot><rest>". */
char *api_snapshot_path(const char *snapshot, const char *rest);

/* A read: at most 30 s. `*ret` is the caller's. */
int api_get(struct api *a, const char *path, field_json **ret, struct fcm_error *err) must_check;

/* A change, which takes as long as it takes; `body` may be NULL and stays the caller's. `doing` names the operation on
 * the progress line of a terminal ("start web"), or is NULL for what is done at once. */
int api_change(struct api *a, const char *method, const char *path, const field_json *body, const char *doing,
	field_json **ret, struct fcm_error *err) must_check;

/* The same, where each line of progress is given to `event`. When the user interrupts it, the daemon ends it. */
int api_watch(struct api *a, const char *path, const field_json *body,
	void (*event)(void *arg, const field_json *line), void *arg, field_json **ret,
	struct fcm_error *err) must_check;

/* A read of at most `seconds`, for what waits in the daemon. */
int api_wait(struct api *a, const char *path, uint32_t seconds, field_json **ret,
	struct fcm_error *err) must_check;

/* Send a file as the body of a PUT or POST, with a progress line. */
int api_upload(struct api *a, const char *method, const char *path, int fd, uint64_t size, const char *doing,
	field_json **ret, struct fcm_error *err) must_check;

/* Send bytes whose number nobody knows as the body of a PUT or POST: `source` gives the next bytes of it, 0 at its end, -1 to stop,
 * which is FCM_CANCELLED. */
int api_send(struct api *a, const char *method, const char *path,
	ssize_t (*source)(void *arg, char *p, size_t n), void *arg, field_json **ret,
	struct fcm_error *err) must_check;

/* Give each piece of the answer to `data`, until it says -1 (which is no error) or the answer ends. */
int api_stream(struct api *a, const char *path, int (*data)(void *arg, const char *p, size_t n), void *arg,
	struct fcm_error *err) must_check;

/* A request as the user wrote it: of `rq` method, body or source, and what takes the answer. The body of an answer that is an
 * error is appended to `failed`. `data` that says -1 is no error. */
int api_do(struct api *a, struct httpc_request *rq, const char *path, struct buf *failed,
	struct fcm_error *err) must_check;

/* GET a path of routes that switch to `protocol`, or POST it where there is a body, and become a stream of bytes; the
 * caller's. */
int api_upgrade(struct api *a, const char *path, const field_json *body, const char *protocol,
	struct httpc_tunnel **ret, struct fcm_error *err) must_check;

/* Replace the secret part of everything in `s` that looks like a token of fcm by "***"; the caller's. */
char *api_redact(const char *s);
