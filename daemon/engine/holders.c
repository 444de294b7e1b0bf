/*
 * Which VMs have which volumes: who may open one now, and which are being removed. All of it under the registry's lock.
 */
#include <string.h>

#include "daemon/engine/vm.h"
#include "daemon/engine/volumes.h"

static struct strv going; /* names of volumes that are being removed */

static bool uses(const struct vm *vm, const char *volume, struct volume_ref *ret)
{
	const struct strv *all = &vm->view.spec.volumes;
	struct fcm_error ignored;

	for (size_t i = 0; i < all->n; i++)
		if (volume_ref_parse(all->v[i], "volumes", ret, &ignored) == 0 &&
			strcmp(ret->name.s, volume) == 0)
			return true;
	return false;
}

int volumes_staying(const struct vm *vm, struct fcm_error *err)
{
	struct volume_ref ref;

	for (size_t i = 0; i < going.n; i++)
		if (uses(vm, going.v[i], &ref))
			return fcm_fail_field(
				err, FCM_BUSY, "volumes", "the volume '%s' is being removed", going.v[i]);
	return 0;
}

/* May its VMM have a volume open, now or in a moment? Or does a memory that is on the disk know what is on it? */
static bool has_volumes(const struct vm *vm)
{
	enum vm_state s = vm->view.state;

	return vm->has_volumes || vm->view.vmm_pid || vm_state_up(s) || s == VM_SUSPENDED;
}

/* Who keeps `vm` from having this volume now: several may read it, or one may write. */
static const struct vm *rival(const struct vm *vm, const struct volume_ref *wanted)
{
	struct volume_ref theirs;
	size_t n;
	struct vm *const *vms = registry_locked(&n);

	for (size_t i = 0; i < n; i++)
		if (vms[i] != vm && has_volumes(vms[i]) && uses(vms[i], wanted->name.s, &theirs) &&
			!(wanted->read_only && theirs.read_only))
			return vms[i];
	return NULL;
}

static int fail_rival(const struct volume_ref *wanted, const struct vm *other, struct fcm_error *err)
{
	fcm_fail_field(err, FCM_WRONG_STATE, "volumes", "VM '%s' has the volume '%s' %s", other->view.name,
		wanted->name.s, wanted->read_only ? "and writes it" : "already");
	fcm_veil(err, "another VM has the volume '%s'", wanted->name.s);
	return fcm_hint(err, "stop it (fcm stop %s), or let all of them only read it (%s:%s:ro)",
		other->view.name, wanted->name.s, wanted->path);
}

int volumes_take(struct vm *vm, struct fcm_error *err)
{
	const struct strv *all = &vm->view.spec.volumes;
	struct volume_ref ref;
	int rc = 0;

	registry_lock();
	for (size_t i = 0; rc == 0 && i < all->n; i++) {
		rc = volume_ref_parse(all->v[i], "volumes", &ref, err);
		const struct vm *other = rc == 0 && ref.name.s[0] ? rival(vm, &ref) : NULL;
		if (other)
			rc = fail_rival(&ref, other, err);
	}
	vm->has_volumes = rc == 0;
	registry_unlock();
	return rc;
}

static void add_users(const char *volume, struct strv *ret)
{
	struct volume_ref ref;
	size_t n;
	struct vm *const *vms = registry_locked(&n);

	for (size_t i = 0; i < n; i++)
		if (uses(vms[i], volume, &ref))
			strv_add(ret, vms[i]->view.name);
}

void volumes_users(const char *volume, struct strv *ret)
{
	registry_lock();
	add_users(volume, ret);
	registry_unlock();
}

bool volumes_going(const char *volume, struct strv *ret_users)
{
	registry_lock();
	add_users(volume, ret_users);
	bool free = ret_users->n == 0 && !strv_has(&going, volume);
	if (free)
		strv_add(&going, volume);
	registry_unlock();
	return free;
}

void volumes_gone(const char *volume)
{
	registry_lock();
	strv_remove(&going, volume);
	registry_unlock();
}
