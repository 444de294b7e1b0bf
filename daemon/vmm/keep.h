/*
 * What is kept of a machine that is saved: a copy of the memory that its VMM has, or has written, in a file. The VMM may be one
 * that a guest has taken over, and holds that file open; so only what is in the copy counts.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "common/core/error.h"
#include "common/core/util.h"
#include "daemon/proc/proc.h"

/* Copy `size` bytes of `in`, whatever it does meanwhile, to the new file `name` in dirfd: 0444, since every VMM that loads it is
 * another uid, and sees it through its jail. Holes and zeros become holes. With an error there is none. FCM_NO_SPACE,
 * FCM_TIMEOUT. */
int keep_copy(
	int in, off_t size, int dirfd, const char *name, int64_t deadline, struct fcm_error *err) must_check;

/* Open VMM_RAM of that VMM, of mem_mib, for reading. FCM_NOT_FOUND when it has none, which is no fault; FCM_VMM. */
int keep_open_ram(const struct proc_id *process, unsigned mem_mib, struct fcm_error *err) must_check;
