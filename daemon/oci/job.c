#include "daemon/oci/job.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/core/kv.h"
#include "daemon/proc/proc.h"

enum { LOOK_MS = 200, END_MS = 5000, TEXT_MAX = 400 };

/* A value of the child's, fit for people. */
static void text(const struct buf *packet, const char *key, char *ret, size_t size)
{
	const char *s = kv_get(packet->p, packet->n, key);

	(void)fcm_copy(ret, size, s ? s : "");
	fcm_make_printable(ret);
}

static int fail_as_told(const struct buf *packet, struct fcm_error *err)
{
	const char *code = kv_get(packet->p, packet->n, "code");
	char msg[TEXT_MAX], hint[sizeof err->hint];

	text(packet, "error", msg, sizeof msg);
	text(packet, "hint", hint, sizeof hint);
	fcm_fail(err, fcm_code_from_wire(code ? code : ""), "%s", msg);
	text(packet, "field", err->field, sizeof err->field);
	return hint[0] ? fcm_hint(err, "%s", hint) : -1;
}

static void hear(const struct oci_spec *spec, const struct buf *packet)
{
	char what[64], id[80], line[TEXT_MAX];

	if (kv_get(packet->p, packet->n, "progress") && spec->progress) {
		text(packet, "progress", what, sizeof what);
		text(packet, "id", id, sizeof id);
		spec->progress(spec->arg, what, id,
			(uint64_t)kv_i64(packet->p, packet->n, "current", 0, INT64_MAX, 0),
			(uint64_t)kv_i64(packet->p, packet->n, "total", 0, INT64_MAX, 0));
	}
	if (kv_get(packet->p, packet->n, "said") && spec->said) {
		text(packet, "said", line, sizeof line);
		spec->said(spec->arg, line);
	}
}

/* The next packet. FCM_CANCELLED, or FCM_HOST at the end. */
static int next_packet(const struct oci_spec *spec, int fd, struct buf *packet, struct fcm_error *err)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	while (poll(&p, 1, LOOK_MS) <= 0)
		if (spec->cancelled && spec->cancelled(spec->arg))
			return fcm_fail(err, FCM_CANCELLED, "%s was cancelled", spec->job);
	ssize_t n = recv(fd, packet->p, OCI_PACKET, MSG_DONTWAIT);
	if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
		packet->n = 0;
		return 0;
	}
	if (n <= 0)
		return fcm_fail(err, FCM_HOST, "fcm-oci ended in the middle of %s", spec->job);
	packet->n = (size_t)n;
	return 0;
}

static int listen_to(const struct oci_spec *spec, int fd, struct buf *ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf packet = {.p = xalloc(OCI_PACKET)};

	for (;;) {
		if (next_packet(spec, fd, &packet, err) < 0)
			return -1;
		if (kv_get(packet.p, packet.n, "error"))
			return fail_as_told(&packet, err);
		if (kv_get(packet.p, packet.n, "ok")) {
			if (ret)
				buf_add(ret, packet.p, packet.n);
			return 0;
		}
		hear(spec, &packet);
		if (spec->cancelled && spec->cancelled(spec->arg))
			return fcm_fail(err, FCM_CANCELLED, "%s was cancelled", spec->job);
	}
}

static int send_plan(const struct oci_spec *spec, int fd, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf plan = {0};

	kv_add(&plan, "job", spec->job);
	kv_addf(&plan, "uid", "%u", (unsigned)spec->uid);
	if (spec->plan)
		buf_add(&plan, spec->plan->p, spec->plan->n);
	if (plan.n > OCI_PACKET)
		return fcm_fail(err, FCM_TOO_LARGE, "the plan of %s is too long", spec->job);
	if (send(fd, plan.p, plan.n, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)plan.n)
		return fcm_fail_errno(err, "send the plan of %s", spec->job);
	return 0;
}

static int spawn(const struct oci_spec *spec, int theirs, struct fcm_error *err)
{
	const struct proc_fd all[] = {{theirs, OCI_SOCKET}, {spec->dir_fd, OCI_DIR},
		{spec->layers_fd, OCI_LAYERS}, {spec->in_fd, OCI_IN}, {spec->out_fd, OCI_OUT}};
	struct proc_fd fds[ARRAY_SIZE(all)];
	size_t n = 0;
	pid_t pid;

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i].fd >= 0)
			fds[n++] = all[i];
	return proc_spawn(PROC_ARGV(spec->program), NULL, fds, n, &pid, err);
}

int oci_run_job(const struct oci_spec *spec, struct buf *ret, struct fcm_error *err)
{
	struct fcm_error ignored;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return fcm_fail_errno(err, "socketpair");
	auto_close int ours = pair[0];
	auto_close int theirs = pair[1];
	if (send_plan(spec, ours, err) < 0)
		return -1;
	auto_close int pidfd = spawn(spec, theirs, err);
	fcm_closep(&theirs);
	if (pidfd < 0)
		return fcm_wrap(err, "%s", spec->job);
	int r = listen_to(spec, ours, ret, err);
	if (r == 0 && proc_wait(pidfd, clock_in(END_MS)))
		return 0;
	if (proc_signal(pidfd, SIGKILL, &ignored) == 0)
		proc_wait(pidfd, clock_in(END_MS));
	return r;
}
