/*
 * The tunnel: after 101 the connection is the raw bytes of a TCP connection to a port of the VM, so that ssh
 * works from wherever the API does. The daemon connects to the address that it gave the VM, never to one that
 * a client names.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "daemon/api/api.h"

enum {
	CONNECT_MS = 5000,
	CHUNK = 65536,
	/* how often an idle tunnel looks whether its VM still runs: one that was killed sends no FIN */
	LOOK_MS = 1000,
	STALL_MS = 60000, /* how long what a side left behind may wait for the other to take it */
};

struct tunnel {
	int fd;	       /* the connection into the guest */
	struct vm *vm; /* held */
};

static int connect_to(struct in_addr ip, uint16_t port, const char *name, struct fcm_error *err)
{
	auto_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = ip};
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	int e = 0;
	socklen_t len = sizeof e;

	if (fd < 0)
		return fcm_fail_errno(err, "socket");
	if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0 && errno != EINPROGRESS)
		return fcm_fail_errno(err, "connect to port %u of '%s'", port, name);
	if (poll(&p, 1, CONNECT_MS) != 1)
		return fcm_fail(err, FCM_TIMEOUT, "port %u of '%s' does not answer", port, name);
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len);
	if (e)
		return fcm_fail(err, FCM_GUEST, "port %u of '%s': %s", port, name, strerror(e));
	return STEAL_FD(fd);
}

/* One direction of a tunnel: bytes read from `from` and not yet written to `to`. */
struct flow {
	int from, to;
	char data[CHUNK];
	size_t n;
	bool eof;
};

/* Move what can be moved. False when the connection broke. */
static bool pump(struct flow *f, short from_events, short to_events)
{
	if (f->n == 0 && !f->eof && from_events) {
		ssize_t n = recv(f->from, f->data, sizeof f->data, MSG_DONTWAIT);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		f->n = (size_t)n;
		f->eof = n == 0;
		if (f->eof)
			shutdown(f->to, SHUT_WR);
		to_events = POLLOUT; /* likely: try at once */
	}
	if (f->n && to_events) {
		ssize_t n = send(f->to, f->data, f->n, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		memmove(f->data, f->data + n, f->n - (size_t)n);
		f->n -= (size_t)n;
	}
	return true;
}

/* What to wait for at the side that `in` comes from and `out` goes to. Where that is nothing the descriptor is left out: a
 * side that has hung up says so without end. */
static struct pollfd wants(const struct flow *in, const struct flow *out)
{
	short events = (short)((in->n == 0 && !in->eof ? POLLIN : 0) | (out->n ? POLLOUT : 0));

	return (struct pollfd){.fd = events ? in->from : -1, .events = events};
}

/* Has this side hung up, in both directions? */
static bool is_gone(int fd)
{
	struct pollfd p = {.fd = fd};

	return poll(&p, 1, 0) == 1;
}

static bool runs(struct vm *vm)
{
	registry_lock();
	bool yes = vm->listed && (vm->view.state == VM_RUNNING || vm->view.state == VM_STARTING);
	registry_unlock();
	return yes;
}

/* Asked when nothing moved for LOOK_MS. What a side that is gone left behind is delivered, if the other one takes it. */
static bool is_over(const struct flow *up, const struct flow *down, unsigned *stalled)
{
	if (up->n == 0 && is_gone(up->from))
		return true;
	bool stuck = (up->n && is_gone(up->from)) || (down->n && is_gone(down->from));
	*stalled = stuck ? *stalled + 1 : 0;
	return *stalled * LOOK_MS >= STALL_MS;
}

static void relay(struct vm *vm, struct flow *up, struct flow *down)
{
	unsigned stalled = 0;

	while (!(up->eof && down->eof)) {
		struct pollfd p[] = {
			wants(up, down), wants(down, up), {.fd = http_stop_fd(), .events = POLLIN}};
		int n = poll(p, ARRAY_SIZE(p), LOOK_MS);
		if (n < 0 && errno != EINTR)
			return;
		if (n == 0 && (!runs(vm) || is_over(up, down, &stalled)))
			return;
		if (n <= 0)
			continue;
		stalled = 0;
		if (p[2].revents || ((p[0].revents | p[1].revents) & (POLLERR | POLLNVAL)))
			return;
		if (!pump(up, p[0].revents & (POLLIN | POLLHUP), p[1].revents & POLLOUT) ||
			!pump(down, p[1].revents & (POLLIN | POLLHUP), p[0].revents & POLLOUT))
			return;
	}
}

static void tunnel_free(struct tunnel *t)
{
	close(t->fd);
	vm_unref(t->vm);
	free(t);
}

/* `client` is -1 when the client left before the switch of protocols. */
static void run_tunnel(void *arg, int client, const void *extra, size_t n)
{
	struct tunnel *t = arg;
	auto_free struct flow *up = xalloc(sizeof *up), *down = xalloc(sizeof *down);

	up->from = down->to = client;
	up->to = down->from = t->fd;
	up->n = MIN(n, sizeof up->data);
	memcpy(up->data, extra, up->n);
	if (client >= 0)
		relay(t->vm, up, down);
	tunnel_free(t);
}

int api_vm_tunnel(struct request *rq, struct fcm_error *err)
{
	struct vm *vm = http_vm(rq);
	int64_t port;

	if (api_number(rq, "port", 1, 65535, 22, &port, err) < 0)
		return -1;
	registry_lock();
	struct in_addr ip = vm->view.ip;
	enum vm_state state = vm->view.state;
	registry_unlock();
	if (!runs(vm)) {
		fcm_fail(err, FCM_WRONG_STATE, "VM '%s' is %s", vm->view.name, vm_state_names[state]);
		return fcm_hint(err, "fcm start %s", vm->view.name);
	}
	int fd = connect_to(ip, (uint16_t)port, vm->view.name, err);
	if (fd < 0)
		return -1;
	struct tunnel *t = xalloc(sizeof *t);
	*t = (struct tunnel){.fd = fd, .vm = vm_ref(vm)};
	return http_upgrade(rq, "fcm-tunnel", run_tunnel, t);
}
