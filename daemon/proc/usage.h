/*
 * What a process uses, from /proc (proc(5)).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "daemon/proc/proc.h"

/* -1 in any of them: unknown. */
struct proc_usage {
	int64_t age_ms; /* since it was started */
	int64_t cpu_us; /* of all its threads, also those that ended; as fine as the kernel's clock ticks, 10 ms */
	int64_t threads;
	int64_t rss, pss; /* bytes; what is shared counts whole in rss, and by its share in pss */
	/* Bytes that the kernel had to fetch from a disk for it, and bytes that it made the kernel write to one: what the
	 * page cache answers isn't counted, nor is what lies on tmpfs. */
	int64_t disk_read, disk_written;
};

/* Read them of that very process. False when it is gone, was another boot's, or its pid was reused. */
bool proc_usage_read(const struct proc_id *id, struct proc_usage *ret);

/* What there is in a text of /proc/<pid>/stat. False when it isn't one. */
struct proc_stat {
	uint64_t start_ticks, cpu_ticks; /* of sysconf(_SC_CLK_TCK) a second */
	int64_t threads;
};
bool proc_stat_parse(const char *text, struct proc_stat *ret);
