#include "daemon/engine/reconcile.h"

const char *const repair_names[] = {
	"none", "adopt", "ended", "release", "start", "stop", "restart", "suspend", "destroy", NULL};

/* After a reboot of the host: does the policy start it again? */
static bool comes_back(const struct found *f)
{
	return f->desired == WANT_RUNNING &&
	       (f->restart == RESTART_ALWAYS || f->restart == RESTART_UNLESS_STOPPED);
}

enum repair reconcile(const struct found *f)
{
	if (f->throwaway)
		return REPAIR_DESTROY;
	switch (f->state) {
	case VM_CREATING:
	case VM_DESTROYING:
		return REPAIR_DESTROY;
	case VM_STOPPING:
		if (f->parked && !f->lives)
			return comes_back(f) ? REPAIR_START : REPAIR_RELEASE;
		return f->desired == WANT_RUNNING ? REPAIR_RESTART : REPAIR_STOP;
	case VM_STARTING:
		if (f->lives)
			return f->booted ? REPAIR_ADOPT : REPAIR_START;
		return f->same_boot || comes_back(f) ? REPAIR_START : REPAIR_RELEASE;
	case VM_RUNNING:
	case VM_PAUSED:
		if (f->lives)
			return REPAIR_ADOPT;
		if (f->same_boot)
			return REPAIR_ENDED;
		return comes_back(f) ? REPAIR_START : REPAIR_RELEASE;
	case VM_SUSPENDING:
		if (f->saved)
			return REPAIR_SUSPEND;
		if (f->lives)
			return REPAIR_ADOPT;
		return f->same_boot ? REPAIR_ENDED : comes_back(f) ? REPAIR_START : REPAIR_RELEASE;
	case VM_SUSPENDED:
		return f->lives ? REPAIR_SUSPEND : REPAIR_NONE;
	case VM_STOPPED:
		if (f->lives)
			return REPAIR_STOP;
		return f->parked && comes_back(f) ? REPAIR_START : REPAIR_NONE;
	case VM_FAILED:
		if (f->lives)
			return f->desired == WANT_STOPPED ? REPAIR_STOP
			       : f->booted		  ? REPAIR_ADOPT
							  : REPAIR_START;
		/* the restart that the last daemon had planned */
		return f->desired == WANT_RUNNING && f->restart != RESTART_NO ? REPAIR_START : REPAIR_NONE;
	case VM_STATES:
		break;
	}
	return REPAIR_NONE;
}
