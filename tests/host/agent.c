/*
 * host-agent: runs commands in the test host for its driver (host.py), over one virtio-serial port named "fcm.host".
 *
 * Frames, both ways: type (1 byte), length (4 bytes, little-endian, at most 128 KiB), payload.
 *
 *   driver -> agent                                       agent -> driver
 *   H nonce (16 bytes)    a new session                   H nonce, boot id (36 characters)
 *   T ns (8 bytes), seed  sets the clock, reseeds the     T
 *                         random pool
 *   X command             runs `sh -c command`            O, E  bytes of stdout, stderr
 *   D bytes               its stdin                       R     status as of wait(2) (4 bytes): the command has ended
 *   Z                     end of its stdin                W     bytes of stdin that were taken (4 bytes)
 *
 * One command at a time. It has ended when its process has: what others still hold of its pipes doesn't count, what was
 * written until then does. At most 256 KiB of stdin may be on their way: W says what the command has taken, so that the
 * port is always read and H always comes through. A write to the port blocks: while the driver doesn't read, all waits.
 *
 * A virtio port tells nobody about a close, so the driver begins with H and throws away all that it reads until its nonce
 * comes back; H and a new X end the process group of an old command. NUL bytes between frames are passed over, and all
 * that was read is dropped when it can't be a frame: 128 KiB of them before an H end whatever was under way.
 * There is no time limit on a frame: on a busy machine any pause may happen in the middle of one.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/random.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PORT_NAME "fcm.host"
#define NONCE 16
#define BOOT_ID 36

enum { HEADER = 5, PAYLOAD_MAX = 128 << 10, CHUNK = 64 << 10, PIPE_SIZE = 256 << 10, WINDOW = 256 << 10 };

struct job {
	pid_t pid; /* also its process group; 0 when there is none */
	int pidfd, in, out, err;
	bool in_ends; /* close it when `waiting` is written */
};

struct agent {
	int port;
	struct job job;
	char waiting[WINDOW]; /* stdin that the command's pipe hasn't taken yet */
	size_t waiting_n;
	char buf[HEADER + PAYLOAD_MAX];
	size_t n;
};

static const struct job NO_JOB = {.pidfd = -1, .in = -1, .out = -1, .err = -1};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* ---- the port ---- */

static bool is_ours(const char *port)
{
	char path[PATH_MAX], name[32] = "";

	snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", port);
	FILE *file = fopen(path, "re");
	if (!file)
		return false;
	bool ours = fgets(name, sizeof name, file) && strcmp(name, PORT_NAME "\n") == 0;
	fclose(file);
	return ours;
}

/* Found by name: the device node's name says nothing, and udev may not have run. */
static int open_port(void)
{
	DIR *dir = opendir("/sys/class/virtio-ports");
	char path[PATH_MAX];
	int fd = -1;

	if (!dir)
		return -1;
	for (struct dirent *e = readdir(dir); e && fd < 0; e = readdir(dir)) {
		snprintf(path, sizeof path, "/dev/%s", e->d_name);
		if (is_ours(e->d_name))
			fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	}
	closedir(dir);
	return fd;
}

/* A driver that has gone away loses what is said to it. */
static void port_write(struct agent *a, const char *p, size_t n)
{
	while (n > 0) {
		ssize_t r = write(a->port, p, n);
		if (r > 0) {
			p += r;
			n -= (size_t)r;
			continue;
		}
		if (r < 0 && errno != EAGAIN && errno != EINTR)
			return;
		struct pollfd fd = {.fd = a->port, .events = POLLOUT};
		poll(&fd, 1, 1000);
		if (fd.revents & POLLHUP)
			return;
	}
}

static void say(struct agent *a, char type, const void *payload, size_t n)
{
	static char frame[HEADER + PAYLOAD_MAX];
	uint32_t len = (uint32_t)n;

	frame[0] = type;
	memcpy(frame + 1, &len, sizeof len);
	memcpy(frame + HEADER, payload, n);
	port_write(a, frame, HEADER + n);
}

/* ---- the command ---- */

static void job_done(struct job *job)
{
	close_fd(&job->pidfd);
	close_fd(&job->in);
	close_fd(&job->out);
	close_fd(&job->err);
	*job = NO_JOB;
}

static void job_kill(struct job *job)
{
	if (job->pid > 0) {
		kill(-job->pid, SIGKILL);
		waitpid(job->pid, NULL, 0);
	}
	job_done(job);
}

static _Noreturn void child(const char *command, int in, int out, int err)
{
	setsid();
	signal(SIGPIPE, SIG_DFL);
	dup2(in, 0);
	dup2(out, 1);
	dup2(err, 2);
	execl("/bin/sh", "sh", "-c", command, (char *)NULL);
	_exit(127);
}

/* A pipe of which we keep the end `ours`, which doesn't block; the command's end does. */
static int make_pipe(int fds[2], int ours)
{
	if (pipe2(fds, O_CLOEXEC) < 0)
		return -1;
	fcntl(fds[0], F_SETPIPE_SZ, PIPE_SIZE);
	return fcntl(fds[ours], F_SETFL, O_NONBLOCK);
}

static void job_start(struct agent *a, const char *payload, size_t n)
{
	struct job *job = &a->job;
	int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1};
	char *command = strndup(payload, n);

	job_kill(job);
	a->waiting_n = 0;
	if (command && make_pipe(in, 1) == 0 && make_pipe(out, 0) == 0 && make_pipe(err, 0) == 0)
		job->pid = fork();
	if (job->pid == 0 && err[1] >= 0)
		child(command, in[0], out[1], err[1]);
	free(command);
	close_fd(&in[0]);
	close_fd(&out[1]);
	close_fd(&err[1]);
	job->in = in[1];
	job->out = out[0];
	job->err = err[0];
	if (job->pid > 0)
		job->pidfd = (int)syscall(SYS_pidfd_open, job->pid, 0);
	if (job->pidfd < 0) {
		int32_t status = 126 << 8;
		job_kill(job);
		say(a, 'R', &status, sizeof status);
	}
}

/* Write what the pipe takes. A command that wants no more of its stdin takes everything. */
static void job_feed(struct agent *a)
{
	struct job *job = &a->job;
	uint32_t taken = 0;

	while (job->in >= 0 && taken < a->waiting_n) {
		ssize_t r = write(job->in, a->waiting + taken, a->waiting_n - taken);
		if (r > 0)
			taken += (uint32_t)r;
		else if (r < 0 && errno == EAGAIN)
			break;
		else if (r < 0 && errno != EINTR)
			close_fd(&job->in);
	}
	if (job->in < 0)
		taken = (uint32_t)a->waiting_n;
	a->waiting_n -= taken;
	memmove(a->waiting, a->waiting + taken, a->waiting_n);
	if (taken > 0 && job->pid > 0)
		say(a, 'W', &taken, sizeof taken);
	if (a->waiting_n == 0 && job->in_ends)
		close_fd(&job->in);
}

/* False when the driver sends more than it may. */
static bool job_stdin(struct agent *a, const char *p, size_t n)
{
	if (n > sizeof a->waiting - a->waiting_n)
		return false;
	memcpy(a->waiting + a->waiting_n, p, n);
	a->waiting_n += n;
	job_feed(a);
	return true;
}

/* Pass on one read; true while there may be more. */
static bool job_pump(struct agent *a, int *fd, char type)
{
	static char bytes[CHUNK];
	ssize_t r = *fd < 0 ? 0 : read(*fd, bytes, sizeof bytes);

	if (r > 0)
		say(a, type, bytes, (size_t)r);
	else if (r == 0 || (errno != EAGAIN && errno != EINTR))
		close_fd(fd);
	return r > 0;
}

static void job_ended(struct agent *a)
{
	struct job *job = &a->job;
	int32_t status = 0;

	if (waitpid(job->pid, &status, WNOHANG) != job->pid)
		return;
	/* At most what the pipes held when it ended: one that it left behind may go on writing. */
	for (int i = 0; i < 2 * PIPE_SIZE / CHUNK && job_pump(a, &job->out, 'O'); i++)
		;
	for (int i = 0; i < 2 * PIPE_SIZE / CHUNK && job_pump(a, &job->err, 'E'); i++)
		;
	job_done(job);
	say(a, 'R', &status, sizeof status);
}

/* ---- frames ---- */

static void hello(struct agent *a, const char *nonce)
{
	char answer[NONCE + BOOT_ID] = "";
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	job_kill(&a->job);
	a->waiting_n = 0;
	memcpy(answer, nonce, NONCE);
	if (fd >= 0 && read(fd, answer + NONCE, BOOT_ID) < 0)
		memset(answer + NONCE, '?', BOOT_ID);
	close_fd(&fd);
	say(a, 'H', answer, sizeof answer);
}

/* All that are restored from one snapshot would have the same time and the same random numbers. */
static void refresh(struct agent *a, const char *payload, size_t n)
{
	struct {
		struct rand_pool_info head;
		char bytes[64];
	} pool = {0};
	int64_t ns;
	int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);

	memcpy(&ns, payload, sizeof ns);
	clock_settime(
		CLOCK_REALTIME, &(struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000});
	n -= sizeof ns;
	pool.head.buf_size = (int)(n < sizeof pool.bytes ? n : sizeof pool.bytes);
	pool.head.entropy_count = pool.head.buf_size * 8;
	memcpy(pool.bytes, payload + sizeof ns, (size_t)pool.head.buf_size);
	ioctl(fd, RNDADDENTROPY, &pool);
	ioctl(fd, RNDRESEEDCRNG);
	close_fd(&fd);
	say(a, 'T', "", 0);
}

/* Serve one frame; false when its type or length can't be. */
static bool serve(struct agent *a, char type, const char *payload, size_t n)
{
	switch (type) {
	case 'H':
		if (n == NONCE)
			hello(a, payload);
		return n == NONCE;
	case 'T':
		if (n >= sizeof(int64_t))
			refresh(a, payload, n);
		return n >= sizeof(int64_t);
	case 'X':
		job_start(a, payload, n);
		return true;
	case 'D':
		return job_stdin(a, payload, n);
	case 'Z':
		a->job.in_ends = true;
		job_feed(a);
		return true;
	}
	return false;
}

/* Serve what is whole in the buffer. */
static void serve_frames(struct agent *a)
{
	size_t at = 0;

	for (;;) {
		uint32_t len;
		while (at < a->n && a->buf[at] == '\0')
			at++;
		if (a->n - at < HEADER)
			break;
		memcpy(&len, a->buf + at + 1, sizeof len);
		if (len <= PAYLOAD_MAX && a->n - at < HEADER + len)
			break;
		if (len > PAYLOAD_MAX || !serve(a, a->buf[at], a->buf + at + HEADER, len)) {
			a->n = 0;
			return;
		}
		at += HEADER + len;
	}
	memmove(a->buf, a->buf + at, a->n - at);
	a->n -= at;
}

static void read_port(struct agent *a, short events)
{
	ssize_t r = events & POLLIN ? read(a->port, a->buf + a->n, sizeof a->buf - a->n) : 0;

	if (r > 0) {
		a->n += (size_t)r;
		serve_frames(a);
	} else if (events & POLLHUP) {
		a->n = 0;
		usleep(20000); /* nobody is connected: poll would return at once for ever */
	}
}

static void turn(struct agent *a)
{
	struct job *job = &a->job;
	struct pollfd fds[] = {
		{.fd = a->port, .events = POLLIN},
		{.fd = a->waiting_n > 0 ? job->in : -1, .events = POLLOUT},
		{.fd = job->out, .events = POLLIN},
		{.fd = job->err, .events = POLLIN},
		{.fd = job->pidfd, .events = POLLIN},
	};

	poll(fds, sizeof fds / sizeof fds[0], -1);
	if (fds[1].revents)
		job_feed(a);
	if (fds[2].revents)
		job_pump(a, &job->out, 'O');
	if (fds[3].revents)
		job_pump(a, &job->err, 'E');
	if (fds[4].revents)
		job_ended(a);
	if (fds[0].revents)
		read_port(a, fds[0].revents);
}

int main(void)
{
	static struct agent a = {.port = -1, .job = {.pidfd = -1, .in = -1, .out = -1, .err = -1}};

	signal(SIGPIPE, SIG_IGN);
	while ((a.port = open_port()) < 0)
		usleep(20000);
	for (;;)
		turn(&a);
}
