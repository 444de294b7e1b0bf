/*
 * What guests say of themselves (docs/AGENT.md, op=stats). It is their word, no more.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/core/util.h"
#include "daemon/guest/guest.h"

enum {
	GUEST_STATS_MS = 500, /* for all answers together: a living agent needs a few, under TCG as well */
	GUEST_LOAD_MAX = 100000000,
};

/* -1 in any of them: unknown. */
struct guest_stats {
	int64_t memory, available; /* bytes, MemTotal and MemAvailable of /proc/meminfo */
	int64_t load;		   /* of one minute, in hundredths, 0..GUEST_LOAD_MAX */
	int64_t disk, disk_used;   /* bytes of the root file system */
};

/* Ask n guests at once and wait until `deadline` for their answers; ret[i] is what guests[i] (NULL: nobody) said, unknown
 * when it said nothing in time. A session that isn't up is not waited for. Any thread but the loop's. */
void guest_stats_ask(struct guest *const *guests, size_t n, int64_t deadline, struct guest_stats *ret);

/* Read an answer. What isn't in range, or contradicts itself, is unknown. */
void guest_stats_parse(const void *p, size_t n, struct guest_stats *ret);
