#include "images/agent/files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "common/core/kv.h"

enum { PATH_BYTES = 512 };

bool files_path_valid(const char *path)
{
	if (path == NULL || path[0] != '/' || strlen(path) >= PATH_BYTES)
		return false;
	for (const char *s = path; s; s = strchr(s, '/')) {
		size_t n = strcspn(++s, "/");
		if (n == 0 || n > NAME_MAX - 16 || (n <= 2 && strspn(s, ".") >= n))
			return false;
	}
	return true;
}

static int make_parents(const char *path, struct fcm_error *err)
{
	char dir[PATH_BYTES];

	(void)fcm_copy(dir, sizeof dir, path);
	for (char *s = dir + 1; (s = strchr(s, '/')); *s++ = '/') {
		*s = '\0';
		if (mkdir(dir, 0755) < 0 && errno != EEXIST)
			return fcm_fail_errno(err, "mkdir %s", dir);
	}
	return 0;
}

int files_write(const void *p, size_t n, struct fcm_error *err)
{
	const char *path = kv_get(p, n, "path"), *mode_text = kv_get(p, n, "mode");
	int64_t uid = kv_i64(p, n, "uid", 0, INT32_MAX, 0), gid = kv_i64(p, n, "gid", 0, INT32_MAX, 0);
	char *end = NULL;
	unsigned long mode = mode_text ? strtoul(mode_text, &end, 8) : 0644;
	size_t size;
	const void *data = kv_raw(p, n, &size);

	if (!files_path_valid(path))
		return fcm_fail_field(err, FCM_INVALID, "path", "path: not an absolute path to a file");
	if ((mode_text && (end == mode_text || *end)) || mode > 07777)
		return fcm_fail_field(err, FCM_INVALID, "mode", "mode: not an octal number up to 7777");
	if (data == NULL)
		return fcm_fail(err, FCM_INVALID, "no contents behind the arguments");
	if (make_parents(path, err) < 0 ||
		file_replace(AT_FDCWD, path, (mode_t)mode & 0777, data, size, err) < 0)
		return -1;
	/* In this order: a change of the owner clears the setuid bit. Nothing here follows a link. */
	if (lchown(path, (uid_t)uid, (gid_t)gid) < 0 || chmod(path, (mode_t)mode) < 0)
		return fcm_fail_errno(err, "owner and mode of %s", path);
	return 0;
}
