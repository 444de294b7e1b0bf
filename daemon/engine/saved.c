#include "daemon/engine/saved.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/crypt.h"
#include "daemon/disk/disk.h"
#include "daemon/engine/engine.h"

#define NEW SAVED ".new"
#define CPUINFO "/proc/cpuinfo"

enum {
	SAVE_MS = 120000, /* a disk that is busy with the same of others */
	CPUINFO_MAX = 8 << 20,
};

/* ---- the host ---- */

/* The value of the first line `key : value` of /proc/cpuinfo. */
static void cpu_line(const char *text, const char *key, char *ret, size_t size)
{
	const char *line = text ? strstr(text, key) : NULL;
	const char *value = line ? strchr(line, ':') : NULL;

	*ret = '\0';
	if (value)
		(void)fcm_format(ret, size, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
}

/* Under TCG the guest sees QEMU's CPU, whatever the host has. */
static void note_cpu(struct snapshot_machine *m)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error ignored;
	char flags[8192];

	if (strcmp(m->accel, "tcg") == 0 || file_read(AT_FDCWD, CPUINFO, CPUINFO_MAX, &text, &ignored) < 0)
		return;
	cpu_line(text.p, "model name", m->cpu, sizeof m->cpu);
	cpu_line(text.p, "\nflags", flags, sizeof flags);
	struct crypt_sha256 *h = crypt_sha256_new();
	crypt_sha256_add(h, flags, strlen(flags));
	crypt_sha256_hex(h, m->cpu_flags);
}

static struct snapshot_machine describe_machine(const struct vmm_driver *driver, const char *accel)
{
	struct snapshot_machine m = {0};

	fcm_copy(m.vmm, sizeof m.vmm, driver ? driver->name : "");
	fcm_copy(m.vmm_version, sizeof m.vmm_version, engine()->probe.version);
	fcm_copy(m.accel, sizeof m.accel, accel);
	note_cpu(&m);
	return m;
}

struct snapshot_machine saved_of(const struct vm *vm)
{
	return describe_machine(vm->driver, vm->view.accel);
}

struct snapshot_machine saved_here(void)
{
	return describe_machine(engine()->driver, engine()->probe.accel == VMM_KVM ? "kvm" : "tcg");
}

int saved_write(struct op *op, int dirfd, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	auto_close int run = dir_open(vm->dirfd, "jail/run", err);

	if (run < 0)
		return -1;
	if (vm->vmm == NULL)
		return fcm_fail(err, FCM_VMM, "there is no connection to the VMM of '%s' now", vm->view.name);
	if ((vm->driver->caps & VMM_CAP_SAVE) == 0)
		return fcm_fail(err, FCM_VMM, "%s can't save a machine", vm->driver->name);
	if (vm->run.loaded == LOADED_CLONE) /* what is saved would be taken for its own */
		return fcm_fail(err, FCM_WRONG_STATE,
			"the guest of '%s' doesn't know yet that it is another VM than '%s'", vm->view.name,
			vm->run.was_name);
	struct vmm_saving what = {
		.process = &vm->run.vmm, .run_dirfd = run, .dirfd = dirfd, .mem_mib = vm->view.spec.mem_mib};
	return vm->driver->save(vm->vmm, &what, clock_in(SAVE_MS), err);
}

/* ---- <id>/saved ---- */

static bool is_there(const struct vm *vm, const char *path)
{
	struct stat st;

	return vm->dirfd >= 0 && fstatat(vm->dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

bool saved_there(const struct vm *vm)
{
	return is_there(vm, SAVED);
}

bool saved_memory(const struct vm *vm)
{
	return is_there(vm, SAVED "/" VMM_MEMORY);
}

int saved_read(const struct vm *vm, struct snapshot *ret, struct fcm_error *err)
{
	struct snapshot_machine here = saved_here();
	struct snapshot s = {0};
	auto_close int fd = dir_open(vm->dirfd, SAVED, err);

	if (fd < 0 || snapshot_read(fd, &s, err) < 0)
		return -1;
	if (snapshot_fits(&s.machine, &here, err) == 0 && snapshot_check(fd, &s, true, err) == 0) {
		*ret = s;
		return 0;
	}
	snapshot_done(&s);
	return fcm_hint(err, "fcm stop %s drops its memory and keeps its disk", vm->view.name);
}

/* Of a VM that is only being made a daemon that begins anew leaves nothing (reconcile.h), so nothing of it must last. */
static int sync_dir(const struct vm *vm, int fd)
{
	return vm->view.state == VM_CREATING ? 0 : fsync(fd);
}

static int enter(const struct vm *vm, struct fcm_error *err)
{
	if (renameat(vm->dirfd, NEW, vm->dirfd, SAVED) < 0 || sync_dir(vm, vm->dirfd) < 0)
		return fcm_fail_errno(err, "keep the saved machine");
	return 0;
}

/* An empty directory that isn't seen yet. */
static int begin(const struct vm *vm, struct fcm_error *err)
{
	if (saved_discard(vm, err) < 0)
		return -1;
	if (mkdirat(vm->dirfd, NEW, 0700) < 0)
		return fcm_fail_errno(err, "make a directory for the saved machine");
	return dir_open(vm->dirfd, NEW, err);
}

/* Not every machine has all of them. */
static int link_files(
	const struct vm *vm, int from, int to, const char *const names[], size_t n, struct fcm_error *err)
{
	for (size_t i = 0; i < n; i++)
		if (linkat(from, names[i], to, names[i], 0) < 0 && errno != ENOENT)
			return fcm_fail_errno(err, "link '%s' of the saved machine", names[i]);
	return sync_dir(vm, to) < 0 ? fcm_fail_errno(err, "keep the saved machine") : 0;
}

int saved_take(const struct vm *vm, int snapshot_fd, struct fcm_error *err)
{
	static const char *const names[] = {VMM_STATE, VMM_MEMORY, SNAPSHOT_MANIFEST};
	auto_close int fd = begin(vm, err);

	return fd < 0 || link_files(vm, snapshot_fd, fd, names, ARRAY_SIZE(names), err) < 0 ? -1
											    : enter(vm, err);
}

int saved_lend(const struct vm *vm, int snapshot_fd, struct fcm_error *err)
{
	static const char *const names[] = {VMM_STATE, VMM_MEMORY};
	auto_close int fd = dir_open(vm->dirfd, SAVED, err);

	return fd < 0 ? -1 : link_files(vm, fd, snapshot_fd, names, ARRAY_SIZE(names), err);
}

/* Whole, or with a name that says it isn't. */
int saved_discard(const struct vm *vm, struct fcm_error *err)
{
	if (dir_remove(vm->dirfd, NEW, NULL, err) < 0)
		return -1;
	if (renameat(vm->dirfd, SAVED, vm->dirfd, NEW) < 0 && errno != ENOENT)
		return fcm_fail_errno(err, "forget the saved machine");
	if (dir_remove(vm->dirfd, NEW, NULL, err) < 0)
		return -1;
	return sync_dir(vm, vm->dirfd) < 0 ? fcm_fail_errno(err, "forget the saved machine") : 0;
}

/* ---- save: what `suspend` does ---- */

static void describe_self(const struct vm *vm, struct snapshot *s)
{
	*s = (struct snapshot){.created = clock_wall(), .memory = true, .frozen = vm->frozen, .vm = vm->view};
	fcm_copy(s->id, sizeof s->id, vm->id.s);
	s->machine = saved_of(vm);
}

static int save(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	struct snapshot s; /* its lists stay the VM's */
	auto_close int fd = begin(vm, err);

	/* what the guest has written must be as lasting as the memory that knows of it */
	if (fd < 0 || saved_write(op, fd, err) < 0 || disk_sync(vm->dirfd, err) < 0)
		return -1;
	describe_self(vm, &s);
	return snapshot_seal(fd, &s, err) < 0 ? -1 : enter(vm, err);
}

/* Once the VMM is let go of there is no way back: the suspend is finished by who tries again, or by the next daemon. */
static int unsave(struct op *op, struct fcm_error *err)
{
	if (op->vm->vmm == NULL && saved_there(op->vm))
		return fcm_fail(err, FCM_VMM, "the machine is saved, and its VMM can't run on");
	return saved_discard(op->vm, err);
}

const struct step step_save = {.name = "save", .run = save, .undo = unsave};
