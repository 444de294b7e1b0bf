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

const struct op_table table_update = {"update", VM_RUNNING, VM_RUNNING, WANT_RUNNING, {DO(change)}};

/* With a site whose name follows. */
const struct op_table table_rename = {
	"rename", VM_RUNNING, VM_RUNNING, WANT_RUNNING, {DO(change), DO(want), DO(site)}};

const struct op_table table_pause = {
	"pause", VM_RUNNING, VM_PAUSED, WANT_RUNNING, {DO(freeze), DO(pause), DO(end)}};

const struct op_table table_resume = {
	"resume", VM_PAUSED, VM_RUNNING, WANT_RUNNING, {UNDO(pause), UNDO(freeze), DO(end)}};

const struct op_table table_adopt_paused = {
	"adopt-paused", VM_PAUSED, VM_PAUSED, WANT_RUNNING, {DO(attach), KEEP(publish), DO(end)}};

const struct op_table table_suspend = {"suspend", VM_SUSPENDING, VM_SUSPENDED, WANT_STOPPED,
	{DO(begin), DO(freeze), DO(pause), DO(save), RELEASE, DO(end)}};

/* The VM stands still between the rows of pause, and its state isn't touched: a daemon that is killed leaves a VM that the next
 * one lets run on. */
const struct op_table table_snapshot = {"snapshot", VM_RUNNING, VM_RUNNING, WANT_RUNNING,
	{DO(shot), DO(freeze), DO(pause), DO(copy), UNDO(pause), UNDO(freeze), DO(seal)}};

/* Of a VM that is stopped when it is whole. */
const struct op_table table_snapshot_stop = {"snapshot-stop", VM_RUNNING, VM_RUNNING, WANT_RUNNING,
	{DO(shot), DO(freeze), DO(pause), DO(copy), DO(seal)}};

const struct op_table table_clone = {"clone", VM_STARTING, VM_RUNNING, WANT_RUNNING,
	{DO(reserve), DO(admit), DO(publish), DO(directory), DO(volumes), DO(unpack), DO(filter), DO(tap),
		DO(cgroup), DO(vmm), DO(attach), DO(boot), DO(begin), KEEP(guest), KEEP(ready), KEEP(site),
		DO(end)}};

const struct op_table table_revert = {
	"revert", VM_STOPPED, VM_STOPPED, WANT_RUNNING, {DO(mark), DO(unpack), DO(end)}};

/* What has no VM. An image is whole when it is kept, a kernel when it is installed, a snapshot when it is entered. */
const struct op_table table_pull = {.name = "pull", .rows = {DO(making), DO(pull), DO(merge), DO(keep)}};

const struct op_table table_import_image = {
	.name = "import-image", .rows = {DO(making), DO(import), DO(merge), DO(keep)}};

/* What of a build comes behind the end of its VM. */
const struct op_table table_build = {.name = "build", .rows = {DO(making), DO(pack), DO(merge), DO(keep)}};

const struct op_table table_import_kernel = {
	.name = "import-kernel", .rows = {DO(place), DO(fetch), DO(install)}};

const struct op_table table_import_snapshot = {
	.name = "import-snapshot", .rows = {DO(shot), DO(receive), DO(judge), DO(enter)}};

const struct op_table *const op_tables[] = {&table_create, &table_start, &table_stop, &table_destroy,
	&table_adopt, &table_ended, &table_expose, &table_unexpose, &table_publish, &table_update,
	&table_rename, &table_pause, &table_resume, &table_adopt_paused, &table_suspend, &table_snapshot,
	&table_snapshot_stop, &table_clone, &table_revert, &table_pull, &table_import_image, &table_build,
	&table_import_kernel, &table_import_snapshot, NULL};
