#include "daemon/vmm/keep.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/core/clock.h"
#include "common/core/sparse.h"
#include "daemon/vmm/vmm.h"

enum { WINDOW = 16 << 20 }; /* copied between two looks at the deadline */

/* Where the next bytes begin that aren't a hole, from `at` on; `size` where there are none. -1 with errno. */
static off_t next_data(int in, off_t at, off_t size)
{
	off_t data = lseek(in, at, SEEK_DATA);

	return data < 0 && errno == ENXIO ? size : MIN(data, size);
}

static int copy(int in, int out, off_t size, int64_t deadline, struct fcm_error *err)
{
	off_t from = 0, to = 0;

	if (ftruncate(out, size) < 0)
		return fcm_fail_errno(err, "copy the saved machine");
	while ((from = next_data(in, to, size)) >= 0 && from < size) {
		if (clock_left(deadline) == 0)
			return fcm_fail(err, FCM_TIMEOUT, "copying the saved machine takes too long");
		to = lseek(in, from, SEEK_HOLE);
		to = MIN(MIN(to, size), from + WINDOW);
		if (to < from || sparse_copy_range(in, out, from, to) < 0)
			return fcm_fail_errno(err, "copy the saved machine");
	}
	return from < 0 || fchmod(out, 0444) < 0 ? fcm_fail_errno(err, "copy the saved machine") : 0;
}

int keep_copy(int in, off_t size, int dirfd, const char *name, int64_t deadline, struct fcm_error *err)
{
	auto_close int out = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400);

	if (out < 0)
		return fcm_fail_errno(err, "make the file '%s' of the saved machine", name);
	if (copy(in, out, size, deadline, err) < 0) {
		unlinkat(dirfd, name, 0);
		return -1;
	}
	return 0;
}

/* By the names that the VMM sees, so through no link. */
static int open_in_jail(int proc_dirfd, const char *path)
{
	struct open_how how = {.flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
		.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH};
	auto_close int root = openat(proc_dirfd, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);

	return root < 0 ? -1 : (int)syscall(SYS_openat2, root, path, &how, sizeof how);
}

int keep_open_ram(const struct proc_id *process, unsigned mem_mib, struct fcm_error *err)
{
	auto_close int dirfd = proc_dir(process, err);
	struct stat st;

	if (dirfd < 0)
		return -1;
	auto_close int fd = open_in_jail(dirfd, &VMM_RAM[1]);
	if (fd < 0 && errno == ENOENT)
		return fcm_fail(err, FCM_NOT_FOUND, "the VMM has its memory in no file");
	if (fd < 0 || fstat(fd, &st) < 0) {
		fcm_fail_errno(err, "open the VMM's memory");
		err->code = FCM_VMM;
		return -1;
	}
	if (!S_ISREG(st.st_mode) || st.st_size != (off_t)mem_mib << 20)
		return fcm_fail(err, FCM_VMM, "the VMM's memory is no file of %u MiB", mem_mib);
	return STEAL_FD(fd);
}
