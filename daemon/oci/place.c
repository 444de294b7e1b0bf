#include "daemon/oci/place.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "daemon/oci/oci.h"

int place_create(const char *name, struct fcm_error *err)
{
	int fd = openat(OCI_DIR, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);

	return fd < 0 ? fcm_fail_errno(err, "create %s", name) : fd;
}

int place_save(const char *name, const struct buf *b, struct fcm_error *err)
{
	auto_close int fd = place_create(name, err);

	if (fd < 0)
		return -1;
	return fd_write_all(fd, b->p, b->n) < 0 ? fcm_fail_errno(err, "write %s", name) : 0;
}

int place_remove(const char *name, struct fcm_error *err)
{
	return unlinkat(OCI_DIR, name, 0) < 0 ? fcm_fail_errno(err, "remove %s", name) : 0;
}

bool place_has_layer(const char *name)
{
	struct stat st;

	return fstatat(OCI_LAYERS, name, &st, AT_SYMLINK_NOFOLLOW) == 0 ||
	       fstatat(OCI_DIR, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}
