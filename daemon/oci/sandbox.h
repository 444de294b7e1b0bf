/*
 * What fcm-oci gives up before it looks at a byte of a stranger's.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "common/core/error.h"
#include "common/core/util.h"

/* Become `uid` (and the gid of that number) in mount, IPC and, without `network`, network namespaces of our own, with an
 * empty read-only root (with `network`: the host's, as that uid sees it, since resolvers and certificates are there),
 * without groups, capabilities, new privileges, core dumps, more than a few descriptors; then with a filter of system
 * calls that leaves no way to run a program, to trace one, or to get privileges back. Descriptors that are open stay so. */
int sandbox_enter(uid_t uid, bool network, struct fcm_error *err) must_check;
