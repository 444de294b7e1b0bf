#include "daemon/vmm/vmm.h"

#include <string.h>

const struct vmm_driver *const vmm_drivers[] = {&vmm_qemu, NULL};

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
	plan->tap_fd = -1;
}
