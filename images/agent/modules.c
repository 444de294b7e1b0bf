#include "images/agent/modules.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/core/fileio.h"

#define MODULES "/modules"

int modules_open(void)
{
	return open(MODULES, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void load(int dir, const char *name)
{
	auto_close int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
		fprintf(stderr, "fcm-agent: module %s: %s\n", name, strerror(errno));
	unlinkat(dir, name, 0);
}

void modules_load(int dir, const char *list)
{
	struct fcm_error err;
	_cleanup_(buf_done) struct buf order = {0};
	char *state = NULL;

	if (dir < 0 || file_read(dir, list, 65536, &order, &err) < 0)
		return;
	for (char *name = strtok_r(order.p, "\n", &state); name; name = strtok_r(NULL, "\n", &state))
		load(dir, name);
	unlinkat(dir, list, 0);
}
