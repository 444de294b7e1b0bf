#include "daemon/vmm/vmm.h"

#include <limits.h>
#include <string.h>

#include "common/config.h"
#include "daemon/vmm/kvm.h"

const struct vmm_driver *const vmm_drivers[] = {&vmm_firecracker, &vmm_qemu, NULL};

const struct vmm_driver *vmm_driver_find(const char *name)
{
	for (size_t i = 0; vmm_drivers[i]; i++)
		if (strcmp(vmm_drivers[i]->name, name) == 0)
			return vmm_drivers[i];
	return NULL;
}

void vmm_plan_done(struct vmm_plan *plan)
{
	strv_done(&plan->argv);
	strv_done(&plan->binds);
	strv_done(&plan->links);
	strv_done(&plan->env);
	plan->tap_fd = -1;
}

void vmm_bind(struct vmm_plan *plan, const char *src, const char *dst, const char *mode)
{
	strv_addf(&plan->binds, "%s:%s:%s", src, dst, mode);
}

void vmm_bind_files(struct vmm_plan *plan, const struct vmm_config *config)
{
	vmm_bind(plan, config->kernel, VMM_KERNEL, "ro");
	vmm_bind(plan, config->initrd, VMM_INITRD, "ro");
	vmm_bind(plan, config->image, VMM_IMAGE, "ro");
	vmm_bind(plan, config->disk, VMM_DISK, "rw");
	vmm_bind(plan, config->run, VMM_RUN, "rw");
	for (size_t i = 0; i < config->n_volumes; i++) {
		auto_free char *dst = xprintf(VMM_VOLUME, i);
		vmm_bind(plan, config->volumes[i].path, dst, config->volumes[i].read_only ? "ro" : "rw");
	}
}

void vmm_bind_saved(struct vmm_plan *plan, const struct vmm_config *config, const char *name)
{
	auto_free char *src = xprintf("%s/%s", config->saved, name), *dst = xprintf(VMM_SAVED "%s", name);

	vmm_bind(plan, src, dst, "ro");
}

char *vmm_preload(const char *shim)
{
	const char *name = strrchr(shim, '/');

	return xprintf("%.*s/fcm-preload.so", name ? (int)(name - shim) : 0, shim);
}

/* The driver's program as the config has it; for one without a folder what `fcm assets download` installed goes before
 * PATH. That by its real path: a later download must not put another version under a daemon that probed this one. */
static char *program_of(const struct fcmd_config *config, const struct vmm_driver *d)
{
	auto_free char *program = field_get_text(config_fields, config, d->name);
	auto_free char *installed = xprintf("%s/%s/current/%s", config->state_dir, d->name, program);
	char real[PATH_MAX];

	if (strchr(program, '/') == NULL && realpath(installed, real) && access(real, X_OK) == 0)
		return xstrdup(real);
	return STEAL(program);
}

/* Look at KVM, but not twice. */
static void see_kvm(const struct fcmd_config *config, struct kvm_probe *kvm)
{
	if (*kvm->reason)
		return;
	if (strcmp(config->accel, "tcg") == 0)
		fcm_copy(kvm->reason, sizeof kvm->reason, "no KVM: accel = tcg in the config");
	else
		kvm_probe("/dev/kvm", KVM_CPU_MS, KVM_WALL_MS, kvm);
}

/* Does this driver work here, and how well? */
static bool try_driver(const struct vmm_driver *d, const struct fcmd_config *config, struct kvm_probe *kvm,
	struct vmm_probe *ret)
{
	auto_free char *program = program_of(config, d);
	struct fcm_error err;

	*ret = (struct vmm_probe){.accel = VMM_TCG};
	if (d->probe(program, ret, &err) < 0) {
		fcm_copy(ret->reason, sizeof ret->reason, err.msg);
		return false;
	}
	see_kvm(config, kvm);
	fcm_copy(ret->kvm, sizeof ret->kvm, kvm->reason);
	if (kvm->usable) {
		ret->accel = VMM_KVM;
		return true;
	}
	fcm_copy(ret->reason, sizeof ret->reason, kvm->reason);
	return d->caps & VMM_CAP_TCG && strcmp(config->accel, "kvm") != 0;
}

const struct vmm_driver *vmm_choose(const struct fcmd_config *config, struct vmm_probe *ret)
{
	char better[sizeof ret->reason] = ""; /* why the drivers before aren't the one */
	struct kvm_probe kvm = {0};

	for (size_t i = 0; vmm_drivers[i]; i++) {
		const struct vmm_driver *d = vmm_drivers[i];
		if (strcmp(config->vmm, "auto") != 0 && strcmp(config->vmm, d->name) != 0)
			continue;
		bool works = try_driver(d, config, &kvm, ret);
		if (works && ret->accel == VMM_KVM)
			fcm_copy(ret->reason, sizeof ret->reason, better);
		if (works)
			return d;
		if (*better && strcmp(better, ret->reason) != 0) {
			auto_free char *both = xprintf("%s; %s", better, ret->reason);
			fcm_copy(ret->reason, sizeof ret->reason, both);
		}
		fcm_copy(better, sizeof better, ret->reason);
	}
	return NULL;
}
