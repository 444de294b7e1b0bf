#include "daemon/vmm/fcsave.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "daemon/vmm/keep.h"
#include "daemon/vmm/vmm.h"

enum {
	STATE_MAX = 16 << 20, /* some 20 KiB with one CPU */
	FULL_BELOW = 1 << 20,
};

static const char *const names[] = {VMM_STATE, VMM_MEMORY};

int fcsave_clear(int run_dirfd, struct fcm_error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (unlinkat(run_dirfd, names[i], 0) < 0 && errno != ENOENT) {
			fcm_fail_errno(err, "remove the file '%s' of the VMM", names[i]);
			err->code = FCM_VMM;
			return -1;
		}
	return 0;
}

bool fcsave_full(int run_dirfd)
{
	struct statvfs st;

	return fstatvfs(run_dirfd, &st) == 0 && (uint64_t)st.f_bavail * st.f_frsize < FULL_BELOW;
}

/* Open what Firecracker wrote, of min to max bytes. It may still grow, so what counts is *ret_size. */
static int open_written(
	int run_dirfd, const char *name, off_t min, off_t max, off_t *ret_size, struct fcm_error *err)
{
	auto_close int fd =
		openat(run_dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0) {
		fcm_fail_errno(err, "open the file '%s' that the VMM wrote", name);
		err->code = FCM_VMM;
		return -1;
	}
	if (!S_ISREG(st.st_mode) || st.st_size < min || st.st_size > max)
		return fcm_fail(
			err, FCM_VMM, "the file '%s' that the VMM wrote is none of its machine", name);
	*ret_size = st.st_size;
	return STEAL_FD(fd);
}

static int take(int run_dirfd, int dirfd, const char *name, off_t min, off_t max, int64_t deadline,
	struct fcm_error *err)
{
	off_t size = 0;
	auto_close int in = open_written(run_dirfd, name, min, max, &size, err);

	return in < 0 ? -1 : keep_copy((struct keep_ram){.fd = in}, size, dirfd, name, deadline, err);
}

int fcsave_take(int run_dirfd, int dirfd, unsigned mem_mib, int64_t deadline, struct fcm_error *err)
{
	off_t memory = (off_t)mem_mib << 20;
	struct stat st;

	if (fstat(dirfd, &st) < 0 || st.st_uid != geteuid() || st.st_mode & 077)
		return fcm_fail(err, FCM_INTERNAL, "the directory for a saved machine is not root's alone");
	if (take(run_dirfd, dirfd, VMM_STATE, 1, STATE_MAX, deadline, err) < 0)
		return -1;
	if (take(run_dirfd, dirfd, VMM_MEMORY, memory, memory, deadline, err) < 0) {
		unlinkat(dirfd, VMM_STATE, 0);
		return -1;
	}
	return 0;
}
