#include "tests/unit/agenttest.h"

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"

int agenttest_begin(struct agenttest *t)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
		return -1;
	t->agent.channel = (struct channel){.fd = fds[0], .listen_fd = -1};
	t->agent.root.mounted = true;
	t->agent.execs.main = &t->agent.main;
	t->agent.modules = -1;
	freeze_init(&t->agent.freezer, -1);
	t->host = fds[1];
	return 0;
}

void agenttest_end(struct agenttest *t)
{
	exec_close_all(&t->agent.execs);
	for (size_t i = 0; i < t->agent.execs.doomed_count; i++)
		kill(-t->agent.execs.doomed[i].group, SIGKILL);
	close(t->host);
	fcm_closep(&t->agent.channel.fd);
	buf_done(&t->agent.channel.in);
	buf_done(&t->agent.channel.out);
	buf_done(&t->got);
	mainproc_done(&t->agent.main);
}

void agenttest_send(struct agenttest *t, const struct buf *b)
{
	assert_int_equal(fd_write_all(t->host, b->p, b->n), 0);
}

static void listen_host(struct agenttest *t, void (*take)(void *arg, const struct frame *f), void *arg)
{
	char chunk[65536];
	struct frame f;
	ssize_t n;

	while ((n = read(t->host, chunk, sizeof chunk)) > 0)
		buf_add(&t->got, chunk, (size_t)n);
	while (frame_parse(t->got.p, t->got.n, &f) > 0) {
		take(arg, &f);
		buf_drop(&t->got, FRAME_HEADER + (size_t)f.len);
	}
}

void agenttest_round(struct agenttest *t, void (*take)(void *arg, const struct frame *f), void *arg)
{
	enum { FD_FREEZE = 1, FD_EXEC = FD_FREEZE + FREEZE_FDS };
	static struct pollfd fds[FD_EXEC + EXEC_FDS];
	struct channel *c = &t->agent.channel;
	struct execs *x = &t->agent.execs;
	short events = channel_events(c);

	fds[0] = (struct pollfd){.fd = events ? c->fd : -1, .events = events};
	freeze_poll(&t->agent.freezer, fds + FD_FREEZE);
	nfds_t n = FD_EXEC + exec_poll(x, c, fds + FD_EXEC);
	poll(fds, n, MIN(clock_left(exec_deadline(x)) & 0x7fff, 5));
	if (fds[0].revents)
		channel_serve(c, fds[0].revents);
	exec_serve(x, c, fds + FD_EXEC);
	channel_tick(c);
	session_serve(&t->agent);
	exec_reap(x);
	session_freeze(&t->agent);
	exec_tick(x, c);
	assert_true(c->out.n < CHANNEL_OUT_MAX);
	listen_host(t, take, arg);
}
