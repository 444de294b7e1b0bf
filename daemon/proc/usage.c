#include "daemon/proc/usage.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"

enum { TEXT_MAX = 8192 };

bool proc_stat_parse(const char *text, struct proc_stat *ret)
{
	const char *s = strrchr(text, ')'); /* the command before it may hold anything */
	uint64_t user, system, threads, start;

	/* Fields 3 to 22: state, ten that don't matter, utime, stime, four, num_threads, one, starttime. */
	if (s == NULL || sscanf(s + 1,
				 " %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %" SCNu64 " %" SCNu64
				 " %*s %*s %*s %*s %" SCNu64 " %*s %" SCNu64,
				 &user, &system, &threads, &start) != 4)
		return false;
	if (user > INT64_MAX / 2000000 || system > INT64_MAX / 2000000 || threads > INT32_MAX ||
		start > INT64_MAX / 1000)
		return false;
	*ret = (struct proc_stat){
		.start_ticks = start, .cpu_ticks = user + system, .threads = (int64_t)threads};
	return true;
}

static bool read_text(int dirfd, const char *name, struct buf *ret)
{
	struct fcm_error unknown;

	return file_read(dirfd, name, TEXT_MAX, ret, &unknown) == 0;
}

static int64_t bytes_of_kib(int64_t kib)
{
	return kib < 0 || kib > INT64_MAX / 1024 ? -1 : kib * 1024;
}

static void read_memory(int dirfd, struct proc_usage *ret)
{
	_cleanup_(buf_done) struct buf b = {0};

	ret->rss = ret->pss = -1;
	if (!read_text(dirfd, "smaps_rollup", &b))
		return;
	ret->rss = bytes_of_kib(fcm_line_number(b.p, "Rss:"));
	ret->pss = bytes_of_kib(fcm_line_number(b.p, "Pss:"));
}

static void read_io(int dirfd, struct proc_usage *ret)
{
	_cleanup_(buf_done) struct buf b = {0};

	ret->disk_read = ret->disk_written = -1;
	if (!read_text(dirfd, "io", &b))
		return;
	ret->disk_read = fcm_line_number(b.p, "read_bytes:");
	ret->disk_written = fcm_line_number(b.p, "write_bytes:");
}

bool proc_usage_read(const struct proc_id *id, struct proc_usage *ret)
{
	_cleanup_(buf_done) struct buf b = {0};
	struct proc_stat stat;
	int64_t ticks = sysconf(_SC_CLK_TCK);
	struct fcm_error unknown;
	auto_close int dirfd = proc_dir(id, &unknown);

	if (dirfd < 0 || !read_text(dirfd, "stat", &b) || !proc_stat_parse(b.p, &stat))
		return false;
	ret->age_ms = MAX(clock_ms() - (int64_t)stat.start_ticks * 1000 / ticks, (int64_t)0);
	ret->cpu_us = (int64_t)stat.cpu_ticks * (1000000 / ticks);
	ret->threads = stat.threads;
	read_memory(dirfd, ret);
	read_io(dirfd, ret);
	return true;
}
