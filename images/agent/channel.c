#include "images/agent/channel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"

#define PORTS "/sys/class/virtio-ports"
#define DEVICES "/sys/bus/virtio/devices"

enum { READ_MAX = 65536, BACKLOG = 16 };

/* Device ids: virtio 1.2, section 5. */
enum { VIRTIO_CONSOLE = 3, VIRTIO_VSOCK = 19 };

static void closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

static bool port_is_ours(const char *port)
{
	char path[300];
	struct buf name = {0};
	struct fcm_error err;

	if (!fcm_format(path, sizeof path, PORTS "/%s/name", port) ||
		file_read(AT_FDCWD, path, 64, &name, &err) < 0)
		return false;
	bool ours = strcmp(name.p, "fcm.agent\n") == 0;
	buf_done(&name);
	return ours;
}

bool channel_open(struct channel *c)
{
	_cleanup_(closedirp) DIR *d = opendir(PORTS);
	struct dirent *e;

	while (d && c->fd < 0 && (e = readdir(d))) {
		char dev[300];
		if (e->d_name[0] != '.' && port_is_ours(e->d_name) &&
			fcm_format(dev, sizeof dev, "/dev/%s", e->d_name))
			c->fd = open(dev, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	}
	return c->fd >= 0;
}

static bool have_device(unsigned id)
{
	_cleanup_(closedirp) DIR *d = opendir(DEVICES);
	char path[300], want[16];
	struct fcm_error err;
	struct dirent *e;
	bool have = false;

	fcm_format(want, sizeof want, "0x%04x\n", id);
	while (d && !have && (e = readdir(d))) {
		_cleanup_(buf_done) struct buf text = {0};
		have = e->d_name[0] != '.' &&
		       fcm_format(path, sizeof path, DEVICES "/%s/device", e->d_name) &&
		       file_read(AT_FDCWD, path, 64, &text, &err) == 0 && strcmp(text.p, want) == 0;
	}
	return have;
}

bool channel_is_vsock(void)
{
	return have_device(VIRTIO_VSOCK) && !have_device(VIRTIO_CONSOLE);
}

bool channel_listen(struct channel *c)
{
	const struct sockaddr_vm here = {
		.svm_family = AF_VSOCK, .svm_port = CHANNEL_PORT, .svm_cid = VMADDR_CID_ANY};
	auto_close int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (const struct sockaddr *)&here, sizeof here) < 0 || listen(fd, BACKLOG) < 0)
		return false;
	c->listen_fd = STEAL_FD(fd);
	return true;
}

static void take(struct channel *c, int fd)
{
	fcm_closep(&c->fd);
	c->fd = fd;
	c->lost = true;
	buf_drop(&c->in, c->in.n);
	c->deaf_until = 0;
}

void channel_accept(struct channel *c)
{
	for (;;) {
		struct sockaddr_vm from = {0};
		socklen_t n = sizeof from;
		int fd = accept4(c->listen_fd, (struct sockaddr *)&from, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0 && errno == EINTR)
			continue;
		if (fd < 0)
			return;
		if (from.svm_cid == VMADDR_CID_HOST)
			take(c, fd);
		else
			close(fd);
	}
}

/* With SO_LINGER, close(2) waits until the other side confirms it, which Firecracker does behind the last byte: in the kernel
 * net/vmw_vsock/virtio_transport_common.c, in Firecracker vsock/csm/connection.rs. */
void channel_close(struct channel *c)
{
	const struct linger linger = {.l_onoff = 1, .l_linger = CHANNEL_LINGER_S};

	if (c->listen_fd >= 0 && c->fd >= 0)
		(void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
	take(c, -1);
	fcm_closep(&c->listen_fd);
}

bool channel_told(const struct channel *c)
{
	return c->out.n == 0 || (c->fd < 0 && c->listen_fd < 0);
}

short channel_events(const struct channel *c)
{
	if (c->fd < 0 || clock_ms() < c->deaf_until)
		return 0;
	return (short)((c->out.n < CHANNEL_OUT_MAX ? POLLIN : 0) | (c->out.n > 0 ? POLLOUT : 0));
}

/* When the incomplete frame in `in` is given up. While the host doesn't take our answers, `in` may hold whole
 * frames that we chose not to look at, and nothing is given up. */
static int64_t frame_deadline(const struct channel *c)
{
	if (c->in.n == 0 || c->out.n >= CHANNEL_OUT_MAX)
		return FCM_FOREVER;
	return MIN(c->heard + FRAME_SILENCE_MS, c->began + CHANNEL_FRAME_MS);
}

/* Without KVM QEMU looks whether a port takes what waits for it when its main loop turns, and a guest that opens the port
 * doesn't turn it (7.2: hw/char/virtio-console.c, set_guest_connected() and chr_can_read()). A timer of the guest's does, so one
 * that sleeps has one until it is spoken to: else nobody was heard for a minute, once in some hundred boots. */
static int64_t first_byte_deadline(const struct channel *c)
{
	return c->fd >= 0 && c->listen_fd < 0 && c->heard == 0 ? clock_in(CHANNEL_FIRST_MS) : FCM_FOREVER;
}

int64_t channel_deadline(const struct channel *c)
{
	int64_t hearing = c->fd >= 0 && clock_ms() < c->deaf_until ? c->deaf_until : FCM_FOREVER;

	return MIN(MIN(frame_deadline(c), hearing), first_byte_deadline(c));
}

void channel_tick(struct channel *c)
{
	if (clock_ms() >= frame_deadline(c))
		buf_drop(&c->in, c->in.n);
}

void channel_flush(struct channel *c)
{
	if (c->out.n >= CHANNEL_OUT_MAX)
		c->began = c->heard = clock_ms();
	while (c->out.n > 0 && c->fd >= 0) {
		ssize_t n = write(c->fd, c->out.p, c->out.n);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		buf_drop(&c->out, (size_t)n);
	}
}

/* The host went away. A port stays, and is looked at again a little later. */
static void hang_up(struct channel *c)
{
	if (c->listen_fd >= 0)
		take(c, -1);
	else
		buf_drop(&c->in, c->in.n);
	c->lost = true;
	c->deaf_until = clock_in(CHANNEL_HANGUP_MS);
}

static void fill(struct channel *c)
{
	char chunk[4096];

	for (size_t total = 0; total < READ_MAX; total += sizeof chunk) {
		ssize_t n = read(c->fd, chunk, sizeof chunk);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			return;
		if (n <= 0) {
			/* What came before is worked off first: to a clone its host seems to be gone and back. */
			if (total == 0)
				hang_up(c);
			return;
		}
		c->heard = clock_ms();
		if (c->in.n == 0)
			c->began = c->heard;
		buf_add(&c->in, chunk, (size_t)n);
	}
}

void channel_serve(struct channel *c, short revents)
{
	if (revents & POLLOUT)
		channel_flush(c);
	if (revents & POLLIN)
		fill(c);
	else if (revents & (POLLHUP | POLLERR | POLLNVAL))
		hang_up(c);
}

bool channel_next(struct channel *c, struct frame *ret)
{
	if (c->out.n >= CHANNEL_OUT_MAX)
		return false;
	ssize_t n = frame_parse(c->in.p, c->in.n, ret);
	if (n < 0)
		buf_drop(&c->in, c->in.n);
	return n > 0;
}

void channel_done_frame(struct channel *c, const struct frame *f)
{
	buf_drop(&c->in, FRAME_HEADER + (size_t)f->len);
	c->began = clock_ms();
}

void channel_send(struct channel *c, uint32_t stream, enum frame_type type, const struct buf *payload)
{
	frame_add(&c->out, stream, type, payload->p, payload->n);
	channel_flush(c);
}

bool channel_lost(struct channel *c)
{
	bool lost = c->lost;

	c->lost = false;
	return lost;
}

void channel_reset(struct channel *c)
{
	buf_drop(&c->out, c->out.n);
}
