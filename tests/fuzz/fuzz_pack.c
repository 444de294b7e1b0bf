/*
 * A disk that an enemy wrote becomes a layer, or an error. What it became is an archive that we read ourselves, whose names all
 * lie below its root.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/core/fileio.h"
#include "common/core/tar.h"
#include "daemon/oci/pack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Nobody listens here. */
void oci_progress(const char *what, const char *id, uint64_t current, uint64_t total)
{
	(void)what, (void)id, (void)current, (void)total;
}

enum { HOLES_MAX = 1 << 20 }; /* bytes of a file that are read; the rest of a larger one are holes */

static void want(bool fine)
{
	if (!fine)
		abort();
}

static void check_name(const char *path)
{
	want(*path && *path != '/');
	for (const char *s = path; *s; s += strcspn(s, "/"), s += *s == '/') {
		size_t part = strcspn(s, "/");
		want(part > 0 && !(part == 2 && memcmp(s, "..", 2) == 0));
	}
}

static void check_layer(int fd)
{
	auto_free struct tar_reader *r = xalloc(sizeof *r);
	auto_free struct tar_entry *e = xalloc(sizeof *e);
	struct fcm_error err;
	const char *p;
	uint64_t at;
	int more;

	want(lseek(fd, 0, SEEK_SET) == 0);
	r->fd = fd;
	while ((more = tar_next(r, e, &err)) > 0) {
		check_name(e->path);
		while (e->size <= HOLES_MAX && tar_data(r, &p, &at, &err) > 0)
			;
	}
	want(more == 0);
	tar_reader_done(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const char plan[] = "exclude=etc/hosts";
	const struct oci_job job = {.plan = plan, .plan_n = sizeof plan};
	_cleanup_(buf_done) struct buf results = {0};
	auto_close int disk = memfd_create("disk", MFD_CLOEXEC), out = memfd_create("out", MFD_CLOEXEC);
	struct fcm_error err;

	want(disk >= 0 && out >= 0 && fd_write_all(disk, data, n) == 0);
	if (pack_disk(&job, disk, out, &results, &err) == 0)
		check_layer(out);
	return 0;
}
