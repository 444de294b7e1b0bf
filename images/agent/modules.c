#include "images/agent/modules.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/core/fileio.h"

#define MODULES "/modules"

static void load(const char *name)
{
	char path[300];

	if (!fcm_format(path, sizeof path, MODULES "/%s", name))
		return;
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
		fprintf(stderr, "fcm-agent: module %s: %s\n", name, strerror(errno));
	unlink(path);
}

void modules_load(const char *list)
{
	struct fcm_error err;
	_cleanup_(buf_done) struct buf order = {0};
	char *state = NULL, path[300];

	if (!fcm_format(path, sizeof path, MODULES "/%s", list) ||
		file_read(AT_FDCWD, path, 65536, &order, &err) < 0) {
		fprintf(stderr, "fcm-agent: %s\n", err.msg);
		return;
	}
	for (char *name = strtok_r(order.p, "\n", &state); name; name = strtok_r(NULL, "\n", &state))
		load(name);
}
