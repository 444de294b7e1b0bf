/*
 * What a VM is on disk: admission (nothing is made, so nothing to undo), its place in the registry, its
 * directory with config.json and the host key, its writable disk.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "common/crypt.h"
#include "daemon/disk/disk.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/snapshots.h"
#include "daemon/engine/volumes.h"
#include "daemon/image/image.h"

/* ---- admit: would it work at all? ---- */

static int admit_memory(struct vm *vm, struct fcm_error *err)
{
	const struct fcmd_config *c = engine()->config;
	struct sysinfo si;

	sysinfo(&si);
	uint64_t total = (uint64_t)si.totalram * si.mem_unit >> 20;
	uint64_t usable =
		total > c->reserve_mib ? (total - c->reserve_mib) * c->mem_overcommit_percent / 100 : 0;
	uint64_t used;
	if (registry_admit(vm, usable, &used))
		return 0;
	return fcm_fail_field(err, FCM_INSUFFICIENT, "memory",
		"%u MiB of memory asked for, but running VMs have %" PRIu64 " of the %" PRIu64
		" MiB for VMs on this host",
		vm->view.spec.mem_mib, used, usable);
}

int engine_has_room(struct fcm_error *err)
{
	uint64_t free_mib = disk_free_bytes(store_dirfd()) >> 20;
	uint64_t reserve = engine()->config->disk_reserve_mib;

	if (free_mib > reserve)
		return 0;
	return fcm_fail(err, FCM_NO_SPACE,
		"%" PRIu64 " MiB are free for the state directory, and %" PRIu64
		" MiB must stay free (disk_reserve_mib)",
		free_mib, reserve);
}

int engine_pin_image(struct vm *vm, struct fcm_error *err)
{
	struct image_id id;

	if (vm->view.image_id.s[0])
		return 0;
	if (image_resolve(vm->view.spec.image, &id, err) < 0)
		return -1;
	VM_SET(vm, view->image_id = id);
	return 0;
}

static int admit(struct op *op, struct fcm_error *err)
{
	const struct vm_spec *spec = &op->vm->view.spec;
	struct asset_name kernel;
	auto_free char *image_file = NULL, *vmlinux = NULL, *initrd = NULL;

	if (engine()->driver == NULL)
		return fcm_fail(err, FCM_NO_VMM, "no VMM works here: %s", engine()->probe.reason);
	if (engine_pin_image(op->vm, err) < 0 || image_path(&op->vm->view.image_id, &image_file, err) < 0 ||
		asset_name_parse(spec->kernel, "kernel", &kernel, err) < 0 ||
		kernel_paths(&kernel, &vmlinux, &initrd, err) < 0)
		return -1;
	if (op->table == &table_clone && snapshot_loads(op, err) < 0)
		return -1;
	return admit_memory(op->vm, err) < 0 || volumes_take(op->vm, err) < 0 || engine_has_room(err) < 0 ? -1
													  : 0;
}

const struct step step_admit = {.name = "admit", .run = admit};

/* ---- reserve: id, name, address, domain ---- */

static int reserve(struct op *op, struct fcm_error *err)
{
	return registry_choose(op->vm, op, true, err);
}

static int unreserve(struct op *op, struct fcm_error *err)
{
	(void)err;
	registry_remove(op->vm);
	return 0;
}

const struct step step_reserve = {.name = "reserve", .run = reserve, .undo = unreserve};

/* ---- directory: <state>/<id> with config.json and hostkey ---- */

static int make_directory(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	uint8_t key[CRYPT_ED25519];

	if (store_vm_make(&vm->id, vm->view.uid, err) < 0)
		return -1;
	int fd = store_vm_open(&vm->id, err);
	if (fd < 0)
		return -1;
	crypt_ed25519(key);
	auto_free char *public = crypt_ssh_public(key);
	VM_SET(vm, vm->dirfd = fd; fcm_copy(view->host_key, sizeof view->host_key, public));
	return store_vm_save(&vm->view, err) < 0 ? -1 : store_hostkey_save(&vm->id, key, err);
}

/* vm->dirfd stays open until the VM is freed: whoever reads its console now reads that of a directory that is gone. */
static int remove_directory(struct op *op, struct fcm_error *err)
{
	if (store_vm_remove(&op->vm->id, &op->receipt.bytes, err) < 0)
		return -1;
	return store_run_remove(&op->vm->id, err);
}

static void describe_directory(const struct op *op, bool undo, struct strv *ret)
{
	auto_free char *dir = engine_path("%s", op->vm->id.s);

	if (undo) {
		strv_addf(ret, "remove %s with everything in it", dir);
		return;
	}
	strv_addf(
		ret, "mkdir %s (0711), %s/jail, %s/jail/run (0700, uid %u)", dir, dir, dir, op->vm->view.uid);
	strv_addf(ret, "write %s/config.json (0600)", dir);
	strv_addf(ret, "write %s/hostkey (0600): a new ed25519 key for the guest's sshd", dir);
}

const struct step step_directory = {
	.name = "directory", .run = make_directory, .undo = remove_directory, .describe = describe_directory};

/* ---- disk: rootfs.img ---- */

static int make_disk(struct op *op, struct fcm_error *err)
{
	return disk_create(
		op->vm->dirfd, engine()->templates, op->vm->view.spec.disk_mib, op->vm->view.uid, err);
}

static void describe_disk(const struct op *op, bool undo, struct strv *ret)
{
	if (!undo)
		strv_addf(ret, "copy templates/%u.ext4 to %s/rootfs.img (sparse, 0600, uid %u)",
			op->vm->view.spec.disk_mib, op->vm->id.s, op->vm->view.uid);
}

const struct step step_disk = {.name = "disk", .run = make_disk, .describe = describe_disk};
