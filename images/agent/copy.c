#include "images/agent/copy.h"

#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <string.h>

#include "common/core/fileio.h"
#include "common/core/kv.h"
#include "common/core/tree.h"

static int start(
	struct execs *x, uint32_t number, const char *verb, const void *kv, size_t n, struct fcm_error *err)
{
	const char *path = kv_get(kv, n, "path");
	_cleanup_(strv_done) struct strv argv = {0};
	bool put = strcmp(verb, "put") == 0;

	if (path == NULL || path[0] != '/' || strlen(path) >= PATH_MAX)
		return fcm_fail_field(err, FCM_INVALID, "path",
			"path: it begins with / and has at most %d bytes", PATH_MAX - 1);
	/* wherever the guest's root has put our file */
	strv_add(&argv, "/proc/self/exe");
	strv_add(&argv, COPY_COMMAND);
	strv_add(&argv, verb);
	strv_add(&argv, path);
	if (put && kv_i64(kv, n, "place", 0, 1, 0) == 1)
		strv_add(&argv, "place");
	return exec_own(x, number, &argv, put, err);
}

int copy_get(struct execs *x, uint32_t number, const void *kv, size_t n, struct fcm_error *err)
{
	return start(x, number, "get", kv, n, err);
}

int copy_put(struct execs *x, uint32_t number, const void *kv, size_t n, struct fcm_error *err)
{
	return start(x, number, "put", kv, n, err);
}

static void say(int fd, const struct buf *kv)
{
	(void)!fd_write_all(fd, kv->p, kv->n); /* who isn't there needn't hear it */
}

static void say_error(const struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf kv = {0};

	kv_add(&kv, "error", err->msg);
	kv_add(&kv, "code", fcm_code_info(err->code)->wire);
	if (err->field[0])
		kv_add(&kv, "field", err->field);
	if (err->hint[0])
		kv_add(&kv, "hint", err->hint);
	say(STDERR_FILENO, &kv);
}

static void say_count(const struct tree_count *count)
{
	_cleanup_(buf_done) struct buf kv = {0};

	kv_addf(&kv, "entries", "%" PRIu64, count->entries);
	kv_addf(&kv, "bytes", "%" PRIu64, count->bytes);
	say(STDOUT_FILENO, &kv);
}

/* Who closes the stream sends us SIGHUP, and ends our stdin or stdout: that is enough to hear, and time to clean up. */
int copy_run(int argc, char *argv[])
{
	bool put = strcmp(argv[2], "put") == 0;
	unsigned flags = TREE_OWNERS | TREE_SETID | TREE_DEVICES | (argc > 4 ? TREE_PLACE : 0);
	struct tree_count count;
	struct fcm_error err;

	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	int r = put ? tree_unpack(STDIN_FILENO, argv[3], flags, &count, &err)
		    : tree_pack(STDOUT_FILENO, argv[3], flags, &count, &err);
	if (r < 0)
		say_error(&err);
	else if (put)
		say_count(&count);
	return r < 0;
}
