/*
 * Create, list, show, destroy, wait.
 */
#include <string.h>

#include "common/core/clock.h"
#include "common/core/volume.h"
#include "daemon/api/api.h"
#include "daemon/disk/disk.h"
#include "daemon/net/net.h"

field_json *api_vm_json(struct vm *vm, bool show_env)
{
	registry_lock();
	field_json *v = vm_view_json(&vm->view, show_env);
	vm_json_health(v, &vm->health);
	int dirfd = vm->dirfd;
	registry_unlock();
	if (dirfd >= 0) /* lists show what it was at the last change of state */
		fj_set_int(v, "disk_used", (int64_t)disk_used(dirfd));
	return v;
}

field_json *api_vm_result(const struct op *op)
{
	field_json *v = api_vm_json(op->vm, false);

	fj_set_int(v, "took_ms", op->took_ms);
	fj_set_bool(v, "changed", op->changed);
	fj_set_bool(v, "forced", op->forced);
	fj_set_bool(v, "resumed", op->resumed);
	return v;
}

bool api_vm_up(struct vm *vm)
{
	registry_lock();
	enum vm_state s = vm->view.state;
	bool yes = vm->listed && (s == VM_RUNNING || s == VM_STARTING);
	registry_unlock();
	return yes;
}

int api_vm_runs(struct vm *vm, struct fcm_error *err)
{
	if (api_vm_up(vm))
		return 0;
	registry_lock();
	enum vm_state state = vm->view.state;
	registry_unlock();
	fcm_fail(err, FCM_WRONG_STATE, "VM '%s' is %s", vm->view.name, vm_state_names[state]);
	return fcm_hint(err, "fcm %s %s", vm_state_verb(state), vm->view.name);
}

static int dry_run(struct request *rq, const struct strv *lines)
{
	field_json *o = fj_object(), *plan = fj_array();

	for (size_t i = 0; i < lines->n; i++)
		fj_append(plan, fj_str(lines->v[i]));
	fj_set(o, "plan", plan);
	return http_reply(rq, 200, o);
}

static int check_auto_remove(bool auto_remove, enum vm_restart restart, struct fcm_error *err)
{
	if (auto_remove && restart != RESTART_NO)
		return fcm_fail_field(err, FCM_INVALID, "auto_remove", "auto_remove: only with restart no");
	return 0;
}

/* With the snapshot that was wanted. */
static field_json *created(const struct op *op)
{
	field_json *v = api_vm_result(op);

	if (op->save)
		fj_set(v, "saved", api_snapshot_json(&op->hold.snapshot));
	return v;
}

/* The key of "K=V"; the caller's. */
static char *key_of(const char *label)
{
	return xprintf("%.*s", (int)strcspn(label, "="), label);
}

static int fail_only(const char *only, struct fcm_error *err)
{
	return fcm_fail_field(
		err, FCM_FORBIDDEN, "labels", "labels: this token's VMs have the label %s", only);
}

/* What a bound token makes is a VM that it sees. Volumes with a name are the whole host's. */
static int confine(const char *only, struct vm_create *body, struct fcm_error *err)
{
	struct strv *labels = &body->spec.labels, *volumes = &body->spec.volumes;
	struct volume_ref ref;

	if (only == NULL)
		return 0;
	for (size_t i = 0; i < volumes->n; i++) {
		if (volume_ref_parse(volumes->v[i], "volumes", &ref, err) < 0)
			return -1;
		if (*ref.name.s)
			return fcm_fail_field(err, FCM_FORBIDDEN, "volumes",
				"volumes: this token is for the VMs with the label %s, and '%s' is the "
				"host's",
				only, ref.name.s);
	}
	auto_free char *key = key_of(only);
	if (labels_have(labels, only))
		return 0;
	if (labels_have(labels, key) || labels->n >= VM_MAX_LABELS)
		return fail_only(only, err);
	strv_add(labels, only);
	return 0;
}

int api_vms_create(struct request *rq, struct fcm_error *err)
{
	struct vm_create *body = http_body(rq);
	_cleanup_(strv_done) struct strv lines = {0};

	if (confine(http_only(rq), body, err) < 0)
		return -1;
	if (check_auto_remove(body->spec.auto_remove, body->spec.restart, err) < 0)
		return -1;
	if (!body->dry_run)
		return api_run(rq, engine_create(body), 201, created, err);
	return engine_describe_create(body, &lines, err) < 0 ? -1 : dry_run(rq, &lines);
}

int api_vms_list(struct request *rq, struct fcm_error *err)
{
	struct vm_filter filter = {.only = http_only(rq)};
	_cleanup_(buf_done) struct buf text = {0};
	const char *key, *value;

	for (unsigned i = 0; (key = http_query_at(rq, i, &value)); i++)
		if (vm_filter_add(&filter, key, value, err) < 0)
			return -1;
	registry_list_text(&filter, &text);
	return http_reply_text(rq, 200, "application/json", text.p, text.n);
}

int api_vm_get(struct request *rq, struct fcm_error *err)
{
	const char *show = http_query(rq, "show");

	bool env = show && strcmp(show, "env") == 0;

	if (env && http_token(rq)->scope != SCOPE_FULL)
		return fcm_fail_field(
			err, FCM_FORBIDDEN, "show", "show: env is for a token of the scope full");
	return http_reply(rq, 200, api_vm_json(http_vm(rq), env));
}

/* A VM stays among those that the token sees. */
static int keeps(const char *only, const struct update_request *u, struct fcm_error *err)
{
	if (only == NULL)
		return 0;
	auto_free char *key = key_of(only);
	bool other = labels_have(&u->labels, key) && !labels_have(&u->labels, only);
	return other || strv_has(&u->remove_labels, key) ? fail_only(only, err) : 0;
}

int api_vm_update(struct request *rq, struct fcm_error *err)
{
	if (keeps(http_only(rq), http_body(rq), err) < 0)
		return -1;
	return api_run(rq, engine_update(http_vm(rq), http_body(rq)), 200, api_vm_result, err);
}

static field_json *destroy_result(const struct op *op)
{
	field_json *o = fj_object(), *removed = fj_object(), *left = fj_array();

	fj_set_str(o, "id", op->vm->id.s);
	fj_set_str(o, "name", op->vm->view.name);
	fj_set_str(removed, "tap", op->receipt.tap ? net_tap_name(&op->vm->id).s : NULL);
	fj_set_int(removed, "nft_elements", op->receipt.nft_elements);
	fj_set_int(removed, "sites", op->receipt.site);
	fj_set_int(removed, "bytes", (int64_t)op->receipt.bytes);
	fj_set(o, "removed", removed);
	if (op->receipt.left[0])
		fj_append(left, fj_str(op->receipt.left));
	fj_set(o, "left", left);
	fj_set_int(o, "took_ms", op->took_ms);
	fj_set_bool(o, "forced", op->forced);
	return o;
}

int api_vm_destroy(struct request *rq, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv lines = {0};

	if (!api_flag(rq, "dry_run"))
		return api_run(
			rq, engine_destroy(http_vm(rq), api_flag(rq, "force")), 200, destroy_result, err);
	engine_describe_destroy(http_vm(rq), &lines);
	return dry_run(rq, &lines);
}

static int state_from_name(const char *name, enum vm_state *ret, struct fcm_error *err)
{
	for (int i = 0; i < VM_STATES; i++)
		if (name && strcmp(vm_state_names[i], name) == 0) {
			*ret = (enum vm_state)i;
			return 0;
		}
	return fcm_fail_field(err, FCM_INVALID, "state",
		"state: one of creating stopped starting running paused suspending suspended stopping "
		"failed");
}

/* ?state=ended is no state of its own: it no longer runs, and won't by itself. One that is gone has ended, too; of ?state=removed
 * that is all. */
static bool has_ended(const struct vm *vm)
{
	const struct vm_view *v = &vm->view;

	return !vm->listed || v->state == VM_STOPPED ||
	       (v->state == VM_FAILED && (v->spec.restart == RESTART_NO || v->desired == WANT_STOPPED));
}

enum { WAIT_SLICE_MS = 500 }; /* how often a waiting handler looks whether its client is still there */

int api_vm_wait(struct request *rq, struct fcm_error *err)
{
	struct vm *vm = http_vm(rq);
	enum vm_state want = VM_RUNNING;
	int64_t timeout;
	uint64_t seen = 0;

	const char *state = http_query(rq, "state");
	bool end = state && strcmp(state, "ended") == 0, remove = state && strcmp(state, "removed") == 0;

	if ((state && !end && !remove && state_from_name(http_query(rq, "state"), &want, err) < 0) ||
		api_number(rq, "timeout", 0, 86400, 60, &timeout, err) < 0)
		return -1;
	for (int64_t deadline = clock_in(timeout * 1000);;) {
		registry_lock();
		bool gone = !vm->listed, there = end ? has_ended(vm) : remove ? gone : vm->view.state == want;
		registry_unlock();
		if (there && end)
			vm->offered = true;
		if (there)
			return http_reply(rq, 200, api_vm_json(vm, false));
		if (gone)
			return fcm_fail(err, FCM_NOT_FOUND, "VM '%s' was destroyed", vm->view.name);
		if (clock_left(deadline) == 0)
			return fcm_fail(err, FCM_TIMEOUT, "VM '%s' is not %s after %lld s", vm->view.name,
				state ? state : vm_state_names[want], (long long)timeout);
		if (http_cancelled(rq))
			return fcm_fail(err, FCM_CANCELLED, "the wait was given up");
		registry_wait(&seen, MIN(deadline, clock_in(WAIT_SLICE_MS)));
	}
}
