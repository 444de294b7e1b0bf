#include "client/secret.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int secret_token(const char *text, size_t n, const char *from, char **ret, struct fcm_error *err)
{
	while (n && isspace((unsigned char)text[n - 1]))
		n--;
	while (n && isspace((unsigned char)*text))
		text++, n--;
	if (n == 0)
		return fcm_fail(err, FCM_NO_TOKEN, "%s holds no token", from);
	for (size_t i = 0; i < n; i++)
		if (!isgraph((unsigned char)text[i]))
			return fcm_fail(err, FCM_NO_TOKEN, "%s holds something that isn't a token", from);
	*ret = xprintf("%.*s", (int)n, text);
	return 0;
}

int secret_read(const char *path, size_t max, struct buf *ret, struct fcm_error *err)
{
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
		return fcm_fail(err, FCM_NOT_FOUND, "there is no %s", path);
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		fcm_fail(err, FCM_FORBIDDEN, "no token can be read from %s: %s", path,
			fd < 0 ? strerror(errno) : "not a file");
		return fcm_hint(err, "name a file of yours that holds one");
	}
	if (st.st_mode & 077) {
		fcm_fail(
			err, FCM_FORBIDDEN, "%s can be read by others (mode %04o)", path, st.st_mode & 07777);
		return fcm_hint(err, "chmod 600 %s", path);
	}
	auto_free char *text = xalloc(max);
	ssize_t n = read(fd, text, max);
	if (n < 0)
		return fcm_fail_errno(err, "read %s", path);
	buf_add(ret, text, (size_t)n);
	return 0;
}
