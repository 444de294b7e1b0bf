/*
 * Snapshots: take, list, show, remove; VMs that are made of them, and those that go back to one.
 */
#include "daemon/engine/snapshots.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "common/core/log.h"
#include "daemon/api/api.h"
#include "daemon/store/export.h"

field_json *api_snapshot_json(const struct snapshot *s)
{
	field_json *v = snapshot_json(s, false);
	struct vm_id id;

	fcm_copy(id.s, sizeof id.s, s->id);
	fj_set_int(v, "on_disk", (int64_t)snapshot_on_disk(&id));
	return v;
}

static field_json *taken(const struct op *op)
{
	field_json *v = api_snapshot_json(&op->hold.snapshot);

	fj_set_int(v, "took_ms", op->took_ms);
	return v;
}

int api_vm_snapshot(struct request *rq, struct fcm_error *err)
{
	return api_run(rq, engine_snapshot(http_vm(rq), http_body(rq), false), 201, taken, err);
}

int api_snapshots_list(struct request *rq, struct fcm_error *err)
{
	struct snapshot *all = NULL;
	size_t n;

	if (engine_snapshots(http_only(rq), &all, &n, err) < 0)
		return -1;
	field_json *o = fj_object(), *list = fj_array();
	for (size_t i = 0; i < n; i++) {
		fj_append(list, api_snapshot_json(&all[i]));
		snapshot_done(&all[i]);
	}
	free(all);
	fj_set(o, "snapshots", list);
	return http_reply(rq, 200, o);
}

int api_snapshot_get(struct request *rq, struct fcm_error *err)
{
	_cleanup_(snapshot_drop) struct snapshot_hold h = {.fd = -1};

	if (engine_snapshot_hold(http_param(rq, "snapshot"), http_only(rq), &h, err) < 0)
		return -1;
	return http_reply(rq, 200, api_snapshot_json(&h.snapshot));
}

int api_snapshot_remove(struct request *rq, struct fcm_error *err)
{
	uint64_t freed = 0;
	struct vm_id id;

	if (engine_snapshot_remove(http_param(rq, "snapshot"), http_only(rq), &id, &freed, err) < 0)
		return -1;
	field_json *o = fj_object();
	fj_set_str(o, "id", id.s);
	fj_set_int(o, "bytes", (int64_t)freed);
	return http_reply(rq, 200, o);
}

/* ---- export ---- */

struct sending {
	struct snapshot_hold hold;
	struct snapshot_export *x;
};

static ssize_t more(void *arg, char *p, size_t max)
{
	struct sending *s = arg;
	struct fcm_error err;
	ssize_t n = snapshot_export_read(s->x, p, max);

	if (n == 0)
		snapshot_drop(&s->hold); /* before anyone hears that it is over */
	if (n < 0) {
		fcm_fail_errno(&err, "read a snapshot that is exported");
		log_error(LOG_LEVEL_ERROR, NULL, &err);
	}
	return n;
}

static void done(void *arg)
{
	struct sending *s = arg;

	snapshot_export_close(s->x);
	snapshot_drop(&s->hold);
	free(s);
}

int api_snapshot_export(struct request *rq, struct fcm_error *err)
{
	struct sending *s = xalloc(sizeof *s);

	*s = (struct sending){.hold.fd = -1};
	if (engine_snapshot_hold(http_param(rq, "snapshot"), http_only(rq), &s->hold, err) < 0 ||
		snapshot_moves(&s->hold.snapshot, err) < 0 ||
		snapshot_export_open(s->hold.fd, &s->hold.snapshot, &s->x, err) < 0) {
		done(s);
		return -1;
	}
	return http_reply_stream(rq, "application/zstd", more, done, s);
}

/* ---- go back to one ---- */

int api_vm_restore(struct request *rq, struct fcm_error *err)
{
	const struct restore_request *body = http_body(rq);
	struct snapshot_hold h = {.fd = -1};

	if (engine_snapshot_hold(body->snapshot, http_only(rq), &h, err) < 0)
		return -1;
	return api_run(rq, engine_restore(http_vm(rq), &h, body->disk_only), 200, api_vm_result, err);
}

/* ---- clone ---- */

/* Wait for the end of an operation. A client that goes away is waited for no more; the operation goes on. */
static int wait_over(struct op *op, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf lines = {0};

	while (!op_poll(op, &lines)) {
		struct pollfd p[] = {
			{.fd = op_wake_fd(op), .events = POLLIN}, {.fd = http_stop_fd(), .events = POLLIN}};
		poll(p, ARRAY_SIZE(p), -1);
		if (p[1].revents)
			return fcm_fail(
				err, FCM_UNAVAILABLE, "the daemon is stopping; the operation goes on");
		lines.n = 0;
	}
	if (op->rc < 0)
		*err = op->err;
	return op->rc;
}

/* Wait for one more of them: its VM joins the list, and an error is that of the first that has one. */
static int clone_over(struct op *op, field_json *list, int rc, struct fcm_error *err)
{
	struct fcm_error why;

	if (wait_over(op, &why) == 0)
		fj_append(list, api_vm_result(op));
	else if (rc == 0)
		rc = (*err = why, -1);
	op_unref(op);
	return rc;
}

/* As many at one time as may start together; the answer has all, or an error says how many came of it. `h` is dropped before it
 * goes out: whoever reads it may remove the snapshot at once. */
static int clone_all(struct request *rq, struct snapshot_hold *h, struct fcm_error *err)
{
	const struct clone_request *body = http_body(rq);
	uint32_t count = MAX(body->count, 1u), begun = 0, over = 0, at_once = engine_starts_at_once();
	struct op *ops[CLONE_MAX];
	int rc = 0;

	field_json *o = fj_object(), *list = fj_array();
	while (rc == 0 && begun < count) {
		if (begun - over == at_once) {
			rc = clone_over(ops[over++], list, rc, err);
			continue;
		}
		auto_free char *name = count == 1 || *body->name == '\0'
					       ? xstrdup(body->name)
					       : xprintf("%.56s-%u", body->name, begun + 1);
		ops[begun] = engine_clone(h, body, name);
		rc = op_start(ops[begun], err);
		if (rc < 0)
			op_unref(ops[begun]);
		else
			begun++;
	}
	while (over < begun)
		rc = clone_over(ops[over++], list, rc, err);
	snapshot_drop(h);
	fj_set(o, "vms", list);
	if (rc == 0)
		return http_reply(rq, 201, o);
	if (count > 1)
		fcm_wrap(err, "%zu of %u clones were made", fj_len(list), count);
	fj_free(o);
	return -1;
}

int api_snapshot_clone(struct request *rq, struct fcm_error *err)
{
	_cleanup_(snapshot_drop) struct snapshot_hold h = {.fd = -1};

	if (engine_snapshot_hold(http_param(rq, "snapshot"), http_only(rq), &h, err) < 0)
		return -1;
	return clone_all(rq, &h, err);
}

int api_vm_clone(struct request *rq, struct fcm_error *err)
{
	const struct clone_request *body = http_body(rq);
	const struct snapshot_request wish = {.disk_only = body->disk_only};
	struct op *op = engine_snapshot(http_vm(rq), &wish, true);
	int rc = op_start(op, err) < 0 || wait_over(op, err) < 0 ? -1 : clone_all(rq, &op->hold, err);

	op_unref(op);
	return rc;
}
