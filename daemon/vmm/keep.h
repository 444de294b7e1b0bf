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

/* The guest's memory, as its VMM has it: at `base` of `fd`, which is open for reading and the caller's. */
struct keep_ram {
	int fd;
	off_t base;
};

/* Copy what `ram` has, `size` bytes, whatever happens to it meanwhile, to the new file `name` in dirfd: 0444, since every VMM
 * that loads it is another uid, and sees it through its jail. Holes and zeros become holes. With an error there is none.
 * FCM_NO_SPACE, FCM_TIMEOUT. */
int keep_copy(struct keep_ram ram, off_t size, int dirfd, const char *name, int64_t deadline,
	struct fcm_error *err) must_check;

/* Find the memory of that VMM, of mem_mib: the file VMM_RAM, or where it has VMM_MEMORY of VMM_SAVED mapped, with the pages that
 * are its own (proc(5), /proc/PID/maps and mem). FCM_NOT_FOUND when it has neither, or we may not read it (ptrace(2)), which
 * is no fault; FCM_VMM. */
int keep_find_ram(const struct proc_id *process, unsigned mem_mib, struct keep_ram *ret,
	struct fcm_error *err) must_check;
