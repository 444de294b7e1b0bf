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
#include "daemon/api/relay.h"

enum { CONNECT_MS = 5000 };

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
	struct relay r = {.vm = t->vm, .client = client, .guest = t->fd};

	if (client >= 0)
		relay_run(&r, extra, n);
	tunnel_free(t);
}

int api_vm_tunnel(struct request *rq, struct fcm_error *err)
{
	struct vm *vm = http_vm(rq);
	int64_t port;

	if (api_number(rq, "port", 1, 65535, 22, &port, err) < 0 || relay_vm_runs(vm, err) < 0)
		return -1;
	registry_lock();
	struct in_addr ip = vm->view.ip;
	registry_unlock();
	int fd = connect_to(ip, (uint16_t)port, vm->view.name, err);
	if (fd < 0)
		return -1;
	struct tunnel *t = xalloc(sizeof *t);
	*t = (struct tunnel){.fd = fd, .vm = vm_ref(vm)};
	return http_upgrade(rq, "fcm-tunnel", run_tunnel, t);
}
