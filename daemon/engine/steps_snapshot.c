/*
 * What a snapshot is made of, and what is made of a snapshot.
 *
 * shot (its directory) and seal (it becomes visible) stand around the time in which the VM stands still, and that has only
 * `copy` in it: its memory and its disks. What takes long and needs no standstill, hashing and writing to the disk, is seal's.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "common/core/clock.h"
#include "daemon/disk/disk.h"
#include "daemon/engine/claimed.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/saved.h"
#include "daemon/engine/snapshots.h"
#include "daemon/engine/volumes.h"

enum { HALT_MS = 10000 }; /* for the VMM's answer */

/* ---- shot: its directory, which nobody sees yet ---- */

static struct vm_id id_of(const struct op *op)
{
	struct vm_id id = {""};

	fcm_copy(id.s, sizeof id.s, op->hold.snapshot.id);
	return id;
}

static int begin_shot(struct op *op, struct fcm_error *err)
{
	struct vm_id id = vm_id_random();

	fcm_copy(op->hold.snapshot.id, sizeof op->hold.snapshot.id, id.s);
	op->hold.fd = snapshots_begin(&id, err);
	if (op->hold.fd < 0)
		return -1;
	snapshot_held(&op->hold);
	return 0;
}

static int drop_shot(struct op *op, struct fcm_error *err)
{
	struct vm_id id = id_of(op);

	return id.s[0] ? snapshots_remove(&id, NULL, err) : 0;
}

static void describe_shot(const struct op *op, bool undo, struct strv *ret)
{
	(void)op;
	strv_add(ret, undo ? "remove the snapshot" : "mkdir snapshots/.<id> (0700)");
}

const struct step step_shot = {
	.name = "shot", .run = begin_shot, .undo = drop_shot, .describe = describe_shot};

/* ---- copy: memory and disks of a VM that stands still ---- */

static int copy_disk(struct op *op, struct fcm_error *err)
{
	auto_close int fd = disk_open(op->vm->dirfd, err);

	return fd < 0 ? -1 : disk_copy(fd, op->hold.fd, SNAPSHOT_DISK, 0, false, err);
}

static int copy_volumes(struct op *op, struct fcm_error *err)
{
	struct volume_ref refs[VM_MAX_VOLUMES];
	size_t n = volumes_parse(&op->vm->view.spec.volumes, refs);

	for (size_t i = 0; i < n; i++) {
		if (!volumes_is_own(op->vm, &refs[i]))
			continue;
		auto_free char *name = xprintf(SNAPSHOT_VOLUME, i);
		auto_close int fd = volume_open(&refs[i].name, err);
		if (fd < 0 || disk_copy(fd, op->hold.fd, name, 0, false, err) < 0)
			return -1;
	}
	return 0;
}

/* A suspended VM's memory is there already. */
static int copy_saved(struct op *op, struct fcm_error *err)
{
	struct snapshot *s = &op->hold.snapshot, saved;

	if (saved_read(op->vm, &saved, err) < 0)
		return -1;
	s->frozen = saved.frozen;
	s->machine = saved.machine;
	snapshot_done(&saved);
	return saved_lend(op->vm, op->hold.fd, err);
}

/* One that was saved isn't saved again before it ran: so a VM that its user has paused runs for a moment, frozen. */
static int run_a_moment(struct vm *vm, struct fcm_error *err)
{
	int64_t deadline = clock_in(HALT_MS);

	return vm->driver->resume(vm->vmm, deadline, err) < 0 ? -1
							      : vm->driver->pause(vm->vmm, deadline, err);
}

static int copy_memory(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	if (vm->view.state == VM_SUSPENDED)
		return copy_saved(op, err);
	op->hold.snapshot.frozen = vm->frozen;
	return saved_write(op, op->hold.fd, err);
}

/* The disks are those that the memory knows: nothing runs until they are copied. */
static int copy(struct op *op, struct fcm_error *err)
{
	bool memory = op->hold.snapshot.memory;
	struct fcm_error ignored;

	if (memory && copy_memory(op, err) < 0)
		return -1;
	int r = copy_disk(op, err) < 0 ? -1 : copy_volumes(op, err);
	if (memory && op->was_paused && run_a_moment(op->vm, r < 0 ? &ignored : err) < 0)
		return -1;
	return r;
}

static void describe_copy(const struct op *op, bool undo, struct strv *ret)
{
	if (undo)
		return;
	if (op->hold.snapshot.memory)
		strv_add(ret, "save the machine to snapshots/.<id>");
	strv_addf(ret, "copy %s/rootfs.img to snapshots/.<id>/disk (sparse)", op->vm->id.s);
}

const struct step step_copy = {.name = "copy", .run = copy, .describe = describe_copy};

/* ---- seal: it is whole ---- */

static int seal(struct op *op, struct fcm_error *err)
{
	struct snapshot_hold *h = &op->hold;

	h->snapshot.pause_ms = op->pause_ms;
	if (h->temporary)
		return snapshot_seal_passing(h->fd, &h->snapshot, err);
	return snapshot_seal(h->fd, &h->snapshot, err) < 0 ? -1 : snapshot_enter(op, err);
}

static void describe_seal(const struct op *op, bool undo, struct strv *ret)
{
	(void)op;
	if (!undo)
		strv_add(
			ret, "hash the files, write snapshot.json, rename snapshots/.<id> to snapshots/<id>");
}

const struct step step_seal = {.name = "seal", .run = seal, .describe = describe_seal};

/* ---- unpack: a VM's disk and memory, out of a snapshot ---- */

static int open_disk(const struct op *op, const char *name, struct fcm_error *err)
{
	int fd = openat(op->hold.fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	return fd < 0 ? fcm_fail_errno(err, "open '%s' of the snapshot", name) : fd;
}

static int unpack_disk(struct op *op, struct fcm_error *err)
{
	auto_close int fd = open_disk(op, SNAPSHOT_DISK, err);
	bool lasting = op->vm->view.state != VM_CREATING;

	return fd < 0 ? -1 : disk_replace(op->vm->dirfd, fd, op->vm->view.uid, lasting, err);
}

static int unpack_volumes(struct op *op, struct fcm_error *err)
{
	struct volume_ref refs[VM_MAX_VOLUMES];
	size_t n = volumes_parse(&op->vm->view.spec.volumes, refs);

	for (size_t i = 0; i < n; i++) {
		if (!volumes_is_own(op->vm, &refs[i]))
			continue;
		auto_free char *name = xprintf(SNAPSHOT_VOLUME, i);
		auto_close int fd = open_disk(op, name, err);
		if (fd < 0 || volume_copy(&refs[i].name, op->vm->id.s, fd, err) < 0 ||
			volume_give(&refs[i].name, op->vm->view.uid, err) < 0)
			return -1;
	}
	return 0;
}

/* Whose it is, and of a machine that was saved the size that it has. */
static void be_of_snapshot(struct op *op)
{
	const struct snapshot *s = &op->hold.snapshot;

	VM_SET(op->vm, fcm_copy(view->snapshot, sizeof view->snapshot, op->hold.unseen ? s->parent : s->id));
	if (!op->disk_only)
		VM_SET(op->vm, update_go_back(view, &s->vm.spec));
}

/* ---- mark: until all of it has gone back it is what a cut leaves ---- */

static int mark(struct op *op, struct fcm_error *err)
{
	struct fcm_error why = {.code = FCM_HOST};

	fcm_format(why.msg, sizeof why.msg, "a restore was cut: its disks may be of then and of now");
	vm_set_reason(op->vm, "restore", &why);
	be_of_snapshot(op);
	VM_SET(op->vm, view->state = VM_FAILED);
	return store_vm_save(&op->vm->view, err);
}

const struct step step_mark = {.name = "mark", .run = mark};

/* The memory that was is forgotten first: it knows nothing of the disk that comes. */
static int unpack(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	if (saved_discard(vm, err) < 0 || unpack_disk(op, err) < 0 || unpack_volumes(op, err) < 0)
		return -1;
	be_of_snapshot(op);
	return op->disk_only ? 0 : saved_take(vm, op->hold.fd, err);
}

const struct step step_unpack = {.name = "unpack", .run = unpack};
