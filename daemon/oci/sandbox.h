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
 * without groups, capabilities, new privileges or core dumps, with limits of memory, processor time and descriptors; then
 * with a filter of system calls: without `network` what reads, writes and takes memory, with it all that doesn't make a process,
 * reach another or get privileges back. Descriptors that are open stay so. */
int sandbox_enter(uid_t uid, bool network, struct fcm_error *err) must_check;
