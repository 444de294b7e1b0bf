#include "client/paths.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

char *path_self(void)
{
	char path[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);

	if (n <= 0)
		return xstrdup("fcm");
	path[n] = '\0';
	return xstrdup(path);
}

char *path_self_dir(void)
{
	char *path = path_self(), *slash = strrchr(path, '/');

	if (slash)
		*slash = '\0';
	return path;
}

char *path_find(const char *const *candidates)
{
	auto_free char *dir = path_self_dir();

	for (; *candidates; candidates++) {
		auto_free char *path = xprintf("%s%s%s", **candidates == '/' ? "" : dir,
			**candidates == '/' ? "" : "/", *candidates);
		if (access(path, X_OK) == 0)
			return STEAL(path);
	}
	return NULL;
}

char *path_daemon(void)
{
	static const char *const places[] = {
		"fcmd", "../sbin/fcmd", "../libexec/fcm/fcmd", "../lib/fcm/fcmd", "../daemon/fcmd", NULL};
	char *found = path_find(places);

	return found ? found : xstrdup("fcmd");
}

int path_open(const char *path, struct fcm_error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT)
		return fcm_fail(err, FCM_USAGE, "there is no '%.200s'", path);
	return fd < 0 ? fcm_fail_errno(err, "open '%.200s'", path) : fd;
}
