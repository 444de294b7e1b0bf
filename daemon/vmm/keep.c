#include "daemon/vmm/keep.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/sparse.h"
#include "daemon/vmm/vmm.h"

enum {
	WINDOW = 16 << 20,  /* copied between two looks at the deadline */
	MAPS_MAX = 8 << 20, /* of /proc/PID/maps: 65530 lines, with the usual vm.max_map_count */
};

/* Where the next bytes begin that aren't a hole, from `at` on; `size` where there are none. The memory of a process knows of no
 * holes. -1 with errno. */
static off_t next_data(int in, off_t at, off_t size)
{
	off_t data = lseek(in, at, SEEK_DATA);

	if (data < 0 && errno == EINVAL)
		return at;
	return data < 0 && errno == ENXIO ? size : MIN(data, size);
}

/* And where they end. */
static off_t next_hole(int in, off_t from, off_t size)
{
	off_t hole = lseek(in, from, SEEK_HOLE);

	return hole < 0 && errno == EINVAL ? size : MIN(hole, size);
}

static int copy(struct keep_ram ram, int out, off_t size, int64_t deadline, struct fcm_error *err)
{
	off_t from = 0, to = 0;

	if (ftruncate(out, size) < 0)
		return fcm_fail_errno(err, "copy the saved machine");
	while ((from = next_data(ram.fd, to, size)) >= 0 && from < size) {
		if (clock_left(deadline) == 0)
			return fcm_fail(err, FCM_TIMEOUT, "copying the saved machine takes too long");
		to = MIN(next_hole(ram.fd, from, size), from + WINDOW);
		if (to < from || sparse_copy_range(ram.fd, ram.base, out, from, to) < 0)
			return fcm_fail_errno(err, "copy the saved machine");
	}
	return from < 0 || fchmod(out, 0444) < 0 ? fcm_fail_errno(err, "copy the saved machine") : 0;
}

int keep_copy(
	struct keep_ram ram, off_t size, int dirfd, const char *name, int64_t deadline, struct fcm_error *err)
{
	auto_close int out = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400);

	if (out < 0)
		return fcm_fail_errno(err, "make the file '%s' of the saved machine", name);
	if (copy(ram, out, size, deadline, err) < 0) {
		unlinkat(dirfd, name, 0);
		return -1;
	}
	return 0;
}

/* ---- whose memory ---- */

/* By the names that the VMM sees, so through no link. -1 with errno. */
static int open_in_jail(int procfd, const char *path, struct stat *ret)
{
	struct open_how how = {.flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
		.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH};
	auto_close int root = openat(procfd, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	auto_close int fd = root < 0 ? -1 : (int)syscall(SYS_openat2, root, path + 1, &how, sizeof how);

	return fd < 0 || fstat(fd, ret) < 0 ? -1 : STEAL_FD(fd);
}

/* Is this line of /proc/PID/maps a piece of the file? *ret is where the file begins then. The device isn't compared: some file
 * systems have another one there than for stat(2). */
static bool is_piece(const char *line, const struct stat *file, off_t *ret)
{
	uint64_t start, offset, inode;

	if (sscanf(line, "%" SCNx64 "-%*x %*s %" SCNx64 " %*s %" SCNu64, &start, &offset, &inode) != 3 ||
		inode != file->st_ino || offset > start || strstr(line, VMM_SAVED VMM_MEMORY) == NULL)
		return false;
	*ret = (off_t)(start - offset);
	return true;
}

/* Where it has the file mapped. Pieces of it may have been mapped anew (daemon/shim/preload.c): any that is left says where the
 * whole begins. 1, or 0 when there is none. */
static int mapped_at(int procfd, const struct stat *file, off_t *ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf maps = {0};
	char *save = NULL;

	if (file_read(procfd, "maps", MAPS_MAX, &maps, err) < 0)
		return -1;
	for (char *line = strtok_r(maps.p, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (is_piece(line, file, ret))
			return 1;
	return 0;
}

/* What it has mapped of the machine that it began with: pages that others have, too, and its own. */
static int find_mapped(int procfd, struct keep_ram *ret, struct stat *st, struct fcm_error *err)
{
	auto_close int saved = open_in_jail(procfd, VMM_SAVED VMM_MEMORY, st);

	int found = saved < 0 ? 0 : mapped_at(procfd, st, &ret->base, err);
	if (found < 0)
		return -1;
	ret->fd = found ? openat(procfd, "mem", O_RDONLY | O_CLOEXEC) : -1;
	if (found && ret->fd < 0 && errno != EACCES && errno != EPERM)
		return fcm_fail_errno(err, "open the VMM's memory");
	return ret->fd < 0 ? fcm_fail(err, FCM_NOT_FOUND, "the VMM has its memory in no file") : 0;
}

static int find_ram(int procfd, struct keep_ram *ret, struct stat *st, struct fcm_error *err)
{
	*ret = (struct keep_ram){.fd = open_in_jail(procfd, VMM_RAM, st)};
	if (ret->fd < 0 && errno == ENOENT)
		return find_mapped(procfd, ret, st, err);
	return ret->fd < 0 ? fcm_fail_errno(err, "open the VMM's memory") : 0;
}

int keep_find_ram(
	const struct proc_id *process, unsigned mem_mib, struct keep_ram *ret, struct fcm_error *err)
{
	auto_close int procfd = proc_dir(process, err);
	struct stat st;

	ret->fd = -1;
	if (procfd < 0)
		return -1;
	if (find_ram(procfd, ret, &st, err) < 0) {
		err->code = err->code == FCM_NOT_FOUND ? FCM_NOT_FOUND : FCM_VMM;
		return -1;
	}
	if (S_ISREG(st.st_mode) && st.st_size == (off_t)mem_mib << 20)
		return 0;
	fcm_closep(&ret->fd);
	return fcm_fail(err, FCM_VMM, "the VMM's memory is no file of %u MiB", mem_mib);
}
