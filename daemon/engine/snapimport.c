/*
 * How it works. `shot` is the directory of any snapshot; `receive` has fcm-oci unpack into it what comes (daemon/oci/unpack.h). Then it
 * is root's, and snapshot.json a stranger's word for `judge`: it is read as strictly as a request, it can name nothing of this host but an
 * image, and it is of no VM here. With `enter` a whole one, whose files have the sums that it lists, becomes visible.
 */
#include "daemon/engine/snapimport.h"

#include <string.h>
#include <unistd.h>

#include "daemon/engine/defaults.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/import.h"
#include "daemon/engine/making.h"
#include "daemon/engine/snapshots.h"

/* Of all files of one, with their holes: what fcm-oci may write at most. */
#define SNAPSHOT_BYTES ((int64_t)256 << 30)

/* ---- receive: what comes ---- */

static int receive(struct op *op, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv files = {0};

	strv_add(&files, SNAPSHOT_MANIFEST);
	snapshot_names(&files);
	if (fchown(op->hold.fd, making_uid(), making_uid()) < 0)
		return fcm_fail_errno(err, "give the snapshot's directory to its job");
	return import_unpack(op, op->hold.fd, "snapshot", &files, SNAPSHOT_BYTES, err);
}

const struct step step_receive = {.name = "receive", .run = receive};

/* ---- judge: what it says ---- */

/* Of a stranger's it is no trouble of this host's that it makes no sense. Its id is ours, whatever it said. */
static int read_manifest(struct op *op, struct fcm_error *err)
{
	struct snapshot *s = &op->hold.snapshot, theirs;

	if (snapshot_take_over(op->hold.fd, &theirs, err) == 0) {
		(void)fcm_copy(theirs.id, sizeof theirs.id, s->id);
		*s = theirs;
		return 0;
	}
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
static int settle(struct snapshot *s, const char *name, struct fcm_error *err)
{
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

static int judge(struct op *op, struct fcm_error *err)
{
	struct snapshot *s = &op->hold.snapshot;
	const char *name = op->names.n ? op->names.v[0] : NULL;

	if (read_manifest(op, err) < 0 || settle(s, name, err) < 0 || check_spec(s, err) < 0 ||
		check_files(s, err) < 0 || check_image(s, err) < 0)
		return -1;
	return snapshot_name_free(s->name, err);
}

const struct step step_judge = {.name = "judge", .run = judge};

/* ---- enter: it is whole ---- */

static int enter(struct op *op, struct fcm_error *err)
{
	struct snapshot *s = &op->hold.snapshot;

	if (snapshot_seal_same(op->hold.fd, s, err) < 0)
		return -1;
	if (op_given_up(op))
		return fcm_fail(err, FCM_CANCELLED, "import was cancelled");
	return snapshot_enter(op, err) < 0 ? -1 : check_image(s, err);
}

const struct step step_enter = {.name = "enter", .run = enter};

/* ---- the operation ---- */

static int plan(const char *name, struct op *op, struct fcm_error *err)
{
	struct asset_name whole;

	if (name == NULL)
		return 0;
	if (asset_name_parse(name, "name", &whole, err) < 0 || snapshot_name_free(name, err) < 0)
		return -1;
	strv_add(&op->names, name);
	return 0;
}

int engine_snapshot_import(const char *name, struct op **ret, int *ret_fd, struct fcm_error *err)
{
	struct op *op = op_new(&table_import_snapshot, NULL, import_run);

	if (plan(name, op, err) < 0 || import_open(op, "a snapshot", ret_fd, err) < 0) {
		op_unref(op);
		return -1;
	}
	*ret = op;
	return 0;
}
