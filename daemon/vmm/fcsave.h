/*
 * What Firecracker writes of a machine, from its run directory to where it can't reach it.
 *
 * Firecracker takes paths and writes files of its own, and its jail has one place for them, which belongs to the VM's uid.
 * A guest that has taken it over may leave anything there, and keep what it left open. So the files are copied, as far
 * as they are what they must be, and only the copies count.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

/* Remove VMM_STATE and VMM_MEMORY from the run directory. A directory in their place is FCM_VMM: a VMM that makes one could
 * fill it as fast as it is emptied. It goes with the VMM's end. */
int fcsave_clear(int run_dirfd, struct fcm_error *err) must_check;

/* Copy both to new files in `dirfd`, a directory that only root may enter: 0444, since every VMM that loads them is another
 * uid, and sees them through its jail. Memory that is zeros becomes holes. With an error there are none. */
int fcsave_take(
	int run_dirfd, int dirfd, unsigned mem_mib, int64_t deadline, struct fcm_error *err) must_check;

/* Has the file system of the run directory no room left? Firecracker says so only in its words. */
bool fcsave_full(int run_dirfd);
