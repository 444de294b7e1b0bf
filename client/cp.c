/*
 * fcm cp: files between here and a VM, or between two, by the VMs' agents.
 *
 * Theory of operation. What moves is a tar archive (docs/API.md, files). One end of it is a process of its own, joined to us
 * by a pipe: it packs local files, unpacks into them (common/core/tree.h), or, between two VMs, reads from the first. We do
 * the other end, which is a request. Whatever ends us, be it SIGKILL, ends the pipe, and the process then takes away what is
 * half done; so it hears no signals. How it went comes by a second pipe.
 *
 * Both ends may fail, and usually one because of the other: an archive that ends early (FCM_UNAVAILABLE) and a pipe that
 * nobody reads any more (FCM_CANCELLED) are the echo, and the other's error is the reason.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/command.h"
#include "client/cp.h"
#include "client/ending.h"
#include "client/out.h"
#include "client/term.h"
#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/tar.h"
#include "common/core/tree.h"

enum {
	PROGRESS_STEP = 256 << 10,
	MEASURED_MAX = 200000, /* files that are looked at before the copy, to know how much it will be */
};

struct cp_options {
	bool archive;
};

static const struct field cp_fields[] = {
	F(struct cp_options, archive, FIELD_BOOL),
	FIELD_END,
};

static const struct option_row options[] = {
	{"archive", 'a', NULL, NULL, "keep owner and group (here: as root), and setuid bits"},
	{0},
};

/* One of the two arguments: a path here, one in a VM, or "-". */
struct place {
	char *vm; /* or NULL */
	char *path;
	bool std;
};

struct copy {
	struct cli *cli;
	struct place from, to;
	unsigned keep;		      /* flags of tree.h */
	int pipe;		      /* our end of it, or stdin or stdout */
	bool silent;		      /* it is the other process that shows the progress */
	bool checked;		      /* what comes has the name that was asked for, or it isn't unpacked */
	struct buf head;	      /* kept back until then */
	uint64_t moved, shown, total; /* total: about, 0 when it isn't known */
	char *what;		      /* of the line of progress */
	struct fcm_error err;	      /* of the pipe */
};

/* What the other process says at its end; smaller than PIPE_BUF, so it is there whole or not at all. */
struct report {
	bool failed;
	struct tree_count count;
	struct fcm_error err;
};

struct process {
	pid_t pid;
	int report;
};

/* ---- the arguments ---- */

static void place_done(struct place *p)
{
	free(STEAL(p->vm));
	free(STEAL(p->path));
}

/* A local path with a colon begins with "/" or ".", as with docker. In a VM a path begins at "/". */
static int parse(const char *arg, struct place *ret, struct fcm_error *err)
{
	const char *colon = arg[0] == '/' || arg[0] == '.' ? NULL : strchr(arg, ':');

	*ret = (struct place){.std = strcmp(arg, "-") == 0};
	if (colon == arg)
		return fcm_fail(err, FCM_USAGE, "cp: '%s' names no VM before its colon", arg);
	if (colon == NULL) {
		ret->path = xstrdup(arg);
		return 0;
	}
	ret->vm = xprintf("%.*s", (int)(colon - arg), arg);
	ret->path = xprintf("%s%s", colon[1] == '/' ? "" : "/", colon + 1);
	return 0;
}

/* Would the copy be a part of what is copied? */
static bool is_inside(const struct place *from, const struct place *to)
{
	size_t n = strlen(from->path);

	while (n > 0 && from->path[n - 1] == '/')
		n--;
	return strncmp(to->path, from->path, n) == 0 && to->path[n] == '/' && to->path[n + 1];
}

static int check(const struct copy *c, struct fcm_error *err)
{
	const struct place *from = &c->from, *to = &c->to;

	if (from->vm == NULL && to->vm == NULL) {
		fcm_fail(err, FCM_USAGE, "cp: neither '%s' nor '%s' is in a VM", from->path, to->path);
		return fcm_hint(err, "a path in a VM is VM:PATH; between local files use cp");
	}
	if (from->std && isatty(STDIN_FILENO))
		return fcm_fail(err, FCM_USAGE, "cp: stdin is a terminal, and - reads a tar archive");
	if (to->std && isatty(STDOUT_FILENO))
		return fcm_fail(err, FCM_USAGE, "cp: stdout is a terminal, and - writes a tar archive");
	if (from->vm && to->vm && strcmp(from->vm, to->vm) == 0 && is_inside(from, to))
		return fcm_fail(err, FCM_USAGE, "cp: '%s' is inside '%s'", to->path, from->path);
	return 0;
}

/* ---- how much it will be ---- */

static struct {
	uint64_t bytes;
	unsigned files;
} measured;

/* As tar packs it: a header, for most a second one with exact times, and the data without holes. */
static int measure_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)path, (void)type, (void)ftw;
	measured.bytes += 2 * TAR_BLOCK;
	if (S_ISREG(st->st_mode))
		measured.bytes += (uint64_t)MIN(st->st_size, st->st_blocks * 512);
	return ++measured.files > MEASURED_MAX;
}

/* Bytes of the archive of local files, about; 0 when nobody looks, or there are too many. */
static uint64_t measure(const char *path)
{
	if (path == NULL || !term_has_progress() || nftw(path, measure_one, 32, FTW_PHYS) != 0)
		return 0;
	return measured.bytes;
}

/* ---- the other process ---- */

/* The process: `fd` is its end of the pipe. */
static _Noreturn void run_process(
	const struct copy *c, int (*work)(const struct copy *c, int fd, struct report *r), int fd, int report)
{
	struct report r = {.failed = false};

	r.failed = work(c, fd, &r) < 0;
	_exit(fd_write_all(report, &r, sizeof r) < 0);
}

/* Start it with the end of a pipe: the one to write to when it `writes`. Ours is c->pipe. */
static int start(struct copy *c, bool writes, int (*work)(const struct copy *c, int fd, struct report *r),
	struct process *ret, struct fcm_error *err)
{
	int data[2], said[2];

	if (pipe2(data, O_CLOEXEC) < 0)
		return fcm_fail_errno(err, "make a pipe");
	auto_close int ours = data[!writes], theirs = data[writes];
	if (pipe2(said, O_CLOEXEC) < 0)
		return fcm_fail_errno(err, "make a pipe");
	auto_close int report = said[0], report_out = said[1];
	pid_t pid = fork();
	if (pid < 0)
		return fcm_fail_errno(err, "start a process");
	if (pid == 0) {
		fcm_closep(&ours);
		run_process(c, work, theirs, report_out);
	}
	*ret = (struct process){.pid = pid, .report = STEAL_FD(report)};
	c->pipe = STEAL_FD(ours);
	return 0;
}

/* Close the pipe, and hear how it went. */
static void end(struct copy *c, const struct process *p, struct report *ret)
{
	close(c->pipe);
	if (fd_read_all(p->report, ret, sizeof *ret) < 0) {
		ret->failed = true;
		fcm_fail(&ret->err, FCM_INTERNAL, "the process that reads and writes files was killed");
		fcm_hint(&ret->err, "%s", "");
	}
	close(p->report);
	while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR)
		;
}

static int pack(const struct copy *c, int fd, struct report *r)
{
	ending_instead(SIG_IGN);
	return tree_pack(fd, c->from.path, c->keep, &r->count, &r->err);
}

static int unpack(const struct copy *c, int fd, struct report *r)
{
	ending_instead(SIG_IGN);
	return tree_unpack(fd, c->to.path, c->keep | TREE_PLACE, &r->count, &r->err);
}

/* ---- requests ---- */

static char *route(const struct place *p, bool place)
{
	auto_free char *path = httpc_escape(p->path);
	auto_free char *rest = xprintf("/files?path=%s%s", path, place ? "&place=1" : "");

	return api_vm_path(p->vm, rest);
}

static void count(struct copy *c, size_t n)
{
	c->moved += n;
	if (c->silent || c->moved - c->shown < PROGRESS_STEP)
		return;
	c->shown = c->moved;
	out_progress(c->what, c->moved, c->total);
}

static int pass_on(struct copy *c, const char *p, size_t n)
{
	if (fd_write_all(c->pipe, p, n) < 0)
		return errno == EPIPE ? fcm_fail(&c->err, FCM_CANCELLED, "nobody reads what is copied")
				      : fcm_fail_errno(&c->err, "write what is copied");
	count(c, n);
	return 0;
}

/* The agent, which may be the guest's own, is asked for one name and must not choose another (as scp's servers did,
 * CVE-2019-6111). Behind its first entry the archive has no other: who unpacks it sees to that. */
static int pass_head(struct copy *c)
{
	c->checked = true;
	return tree_check_name(c->head.p, c->head.n, c->from.path, &c->err) < 0
		       ? -1
		       : pass_on(c, c->head.p, c->head.n);
}

static int take_piece(void *arg, const char *p, size_t n)
{
	struct copy *c = arg;

	if (c->checked)
		return pass_on(c, p, n);
	buf_add(&c->head, p, n);
	return c->head.n < TREE_HEAD ? 0 : pass_head(c);
}

static ssize_t give_piece(void *arg, char *p, size_t n)
{
	struct copy *c = arg;
	ssize_t got;

	while ((got = read(c->pipe, p, n)) < 0 && errno == EINTR)
		;
	if (got < 0)
		return fcm_fail_errno(&c->err, "read what is copied");
	count(c, (size_t)got);
	return got;
}

/* Names and reasons of a guest, which may be part of it, stay on the message's one line. */
static void make_one_line(char *s)
{
	for (; *s; s++)
		if (iscntrl((unsigned char)*s))
			*s = '?';
}

static int download(struct copy *c, struct api *api, struct fcm_error *err)
{
	auto_free char *path = route(&c->from, false);

	if (!c->silent)
		term_progress("%s", c->what);
	int r = api_stream(api, path, take_piece, c, err);
	if (r == 0 && !c->checked && c->err.code == FCM_OK)
		(void)pass_head(c);
	term_progress_end();
	buf_done(&c->head);
	if (r == 0 && c->err.code != FCM_OK) {
		*err = c->err;
		make_one_line(err->msg);
		return -1;
	}
	return r;
}

/* What is said at the end, of what came: `answer` has its numbers. */
static int upload(struct copy *c, struct tree_count *ret, struct fcm_error *err)
{
	auto_free char *path = route(&c->to, !c->from.std);
	auto_json field_json *answer = NULL;

	term_progress("%s", c->what);
	int r = api_send(c->cli->api, "PUT", path, give_piece, c, &answer, err);
	term_progress_end();
	if (r < 0 && c->err.code != FCM_OK)
		*err = c->err;
	if (r < 0)
		return -1;
	ret->entries = (uint64_t)fj_get_int(answer, "entries", 0);
	ret->bytes = (uint64_t)fj_get_int(answer, "bytes", 0);
	return 0;
}

/* The other process, of a copy between two VMs: its request is a connection of its own. */
static int fetch(const struct copy *c, int fd, struct report *r)
{
	struct copy own = {.cli = c->cli, .from = c->from, .pipe = fd, .silent = true};
	struct api *api = api_new(c->cli->globals.url, c->cli->globals.context, c->cli->globals.token_file);

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	int rc = download(&own, api, &r->err);
	api_free(api);
	return rc;
}

/* ---- the four ways ---- */

/* How much an error says: those at the beginning are but the echo of another. */
static int weight(const struct fcm_error *err)
{
	if (err->code == FCM_CANCELLED)
		return 0;
	return err->code == FCM_BAD_REQUEST ? 1 : err->code == FCM_UNAVAILABLE ? 2 : 3;
}

/* Of our request's error, if it has one, and the process's the reason. The usual hints are about the daemon's host. */
static int decide(const struct copy *c, int ours, const struct report *r, struct fcm_error *err)
{
	bool local = c->from.vm == NULL || c->to.vm == NULL;

	if (!r->failed || (ours < 0 && weight(err) >= weight(&r->err)))
		return ours;
	*err = r->err;
	make_one_line(err->msg);
	if (local && (err->code == FCM_HOST || err->code == FCM_NO_SPACE))
		fcm_hint(err, "%s", err->code == FCM_HOST ? "" : "make room there");
	return -1;
}

static int from_vm(struct copy *c, struct tree_count *ret, struct fcm_error *err)
{
	struct process p;
	struct report r;

	if (c->to.std) {
		c->pipe = STDOUT_FILENO;
		c->checked = true; /* nothing is unpacked */
		return download(c, c->cli->api, err);
	}
	if (start(c, false, unpack, &p, err) < 0)
		return -1;
	int rc = download(c, c->cli->api, err);
	end(c, &p, &r);
	*ret = r.count;
	return decide(c, rc, &r, err);
}

static int to_vm(struct copy *c, struct tree_count *ret, struct fcm_error *err)
{
	struct process p;
	struct report r;

	if (c->from.std) {
		c->pipe = STDIN_FILENO;
		return upload(c, ret, err);
	}
	if (c->from.vm == NULL)
		c->total = measure(c->from.path);
	if (start(c, true, c->from.vm ? fetch : pack, &p, err) < 0)
		return -1;
	int rc = upload(c, ret, err);
	end(c, &p, &r);
	ret->skipped = r.count.skipped;
	return decide(c, rc, &r, err);
}

static void say_end(const struct copy *c, const struct tree_count *n, int64_t ms)
{
	_cleanup_(buf_done) struct buf size = {0};

	if (n->skipped)
		fprintf(stderr, "fcm: %" PRIu64 " devices, fifos or sockets were left out\n", n->skipped);
	if (c->to.std || c->cli->globals.quiet)
		return;
	out_bytes(&size, (int64_t)n->bytes);
	out_hint("copied %" PRIu64 " %s, %s in %.1f s", n->entries, n->entries == 1 ? "file" : "files",
		size.p, (double)ms / 1000);
}

int cp_pack(const char *dir, struct packing *ret, struct fcm_error *err)
{
	_cleanup_(place_done) struct place from = {.path = xprintf("%s/.", dir)};
	struct copy c = {.from = from, .keep = TREE_OWNERS | TREE_SETID | TREE_DEVICES};
	struct process p;

	signal(SIGPIPE, SIG_IGN);
	if (start(&c, true, pack, &p, err) < 0)
		return -1;
	*ret = (struct packing){.fd = c.pipe, .pid = p.pid, .report = p.report};
	return 0;
}

int cp_pack_end(struct packing *packing, struct fcm_error *err)
{
	const struct process p = {.pid = packing->pid, .report = packing->report};
	struct copy c = {.pipe = packing->fd};
	struct report r;

	end(&c, &p, &r);
	if (!r.failed)
		return 0;
	*err = r.err;
	make_one_line(err->msg);
	return -1;
}

int cp_directory(struct cli *cli, const char *dir, const char *vm, const char *path, struct fcm_error *err)
{
	_cleanup_(place_done) struct place from = {.path = xprintf("%s/.", dir)},
					   to = {.vm = xstrdup(vm), .path = xstrdup(path)};
	auto_free char *what = xprintf("copy %s", dir);
	struct copy c = {.cli = cli, .from = from, .to = to, .what = what};
	struct tree_count n = {0};

	signal(SIGPIPE, SIG_IGN);
	return to_vm(&c, &n, err);
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	const struct cp_options *o = options_;
	_cleanup_(place_done) struct place from = {0}, to = {0};
	struct tree_count n = {0};
	int64_t begun = clock_ms();

	if (parse(cli->argv[0], &from, err) < 0 || parse(cli->argv[1], &to, err) < 0)
		return -1;
	auto_free char *what = xprintf("copy %s", cli->argv[0]);
	struct copy c = {.cli = cli, .from = from, .to = to, .what = what};
	if (check(&c, err) < 0)
		return -1;
	if (o->archive)
		c.keep = TREE_SETID | (to.vm || geteuid() == 0 ? TREE_OWNERS | TREE_DEVICES : 0);
	signal(SIGPIPE, SIG_IGN);
	if ((to.vm ? to_vm(&c, &n, err) : from_vm(&c, &n, err)) < 0)
		return -1;
	say_end(&c, &n, clock_ms() - begun);
	return 0;
}

const struct command cmd_cp = {
	.name = "cp",
	.args = "SRC DST",
	.summary = "copy files to, from and between VMs",
	.example = "fcm cp site web:/srv",
	.details = "One or both are VM:PATH; a local path with a colon begins with / or ./\n"
		   "  fcm cp site web:/srv          into /srv, if that is a directory; else as it\n"
		   "  fcm cp site/. web:/srv        what is in site\n"
		   "  fcm cp web:/etc/fstab .\n"
		   "  fcm cp db:/backup web:/srv\n"
		   "  tar c site | fcm cp - web:/srv; fcm cp web:/srv - | tar t\n"
		   "Modes, times, links and holes are kept. The owner is root in a VM and you\n"
		   "here, unless -a says otherwise; a tar archive from stdin says it itself.",
	.min_args = 2,
	.max_args = 2,
	.options = options,
	.fields = cp_fields,
	.size = sizeof(struct cp_options),
	.run = run,
};
