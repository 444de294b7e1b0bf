/*
 * What fcm-agent makes of a host's bytes, in pieces of a size that the first byte chooses. What would change this machine
 * is wrapped (ld(1), --wrap); an exec's pipes and terminals are real, its process isn't.
 */
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "common/core/clock.h"
#include "images/agent/identity.h"
#include "images/agent/session.h"
#include "images/agent/spawn.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int __wrap_mount_guest(struct guest_root *r, const char *image, const char *disk, struct fcm_error *err);
int __wrap_net_apply(struct guest_net *have, const struct guest_net *want, struct fcm_error *err);
int __wrap_identity_apply(
	const struct identity *id, struct guest_net *have, struct buf *results, struct fcm_error *err);
int __wrap_files_write(const void *p, size_t n, struct fcm_error *err);
int __wrap_start_rc(const struct strv *env, struct fcm_error *err);
int __wrap_spawn_start(const struct spawn *s, pid_t *ret, int *ret_report, struct fcm_error *err);
int __wrap_clock_settime(clockid_t id, const struct timespec *t);
int __wrap_adjtime(const struct timeval *delta, struct timeval *old);
int __wrap_kill(pid_t pid, int sig);

int __wrap_mount_guest(struct guest_root *r, const char *image, const char *disk, struct fcm_error *err)
{
	(void)r, (void)image, (void)disk;
	return fcm_fail(err, FCM_HOST, "no such device");
}

int __wrap_net_apply(struct guest_net *have, const struct guest_net *want, struct fcm_error *err)
{
	(void)have, (void)want, (void)err;
	return 0;
}

int __wrap_identity_apply(
	const struct identity *id, struct guest_net *have, struct buf *results, struct fcm_error *err)
{
	(void)have, (void)results, (void)err;
	if (id->entropy_bytes < IDENTITY_ENTROPY_MIN || id->entropy_bytes > IDENTITY_ENTROPY_MAX)
		abort();
	return 0;
}

int __wrap_files_write(const void *p, size_t n, struct fcm_error *err)
{
	(void)p, (void)n, (void)err;
	return 0;
}

int __wrap_start_rc(const struct strv *env, struct fcm_error *err)
{
	(void)env, (void)err;
	return 0;
}

/* A program that says a word and is gone. */
int __wrap_spawn_start(const struct spawn *s, pid_t *ret, int *ret_report, struct fcm_error *err)
{
	if (write(s->stdio[FRAME_STDOUT], "word\n", 5) != 5)
		return fcm_fail_errno(err, "write");
	*ret = INT_MAX;
	*ret_report = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return *ret_report < 0 ? fcm_fail_errno(err, "open /dev/null") : 0;
}

int __wrap_clock_settime(clockid_t id, const struct timespec *t)
{
	(void)id, (void)t;
	return 0;
}

int __wrap_adjtime(const struct timeval *delta, struct timeval *old)
{
	(void)delta, (void)old;
	return 0;
}

int __wrap_kill(pid_t pid, int sig)
{
	(void)pid, (void)sig;
	return 0;
}

static void check(const struct agent *a)
{
	const struct execs *x = &a->execs;

	if (x->count > EXEC_MAX || x->doomed_count > EXEC_MAX ||
		a->channel.out.n > CHANNEL_OUT_MAX + 2 * FRAME_MAX)
		abort();
	for (size_t i = 0; i < x->count; i++)
		if (x->open[i]->in.n > FRAME_WINDOW + 1 || x->open[i]->credit[FRAME_STDIN] > FRAME_WINDOW)
			abort();
}

static void serve(struct agent *a)
{
	static struct pollfd fds[MAIN_FDS + EXEC_FDS];

	mainproc_poll(&a->main, fds);
	nfds_t n = MAIN_FDS + exec_poll(&a->execs, &a->channel, fds + MAIN_FDS);
	poll(fds, n, 0);
	exec_serve(&a->execs, &a->channel, fds + MAIN_FDS);
	mainproc_serve(&a->main, fds);
	session_serve(a);
	session_freeze(a);
	exec_tick(&a->execs, &a->channel);
	session_main(a);
	check(a);
}

static void end_programs(struct agent *a)
{
	for (size_t i = 0; i < a->execs.count; i++)
		a->execs.open[i]->ended = true;
	mainproc_reaped(&a->main, a->main.pid, 0);
	serve(a);
	exec_close_all(&a->execs);
	mainproc_done(&a->main);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct agent *a = xalloc(sizeof *a);
	size_t piece = n ? (size_t)(data[0] >> 1) * 16 + 1 : 1;
	bool deaf = n && data[0] & 1, frozen = n && data[0] & 2;

	a->root.mounted = true;
	a->execs.main = &a->main;
	a->channel =
		(struct channel){.fd = deaf ? -1 : open("/dev/null", O_WRONLY | O_CLOEXEC), .listen_fd = -1};
	a->modules = -1;
	freeze_init(&a->freezer, -1);
	if (frozen) {
		a->freezer.phase = FREEZE_DONE;
		a->freezer.until = FCM_FOREVER;
	}
	signal(SIGPIPE, SIG_IGN);
	for (size_t at = MIN(n, (size_t)1); at < n; at += piece) {
		buf_add(&a->channel.in, data + at, MIN(piece, n - at));
		serve(a);
	}
	end_programs(a);
	fcm_closep(&a->channel.fd);
	buf_done(&a->channel.in);
	buf_done(&a->channel.out);
	free(a);
	return 0;
}
