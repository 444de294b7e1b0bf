#include "daemon/shim/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"

enum {
	CHUNK = 16384,
	REPLAY = 2 * CHUNK, /* a new reader begins this far behind: a few screens */
};

static char chunk[CHUNK];

int console_open(struct console *c, int ring_fd, int times_fd, const char *socket, struct fcm_error *err)
{
	*c = (struct console){
		.ring_fd = ring_fd, .times_fd = times_fd, .listen_fd = -1, .out_fd = -1, .in_fd = -1};
	for (size_t i = 0; i < SHIM_READERS; i++)
		c->readers[i].fd = -1;
	/* Only the head is mapped: a mapping of it all would count a MiB to every VM's resident memory. */
	c->ring = mmap(NULL, SHIM_RING_HEADER, PROT_READ | PROT_WRITE, MAP_SHARED, ring_fd, 0);
	if (c->ring == MAP_FAILED)
		return fcm_fail_errno(err, "map the console ring");
	if (c->ring->magic != SHIM_RING_MAGIC)
		return fcm_fail(err, FCM_HOST, "console ring: bad magic");
	c->start = atomic_load(&c->ring->total);
	c->listen_fd = unix_listen(AT_FDCWD, socket, 0600, SOCK_NONBLOCK, err);
	return c->listen_fd < 0 ? -1 : 0;
}

/* A write that fails loses console output, and nothing can be done about it here: the file is allocated in full. */
static void ring_put(struct console *c, const char *data, size_t n)
{
	uint64_t total = atomic_load(&c->ring->total);

	while (n > 0) {
		size_t at = total % SHIM_RING, k = MIN(n, SHIM_RING - at);
		(void)!pwrite(c->ring_fd, data, k, (off_t)(SHIM_RING_HEADER + at));
		data += k;
		n -= k;
		total += k;
	}
	atomic_store(&c->ring->total, total);
}

/* Note when what comes next came, unless that second is noted already. A mark that can't be written, on a full disk, is
 * read as none. */
static void mark_time(struct console *c)
{
	struct shim_mark mark = {.pos = atomic_load(&c->ring->total), .time = clock_wall()};
	uint64_t marks = atomic_load(&c->ring->marks);

	if (mark.time == c->marked)
		return;
	c->marked = mark.time;
	(void)!pwrite(c->times_fd, &mark, sizeof mark, (off_t)(marks % SHIM_MARKS * sizeof mark));
	atomic_store(&c->ring->marks, marks + 1);
}

static void reader_drop(struct console_reader *r)
{
	close(r->fd);
	r->fd = -1;
}

/* Send what the reader hasn't had, as far as its socket takes it. */
static void reader_send(struct console *c, struct console_reader *r)
{
	uint64_t total = atomic_load(&c->ring->total);

	while (r->fd >= 0 && r->pos < total) {
		size_t at = r->pos % SHIM_RING, k = MIN(MIN(total - r->pos, SHIM_RING - at), sizeof chunk);
		ssize_t n = total - r->pos > SHIM_RING
				    ? -1
				    : pread(c->ring_fd, chunk, k, (off_t)(SHIM_RING_HEADER + at));
		if (n > 0) {
			n = send(r->fd, chunk, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
			if (n < 0 && (errno == EAGAIN || errno == EINTR))
				return;
		}
		if (n <= 0)
			reader_drop(r);
		else
			r->pos += (size_t)n;
	}
}

/* Where a new reader begins: in this run, with a line, for half an escape sequence would spoil the screen. */
static uint64_t replay_from(const struct console *c)
{
	uint64_t total = atomic_load(&c->ring->total), pos = total > REPLAY ? total - REPLAY : 0;

	if (pos <= c->start)
		return c->start;
	size_t at = pos % SHIM_RING;
	ssize_t n =
		pread(c->ring_fd, chunk, MIN(sizeof chunk, SHIM_RING - at), (off_t)(SHIM_RING_HEADER + at));
	const char *end = n > 0 ? memchr(chunk, '\n', (size_t)n) : NULL;
	return end ? pos + (uint64_t)(end - chunk) + 1 : pos;
}

static void reader_new(struct console *c)
{
	int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	for (size_t i = 0; i < SHIM_READERS; i++) {
		struct console_reader *r = &c->readers[i];
		if (r->fd >= 0)
			continue;
		*r = (struct console_reader){.fd = fd, .pos = replay_from(c)};
		return;
	}
	close(fd);
}

/* One buffer of what a reader types. */
static void reader_read(struct console *c, struct console_reader *r)
{
	ssize_t n = recv(r->fd, c->input, sizeof c->input, MSG_DONTWAIT);

	if (n > 0)
		c->input_n = (size_t)n;
	else if (n == 0)
		r->silent = true;
	else if (errno != EAGAIN && errno != EINTR)
		reader_drop(r);
}

static void input_write(struct console *c)
{
	ssize_t n = c->in_fd < 0 ? (ssize_t)c->input_n : write(c->in_fd, c->input, c->input_n);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		fcm_closep(&c->in_fd);
		n = (ssize_t)c->input_n;
	}
	c->input_n -= (size_t)n;
	memmove(c->input, c->input + n, c->input_n);
}

/* Take one chunk of output. False when there is none now. */
static bool output_take(struct console *c)
{
	ssize_t n = read(c->out_fd, chunk, sizeof chunk);

	if (n > 0) {
		mark_time(c);
		ring_put(c, chunk, (size_t)n);
		halt_output(&c->halt, chunk, (size_t)n);
	}
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		fcm_closep(&c->out_fd);
	return n > 0;
}

enum { P_PID, P_OUT, P_LISTEN, P_IN, P_READERS, P_N = P_READERS + SHIM_READERS };

static void fill_poll(const struct console *c, int pidfd, struct pollfd p[P_N])
{
	uint64_t total = atomic_load(&c->ring->total);

	p[P_PID] = (struct pollfd){pidfd, POLLIN, 0};
	p[P_OUT] = (struct pollfd){c->out_fd, POLLIN, 0};
	p[P_LISTEN] = (struct pollfd){c->listen_fd, POLLIN, 0};
	p[P_IN] = (struct pollfd){c->input_n ? c->in_fd : -1, POLLOUT, 0};
	for (size_t i = 0; i < SHIM_READERS; i++) {
		const struct console_reader *r = &c->readers[i];
		short events =
			(short)((r->silent || c->input_n ? 0 : POLLIN) | (r->pos < total ? POLLOUT : 0));
		p[P_READERS + i] = (struct pollfd){r->fd, events, 0};
	}
}

static void serve(struct console *c, const struct pollfd p[P_N])
{
	if (p[P_OUT].revents)
		output_take(c);
	for (size_t i = 0; i < SHIM_READERS; i++) {
		struct console_reader *r = &c->readers[i];
		short got = p[P_READERS + i].revents;
		if ((got & POLLIN) && c->input_n == 0)
			reader_read(c, r);
		else if (got & (POLLHUP | POLLERR))
			reader_drop(r);
		if (r->fd >= 0)
			reader_send(c, r);
	}
	if (c->input_n)
		input_write(c);
	if (p[P_LISTEN].revents)
		reader_new(c);
}

/* Processor time of all its threads; -1 when it has ended. */
static int64_t cpu_ns(pid_t pid)
{
	struct timespec t;
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) < 0)
		return -1;
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

void console_run(struct console *c, pid_t pid, int pidfd, int out_fd, int in_fd)
{
	struct pollfd p[P_N] = {0};

	c->out_fd = out_fd;
	c->in_fd = in_fd;
	while (p[P_PID].revents == 0) {
		fill_poll(c, pidfd, p);
		int n = poll(p, P_N, halt_patience_ms(&c->halt));
		if (n > 0)
			serve(c, p);
		else if (n == 0 && halt_look(&c->halt, cpu_ns(pid)))
			kill(pid, SIGKILL); /* a child that isn't reaped yet */
	}
	/* The pipe holds 64 KiB at most, but a child that the VMM left behind could go on for ever. */
	for (size_t n = 0; n < SHIM_RING && c->out_fd >= 0 && output_take(c); n += CHUNK)
		;
	for (size_t i = 0; i < SHIM_READERS; i++)
		reader_send(c, &c->readers[i]);
}
