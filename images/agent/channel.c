#include "images/agent/channel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"

#define PORTS "/sys/class/virtio-ports"

enum { READ_MAX = 65536 };

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

int64_t channel_deadline(const struct channel *c)
{
	int64_t hearing = c->fd >= 0 && clock_ms() < c->deaf_until ? c->deaf_until : FCM_FOREVER;

	return MIN(frame_deadline(c), hearing);
}

void channel_tick(struct channel *c)
{
	if (clock_ms() >= frame_deadline(c))
		buf_drop(&c->in, c->in.n);
}

static void flush(struct channel *c)
{
	if (c->out.n >= CHANNEL_OUT_MAX)
		c->began = c->heard = clock_ms();
	while (c->out.n > 0) {
		ssize_t n = write(c->fd, c->out.p, c->out.n);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		buf_drop(&c->out, (size_t)n);
	}
}

static void hang_up(struct channel *c)
{
	buf_drop(&c->in, c->in.n);
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
		flush(c);
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
	if (c->fd >= 0)
		flush(c);
}

void channel_reset(struct channel *c)
{
	buf_drop(&c->out, c->out.n);
}
