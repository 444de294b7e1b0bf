/*
 * What the guest knows of itself: memory, load, the disk.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"

/* Append the results of the request `stats` (docs/AGENT.md). What isn't known is left out. */
int stats_report(struct buf *results, struct fcm_error *err) must_check;

/* The first number of a text of /proc/loadavg (proc(5)) in hundredths, -1 when there is none. */
int64_t stats_load(const char *text);
