/*
 * What a VMM is shut up in: a mount namespace whose root is <id>/jail, and an identity that may do nothing.
 */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "common/core/error.h"
#include "common/core/util.h"

/* Enter the jail that the plan (a kv list of n bytes, daemon/shim/plan.h) describes: `jail`, `bind`, `link`,
 * `memory` (the `uid`'s), `net`. Afterwards "/" is the jail and the host's file systems are out of reach. Needs root, and a process
 * without threads. */
int jail_enter(const void *plan, size_t n, struct fcm_error *err) must_check;

/* Give up everything for good: groups, uid, gid, all five capability sets, and the ability to gain any by
 * exec. */
int jail_drop(uid_t uid, gid_t gid, gid_t group, struct fcm_error *err) must_check;
