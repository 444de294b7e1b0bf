/*
 * proc_run(): one program to its end, with bounded output and a deadline.
 *
 * Its standard input is a memfd that holds all of `input`: nothing to feed, so neither a deadlock nor a
 * SIGPIPE can come of a program that doesn't read. Output is read until the program itself has ended, not
 * until the pipe closes: a grandchild that keeps the pipe open holds nobody up.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "daemon/proc/proc.h"

enum {
	TAIL = 512, /* bytes of output that are kept for the message, whatever output_max says */
	DRAIN_MAX = 1 << 20,
	OUTPUT_DEFAULT = 64 << 10,
};

struct output {
	struct buf kept, tail;
	size_t max;
};

static int make_input(const struct proc_run *run, struct fcm_error *err)
{
	auto_close int fd = memfd_create("input", MFD_CLOEXEC);

	if (fd < 0 || fd_write_all(fd, run->input, run->input_n) < 0 || lseek(fd, 0, SEEK_SET) < 0)
		return fcm_fail_errno(err, "input of %s", run->argv[0]);
	return STEAL_FD(fd);
}

/* Read what is there. False at the end of the pipe. */
static bool take(int fd, struct output *out)
{
	char chunk[8192];
	ssize_t n = read(fd, chunk, sizeof chunk);

	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR);
	buf_add(&out->kept, chunk, MIN((size_t)n, out->max - out->kept.n));
	buf_add(&out->tail, chunk, (size_t)n);
	if (out->tail.n > TAIL)
		buf_drop(&out->tail, out->tail.n - TAIL);
	return true;
}

/* What is still in the pipe after the end of the program. */
static void drain(int fd, struct output *out)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	for (size_t n = 0; n < DRAIN_MAX && poll(&p, 1, 0) > 0 && (p.revents & POLLIN); n += 4096)
		if (!take(fd, out))
			break;
}

/* True when the program ended before the deadline. */
static bool follow(int pidfd, int fd, int64_t deadline, struct output *out)
{
	struct pollfd p[2] = {{.fd = pidfd, .events = POLLIN}, {.fd = fd, .events = POLLIN}};

	while (p[0].revents == 0) {
		int left = clock_left(deadline);
		if (left == 0)
			return false;
		if (poll(p, 2, left) < 0)
			continue;
		if (p[1].revents && !take(fd, out))
			p[1].fd = -1;
	}
	drain(fd, out);
	return true;
}

/* The last line that isn't empty, made printable. */
static const char *last_line(struct buf *tail)
{
	if (tail->n == 0)
		return "";
	tail->n = fcm_printable(tail->p, tail->n);
	while (tail->n && strchr("\n\t ", tail->p[tail->n - 1]))
		tail->n--;
	tail->p[tail->n] = '\0';
	char *nl = strrchr(tail->p, '\n');
	return nl ? nl + 1 : tail->p;
}

static int check_end(const char *program, const siginfo_t *info, struct buf *tail, struct fcm_error *err)
{
	if (info->si_code == CLD_EXITED && info->si_status == 0)
		return 0;
	const char *line = last_line(tail), *sep = *line ? ": " : "";
	if (info->si_code == CLD_EXITED)
		return fcm_fail(
			err, FCM_HOST, "%s failed with status %d%s%s", program, info->si_status, sep, line);
	return fcm_fail(err, FCM_HOST, "%s was killed by signal %d%s%s", program, info->si_status, sep, line);
}

/* The command as the other user: setpriv(1) drops the groups too and keeps set-uid programs from giving back
 * what it took. */
static void build_argv(const struct proc_run *run, struct strv *ret)
{
	if (run->uid) {
		strv_add(ret, "/usr/bin/setpriv");
		strv_addf(ret, "--reuid=%u", (unsigned)run->uid);
		strv_addf(ret, "--regid=%u", (unsigned)run->gid);
		strv_add(ret, "--clear-groups");
		strv_add(ret, "--no-new-privs");
		strv_add(ret, "--");
	}
	for (size_t i = 0; run->argv[i]; i++)
		strv_add(ret, run->argv[i]);
}

static int run_with(const struct proc_run *run, struct output *out, struct fcm_error *err)
{
	int ends[2];
	auto_close int input = run->input ? make_input(run, err) : -1;
	if (run->input && input < 0)
		return -1;
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return fcm_fail_errno(err, "pipe");
	auto_close int from = ends[0];
	/* The writing end is the program's: a non-blocking stdout surprises most of them. */
	if (fcntl(ends[1], F_SETFL, 0) < 0) {
		close(ends[1]);
		return fcm_fail_errno(err, "pipe");
	}

	_cleanup_(strv_done) struct strv argv = {0};
	build_argv(run, &argv);
	struct proc_fd fds[] = {{ends[1], 1}, {ends[1], 2}, {input, 0}};
	pid_t pid;
	auto_close int pidfd = proc_spawn(argv.v, run->env, fds, input < 0 ? 2 : 3, &pid, err);
	close(ends[1]);
	if (pidfd < 0)
		return -1;

	bool ended = follow(pidfd, from, run->deadline, out);
	/* Its own session: the group has its number, and the number stays taken until it is reaped below. */
	kill(-pid, SIGKILL);
	siginfo_t info = {0};
	while (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED) < 0 && errno == EINTR)
		;
	const char *slash = strrchr(run->argv[0], '/'), *program = slash ? slash + 1 : run->argv[0];
	if (!ended)
		return fcm_fail(err, FCM_TIMEOUT, "%s did not end in time and was killed", program);
	return check_end(program, &info, &out->tail, err);
}

int proc_run(const struct proc_run *run, struct buf *output, struct fcm_error *err)
{
	struct proc_run r = *run;
	struct output out = {.max = !output ? 0 : run->output_max ? run->output_max : OUTPUT_DEFAULT};

	if (r.deadline == 0)
		r.deadline = FCM_FOREVER;
	int rc = run_with(&r, &out, err);
	if (rc == 0 && output) {
		buf_add(output, out.kept.p, out.kept.n);
		if (output->n == 0) {
			buf_add(output, "", 1);
			output->n = 0;
		}
	}
	buf_done(&out.kept);
	buf_done(&out.tail);
	return rc;
}
