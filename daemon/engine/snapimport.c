/*
 * How it works. fcm-oci unpacks what comes into a directory that is its own (daemon/oci/snapshot.h). When it has ended, that is root's,
 * and snapshot.json a stranger's word: it is read as strictly as a request, it can name nothing of this host but an image, and it is of
 * no VM here. Only a whole one, whose files have the sums that it lists, becomes visible.
 */
#include "daemon/engine/snapimport.h"

#include <string.h>
#include <unistd.h>

#include "common/core/kv.h"
#include "common/core/log.h"
#include "daemon/engine/defaults.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/import.h"
#include "daemon/engine/making.h"
#include "daemon/engine/snapshots.h"

/* Of all files of one, with their holes: what fcm-oci may write at most. */
#define SNAPSHOT_BYTES ((int64_t)256 << 30)

static atomic_uint imports;

/* ---- what comes ---- */

static void plan_files(struct buf *plan)
{
	_cleanup_(strv_done) struct strv names = {0};

	snapshot_names(&names);
	kv_add(plan, "file", SNAPSHOT_MANIFEST);
	for (size_t i = 0; i < names.n; i++)
		kv_add(plan, "file", names.v[i]);
	kv_addf(plan, "max", "%lld", (long long)SNAPSHOT_BYTES);
}

static int check_wanted(const struct op *op, struct fcm_error *err)
{
	return op_given_up(op) ? fcm_fail(err, FCM_CANCELLED, "import was cancelled") : 0;
}

static int receive(struct op *op, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf plan = {0};
	const struct oci_spec spec = {.job = "snapshot",
		.plan = &plan,
		.dir_fd = op->hold.fd,
		.layers_fd = -1,
		.in_fd = op->import.in_fd,
		.out_fd = -1,
		.progress = making_tell_layer};

	if (fchown(op->hold.fd, making_uid(), making_uid()) < 0)
		return fcm_fail_errno(err, "give the snapshot's directory to its job");
	plan_files(&plan);
	int r = making_run(op, spec, NULL, err);
	fcm_closep(&op->import.in_fd);		   /* who still sends is told so */
	return r < 0 ? -1 : check_wanted(op, err); /* else what came may not be all */
}

/* ---- what it says ---- */

/* Of a stranger's it is no trouble of this host's that it makes no sense. */
static int read_manifest(struct op *op, struct fcm_error *err)
{
	if (snapshot_take_over(op->hold.fd, &op->hold.snapshot, err) == 0)
		return 0;
	if (err->code == FCM_NOT_FOUND)
		return fcm_fail(err, FCM_INVALID, "there is no " SNAPSHOT_MANIFEST " in it");
	if (err->code == FCM_CONFIG)
		err->code = FCM_INVALID;
	return -1;
}

static const struct snapshot_file *need_file(
	const struct snapshot *s, const char *name, struct fcm_error *err)
{
	const struct snapshot_file *f = snapshot_file(s, name);

	if (f == NULL)
		fcm_fail(err, FCM_INVALID, SNAPSHOT_MANIFEST " lists no '%s'", name);
	return f;
}

/* What a clone of it will look for. */
static int check_files(const struct snapshot *s, struct fcm_error *err)
{
	const struct snapshot_file *disk = need_file(s, SNAPSHOT_DISK, err);

	if (disk == NULL || (s->memory && need_file(s, VMM_STATE, err) == NULL))
		return -1;
	for (size_t i = 0; i < s->vm.spec.volumes.n; i++) {
		auto_free char *name = xprintf(SNAPSHOT_VOLUME, i);
		if (need_file(s, name, err) == NULL)
			return -1;
	}
	if (disk->size == (int64_t)s->vm.spec.disk_mib << 20)
		return 0;
	return fcm_fail(err, FCM_INVALID, "its disk has %lld bytes, and its VM's has %u MiB",
		(long long)disk->size, s->vm.spec.disk_mib);
}

/* What a create checks beyond the single fields. */
static int check_spec(struct snapshot *s, struct fcm_error *err)
{
	const struct image_config none = {.cmd = {0}};
	_cleanup_(strv_done) struct strv ports = {0};

	return defaults_apply(&s->vm.spec, &none, &ports, err);
}

/* Its disk is nothing without the layers below it. Asked again when it is visible: from then on they stay. */
static int check_image(const struct snapshot *s, struct fcm_error *err)
{
	struct image_info info;

	if (!ref_digest_valid(s->vm.image_id.s, false))
		return fcm_fail(err, FCM_INVALID, "it doesn't say what image its disk lies on");
	if (image_find(&s->vm.image_id, &info, err) == 0)
		return 0;
	fcm_fail(err, FCM_NO_IMAGE, "its disk lies on the image '%.100s' (%.12s), which isn't here",
		s->vm.spec.image, s->vm.image_id.s);
	return fcm_hint(err, "fcm pull %.60s, or fcm image export there and import here", s->vm.spec.image);
}

/* What it is here. It is of no VM, whatever it says: so none goes back to it. */
static int settle(struct snapshot *s, const char *id, const char *name, struct fcm_error *err)
{
	(void)fcm_copy(s->id, sizeof s->id, id);
	if (name)
		(void)fcm_copy(s->name, sizeof s->name, name);
	if (s->name[0] == '\0')
		return fcm_fail_field(err, FCM_INVALID, "name", "name: it has none: it needs one here");
	if (snapshot_moves(s, err) < 0) {
		err->code = FCM_INVALID;
		return -1;
	}
	snapshot_forget_vm(s);
	return 0;
}

/* ---- the whole ---- */

static int take(struct op *op, const struct vm_id *id, struct fcm_error *err)
{
	struct snapshot *s = &op->hold.snapshot;
	const char *name = op->import.names.n ? op->import.names.v[0] : NULL;

	if (receive(op, err) < 0 || read_manifest(op, err) < 0)
		return -1;
	if (settle(s, id->s, name, err) < 0 || check_spec(s, err) < 0 || check_files(s, err) < 0 ||
		check_image(s, err) < 0 || snapshot_name_free(s->name, err) < 0)
		return -1;
	if (snapshot_seal_same(op->hold.fd, s, err) < 0 || check_wanted(op, err) < 0 ||
		snapshot_enter(op, err) < 0)
		return -1;
	return check_image(s, err);
}

static int import(struct op *op, struct fcm_error *err)
{
	struct vm_id id = vm_id_random();
	struct fcm_error why;

	if (engine_has_room(err) < 0)
		return -1;
	(void)fcm_copy(op->hold.snapshot.id, sizeof op->hold.snapshot.id, id.s);
	op->hold.fd = snapshots_begin(&id, err);
	if (op->hold.fd < 0)
		return -1;
	snapshot_held(&op->hold);
	if (take(op, &id, err) == 0)
		return 0;
	(void)fcm_copy(op->hold.snapshot.id, sizeof op->hold.snapshot.id, id.s); /* whatever it said */
	if (snapshots_remove(&id, NULL, &why) < 0)
		log_error(LOG_LEVEL_WARN, NULL, &why);
	return -1;
}

static int import_run(struct op *op, struct fcm_error *err)
{
	return import_bounded(op, &imports, import, err);
}

static int plan(const char *name, struct op *op, struct fcm_error *err)
{
	struct asset_name whole;

	if (name == NULL)
		return 0;
	if (asset_name_parse(name, "name", &whole, err) < 0 || snapshot_name_free(name, err) < 0)
		return -1;
	strv_add(&op->import.names, name);
	return 0;
}

int engine_snapshot_import(const char *name, struct op **ret, int *ret_fd, struct fcm_error *err)
{
	struct op *op = op_new(NULL, NULL, import_run);

	if (plan(name, op, err) < 0 || import_open(op, "a snapshot", ret_fd, err) < 0) {
		op_unref(op);
		return -1;
	}
	*ret = op;
	return 0;
}
