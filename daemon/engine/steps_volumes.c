/*
 * A VM's volumes: made when it is created, given to its uid before each run, mounted by its guest. Its undo takes away those
 * that go with the VM; one with a name of its user's stays, also when the create that made it fails.
 */
#include <string.h>

#include "common/core/clock.h"
#include "common/core/kv.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/volumes.h"
#include "daemon/engine/wait.h"

enum {
	MOUNT_MS = 20000, /* one answer: a journal may have to be replayed */
	FILL_MS = 600000, /* to copy what the image has into a new volume */
};

/* It is there, and may be this VM's. */
static int check(const struct vm *vm, const struct volume_ref *ref, struct fcm_error *err)
{
	struct volume_info info;

	if (volume_find(&ref->name, &info, err) < 0)
		return -1;
	if (info.vm[0] == '\0' || strcmp(info.vm, vm->id.s) == 0)
		return 0;
	return fcm_fail_field(
		err, FCM_INVALID, "volumes", "the volume '%s' goes with VM %s alone", ref->name.s, info.vm);
}

/* Two creates may make the same one at a time. */
static int ensure(const struct vm *vm, const struct volume_ref *ref, struct fcm_error *err)
{
	const char *owner = volumes_is_own(vm, ref) ? vm->id.s : "";
	int rc = check(vm, ref, err);

	if (rc < 0 && err->code == FCM_NOT_FOUND)
		rc = volumes_make(&ref->name, owner, engine()->config->defaults.disk_mib, err);
	if (rc < 0 && err->code == FCM_NAME_TAKEN)
		rc = check(vm, ref, err);
	return rc;
}

typedef int look_fn(const struct vm *vm, const struct volume_ref *ref, struct fcm_error *err);

static int give_all(struct vm *vm, look_fn *look, struct fcm_error *err)
{
	struct volume_ref refs[VM_MAX_VOLUMES];
	size_t n = volumes_parse(&vm->view.spec.volumes, refs);

	for (size_t i = 0; i < n; i++) {
		if (look(vm, &refs[i], err) < 0)
			return -1;
		/* only of one that is written: others may be reading it */
		if (!refs[i].read_only && volume_give(&refs[i].name, vm->view.uid, err) < 0)
			return -1;
	}
	return 0;
}

static int volumes_up(struct op *op, struct fcm_error *err)
{
	return give_all(op->vm, ensure, err);
}

/* Those that go with it, by their names: its config.json may be unreadable. */
static int volumes_down(struct op *op, struct fcm_error *err)
{
	struct volume_info info;
	struct fcm_error missing;

	for (unsigned i = 0; i < VM_MAX_VOLUMES; i++) {
		struct asset_name name;
		(void)fcm_format(name.s, sizeof name.s, "%s.%u", op->vm->id.s, i);
		if (volume_find(&name, &info, &missing) == 0 && strcmp(info.vm, op->vm->id.s) == 0 &&
			volume_remove(&name, &op->receipt.bytes, err) < 0)
			return -1;
	}
	return 0;
}

static void volumes_describe(const struct op *op, bool undo, struct strv *ret)
{
	struct volume_ref refs[VM_MAX_VOLUMES];
	size_t n = volumes_parse(&op->vm->view.spec.volumes, refs);

	for (size_t i = 0; i < n; i++) {
		bool own = volumes_is_own(op->vm, &refs[i]);
		auto_free char *path = engine_path("volumes/%s", refs[i].name.s);
		if (undo && own)
			strv_addf(ret, "remove %s", path);
		if (undo)
			continue;
		strv_addf(ret, "make %s/" VOLUME_FILE "%s", path, own ? "" : " if there is none");
		if (!refs[i].read_only)
			strv_addf(ret, "chown %u %s/" VOLUME_FILE, op->vm->view.uid, path);
	}
}

const struct step step_volumes = {
	.name = "volumes", .run = volumes_up, .undo = volumes_down, .describe = volumes_describe};

/* ---- give: before a later run, when another VM may have written them meanwhile ---- */

static int give(struct op *op, struct fcm_error *err)
{
	return give_all(op->vm, check, err);
}

static void give_describe(const struct op *op, bool undo, struct strv *ret)
{
	struct volume_ref refs[VM_MAX_VOLUMES];
	size_t n = volumes_parse(&op->vm->view.spec.volumes, refs);

	(void)undo;
	for (size_t i = 0; i < n; i++)
		if (!refs[i].read_only)
			strv_addf(ret, "chown %u volumes/%s/" VOLUME_FILE, op->vm->view.uid, refs[i].name.s);
}

const struct step step_give = {.name = "give", .run = give, .describe = give_describe};

/* ---- in the guest ---- */

/* The drives behind image and disk, in the order of the list. */
static void add_device(struct buf *rq, size_t i)
{
	kv_addf(rq, "device", "/dev/vd%c", (char)('c' + i));
}

static int ask_mount(
	struct op *op, size_t i, const struct volume_ref *ref, bool *ret_new, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf rq = {0}, answer = {0};

	kv_add(&rq, "op", "volume");
	add_device(&rq, i);
	kv_add(&rq, "path", ref->path);
	if (ref->read_only)
		kv_add(&rq, "ro", "1");
	if (wait_wanted(op->vm, err) < 0 ||
		guest_call(op->vm->guest, &rq, clock_in(MOUNT_MS), &answer, err) < 0)
		return fcm_wrap(err, "volume '%s'", ref->name.s);
	*ret_new = kv_i64(answer.p, answer.n, "new", 0, 1, 0) == 1;
	return 0;
}

static int fill(struct op *op, size_t i, const struct volume_ref *ref, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf rq = {0};
	char why[PROBE_WHY];

	kv_add(&rq, "op", "fill");
	add_device(&rq, i);
	kv_add(&rq, "path", ref->path);
	int rc = guest_await(op, &rq, FILL_MS, "a new volume was not filled", why, err);
	if (rc == 0)
		return fcm_fail(err, FCM_GUEST, "fill the volume '%s' with what the image has at %s: %s",
			ref->name.s, ref->path, why);
	return rc < 0 ? -1 : 0;
}

int volumes_mount(struct op *op, struct fcm_error *err)
{
	struct volume_ref refs[VM_MAX_VOLUMES];
	size_t n = volumes_parse(&op->vm->view.spec.volumes, refs);

	for (size_t i = 0; i < n; i++) {
		bool is_new = false;
		if (ask_mount(op, i, &refs[i], &is_new, err) < 0 ||
			(is_new && (fill(op, i, &refs[i], err) < 0 ||
					   ask_mount(op, i, &refs[i], &is_new, err) < 0)))
			return -1;
	}
	return 0;
}
