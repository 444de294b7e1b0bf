#include "images/agent/stats.h"

#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/statvfs.h>

#include "common/core/fileio.h"
#include "common/core/kv.h"

enum { TEXT_MAX = 16384, LOAD_MAX = 1000000 };

int64_t stats_load(const char *text)
{
	size_t whole = strspn(text, "0123456789");
	const char *part = text + whole;
	int64_t load = 0;

	if (whole == 0 || part[0] != '.' || !isdigit((unsigned char)part[1]) ||
		!isdigit((unsigned char)part[2]))
		return -1;
	for (const char *s = text; s < part && load < LOAD_MAX; s++)
		load = load * 10 + *s - '0';
	return load < LOAD_MAX ? load * 100 + (part[1] - '0') * 10 + part[2] - '0' : -1;
}

static void add_number(struct buf *results, const char *key, int64_t value)
{
	if (value >= 0)
		kv_addf(results, key, "%" PRId64, value);
}

static int64_t bytes_of_kib(int64_t kib)
{
	return kib < 0 || kib > INT64_MAX / 1024 ? -1 : kib * 1024;
}

int stats_report(struct buf *results, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf memory = {0}, load = {0};
	struct statvfs root;

	if (file_read(AT_FDCWD, "/proc/meminfo", TEXT_MAX, &memory, err) < 0 ||
		file_read(AT_FDCWD, "/proc/loadavg", TEXT_MAX, &load, err) < 0)
		return -1;
	if (statvfs("/", &root) < 0)
		return fcm_fail_errno(err, "look at the root file system");
	add_number(results, "memory", bytes_of_kib(fcm_line_number(memory.p, "MemTotal:")));
	add_number(results, "available", bytes_of_kib(fcm_line_number(memory.p, "MemAvailable:")));
	add_number(results, "load", stats_load(load.p));
	add_number(results, "disk", (int64_t)(root.f_blocks * root.f_frsize));
	add_number(results, "disk_used", (int64_t)((root.f_blocks - root.f_bfree) * root.f_frsize));
	return 0;
}
