/*
 * The operations as tables of steps. What stands in front of `begin` touches nothing that was there before; what stands
 * behind it is finished, or taken back, by the next daemon (reconcile.h).
 */
#include "daemon/engine/step.h"

#define DO(s)                                                                                                \
	{                                                                                                    \
		&step_##s, STEP_DO                                                                           \
	}
#define KEEP(s)                                                                                              \
	{                                                                                                    \
		&step_##s, STEP_KEEP                                                                         \
	}
#define UNDO(s)                                                                                              \
	{                                                                                                    \
		&step_##s, STEP_UNDO                                                                         \
	}

/* What stop, destroy and the end of a VMM release, and what start makes, in reverse. */
#define RELEASE UNDO(guest), UNDO(attach), UNDO(vmm), UNDO(cgroup), UNDO(tap), UNDO(filter), UNDO(publish)

const struct op_table table_create = {"create", VM_STARTING, VM_RUNNING, WANT_RUNNING,
	{DO(image), DO(reserve), DO(admit), DO(publish), DO(directory), DO(disk), DO(volumes), DO(filter),
		DO(tap), DO(cgroup), DO(vmm), DO(attach), DO(boot), DO(begin), KEEP(guest), KEEP(ready),
		KEEP(site), DO(end)}};

const struct op_table table_start = {"start", VM_STARTING, VM_RUNNING, WANT_RUNNING,
	{DO(admit), DO(publish), DO(begin), DO(give), DO(filter), DO(tap), DO(cgroup), DO(vmm), DO(attach),
		DO(boot), KEEP(guest), KEEP(ready), DO(end)}};

const struct op_table table_stop = {
	"stop", VM_STOPPING, VM_STOPPED, WANT_STOPPED, {DO(begin), DO(quiet), RELEASE, DO(end)}};

const struct op_table table_destroy = {"destroy", VM_DESTROYING, VM_DESTROYING, WANT_STOPPED,
	{DO(begin), UNDO(site), DO(quiet), RELEASE, UNDO(volumes), UNDO(directory), UNDO(reserve)}};

const struct op_table table_adopt = {
	"adopt", VM_RUNNING, VM_RUNNING, WANT_RUNNING, {DO(attach), KEEP(guest), KEEP(publish), DO(end)}};

const struct op_table table_ended = {"ended", VM_STOPPED, VM_STOPPED, WANT_RUNNING, {RELEASE, DO(end)}};

const struct op_table table_expose = {"expose", VM_RUNNING, VM_RUNNING, WANT_RUNNING, {DO(want), DO(site)}};

const struct op_table table_unexpose = {
	"unexpose", VM_RUNNING, VM_RUNNING, WANT_RUNNING, {UNDO(site), DO(want)}};

const struct op_table table_publish = {
	"publish", VM_RUNNING, VM_RUNNING, WANT_RUNNING, {DO(publish), DO(ports)}};

const struct op_table *const op_tables[] = {&table_create, &table_start, &table_stop, &table_destroy,
	&table_adopt, &table_ended, &table_expose, &table_unexpose, &table_publish, NULL};
