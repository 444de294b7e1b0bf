/*
 * What to do about a VM that the daemon finds when it starts: config.json says what was meant, the world says
 * what is. Pure: a table of cases, held by tests.
 */
#pragma once

#include "common/model.h"

enum repair {
	REPAIR_NONE,
	REPAIR_ADOPT,	/* its VMM lives: attach to it */
	REPAIR_ENDED,	/* its VMM ended while nobody looked: as if it had ended now */
	REPAIR_RELEASE, /* free what it had of the host; it is stopped */
	REPAIR_START,	/* release, then start */
	REPAIR_STOP,	/* finish a stop */
	REPAIR_RESTART, /* finish a restart */
	REPAIR_SUSPEND, /* finish a suspend: its memory is on the disk */
	REPAIR_DESTROY, /* finish a destroy, or roll back a create */
};
extern const char *const repair_names[];

/* reason.code of a VM that runs no more because the host went down: not what its user wanted. */
#define REASON_HOST_SHUTDOWN "host_shutdown"

struct found {
	enum vm_state state; /* of config.json */
	enum vm_desired desired;
	enum vm_restart restart;
	bool lives;	/* its shim is there */
	bool booted;	/* and its CPUs were let run: before that nobody could adopt it */
	bool same_boot; /* the host has not been rebooted since it was started */
	bool saved;	/* its memory is on the disk, whole */
	bool throwaway; /* somebody made it for himself, and he is gone */
	bool parked;	/* reason.code is REASON_HOST_SHUTDOWN */
};

enum repair reconcile(const struct found *f);
