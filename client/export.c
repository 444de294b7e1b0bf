/*
 * A file comes under a name of its own beside its place and is renamed when it is whole. What ends us takes it away again.
 */
#include "client/export.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "client/ending.h"
#include "client/out.h"
#include "client/term.h"
#include "common/core/fileio.h"

enum { PROGRESS_STEP = 256 << 10 };

struct receiving {
	int fd;
	const char *what; /* of the line of progress */
	uint64_t moved, shown;
	struct fcm_error err;
};

static char *volatile partial; /* the name of its own, or NULL */

static void take_away(void)
{
	if (partial)
		unlink(partial);
}

static int take(void *arg, const char *p, size_t n)
{
	struct receiving *r = arg;

	if (fd_write_all(r->fd, p, n) < 0)
		return fcm_fail_errno(&r->err, "write what is exported");
	r->moved += n;
	if (r->moved - r->shown >= PROGRESS_STEP) {
		r->shown = r->moved;
		out_progress(r->what, r->moved, 0);
	}
	return 0;
}

static int receive(struct cli *cli, const struct exported *e, int fd, uint64_t *ret, struct fcm_error *err)
{
	auto_free char *what = xprintf("export %s", e->name);
	struct receiving r = {.fd = fd, .what = what};

	term_progress("%s", what);
	int rc = api_stream(cli->api, e->path, take, &r, err);
	term_progress_end();
	*ret = r.moved;
	if (r.err.code == FCM_OK)
		return rc;
	*err = r.err;
	return -1;
}

/* mkostemp(3) makes it ours alone; one without secrets is as open(2) would have made it. */
static int open_partial(const char *to, char *name, bool secret, struct fcm_error *err)
{
	mode_t mask = umask(0);

	umask(mask);
	ending_undo(take_away);
	int fd = mkostemp(name, O_CLOEXEC);
	if (fd < 0)
		return fcm_fail_errno(err, "make '%.200s'", to);
	partial = name;
	if (!secret)
		(void)fchmod(fd, 0666 & ~mask);
	return fd;
}

static int export_to(
	struct cli *cli, const struct exported *e, const char *to, uint64_t *ret, struct fcm_error *err)
{
	auto_free char *name = xprintf("%s.XXXXXX", to);
	auto_close int fd = open_partial(to, name, e->secret, err);
	int r = fd < 0 ? -1 : receive(cli, e, fd, ret, err);

	if (r == 0 && rename(name, to) < 0)
		r = fcm_fail_errno(err, "make '%.200s'", to);
	if (r < 0 && partial)
		unlink(name);
	partial = NULL;
	return r;
}

int export_path(struct cli *cli, const struct exported *e, const char *to, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf size = {0};
	uint64_t bytes = 0;

	if (to == NULL && isatty(STDOUT_FILENO)) {
		fcm_fail(err, FCM_USAGE, "%s: stdout is a terminal", e->command);
		return fcm_hint(err, "name a file: fcm %s -o FILE %s", e->command, e->name);
	}
	if (to == NULL || strcmp(to, "-") == 0)
		return receive(cli, e, STDOUT_FILENO, &bytes, err);
	if (export_to(cli, e, to, &bytes, err) < 0)
		return -1;
	out_bytes(&size, (int64_t)bytes);
	out_hint("%s  %s", to, size.p);
	return 0;
}

int image_export(struct cli *cli, const char *image, bool raw, const char *to, struct fcm_error *err)
{
	auto_free char *escaped = httpc_escape(image);
	auto_free char *path = xprintf("/v1/image/export?ref=%s%s", escaped, raw ? "&raw=1" : "");
	const struct exported e = {.command = "image export", .name = image, .path = path};

	return export_path(cli, &e, to, err);
}
