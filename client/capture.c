#include "client/capture.h"

#include <errno.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/core/fileio.h"

extern char **environ;

/* A file in memory instead of a pipe: nobody waits for anybody. */
static int memory_with(const char *text, struct fcm_error *err)
{
	auto_close int fd = memfd_create("capture", MFD_CLOEXEC);

	if (fd < 0 || fd_write_all(fd, text, strlen(text)) < 0 || lseek(fd, 0, SEEK_SET) < 0)
		return fcm_fail_errno(err, "memory for another program");
	return STEAL_FD(fd);
}

static int run(const char *const argv[], int in, int out, int *ret_status, struct fcm_error *err)
{
	posix_spawn_file_actions_t actions;
	pid_t pid;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	errno = posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (errno)
		return fcm_fail_errno(err, "run %s", argv[0]);
	while (waitpid(pid, ret_status, 0) < 0)
		if (errno != EINTR)
			return fcm_fail_errno(err, "wait for %s", argv[0]);
	return 0;
}

int capture(const char *const argv[], const char *input, size_t max, struct buf *out, int *ret_status,
	struct fcm_error *err)
{
	auto_free char *text = xalloc(max + 1);
	auto_close int stdin_fd = memory_with(input, err);
	auto_close int stdout_fd = stdin_fd < 0 ? -1 : memory_with("", err);

	if (stdout_fd < 0 || run(argv, stdin_fd, stdout_fd, ret_status, err) < 0)
		return -1;
	ssize_t n = pread(stdout_fd, text, max, 0);
	if (n < 0)
		return fcm_fail_errno(err, "read the answer of %s", argv[0]);
	buf_add(out, text, (size_t)n);
	return 0;
}
