/*
 * The tunnel: after 101 the connection is the raw bytes of a TCP connection to a port of the VM, so that ssh
 * works from wherever the API does. The daemon connects to the address that it gave the VM, never to one that
 * a client names.
 */
#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "daemon/api/api.h"
#include "daemon/relay.h"

enum { CONNECT_MS = 5000 };

struct tunnel {
	int fd;	       /* the connection into the guest */
	struct vm *vm; /* held */
};

static void tunnel_free(struct tunnel *t)
{
	close(t->fd);
	vm_unref(t->vm);
	free(t);
}

static bool goes_on(void *arg)
{
	struct tunnel *t = arg;

	return api_vm_up(t->vm);
}

/* `client` is -1 when the client left before the switch of protocols. */
static void run_tunnel(void *arg, int client, const void *extra, size_t n)
{
	struct tunnel *t = arg;
	struct relay r = {
		.client = client, .guest = t->fd, .stop_fd = http_stop_fd(), .goes_on = goes_on, .arg = t};

	if (client >= 0)
		relay_run(&r, extra, n);
	tunnel_free(t);
}

int api_vm_tunnel(struct request *rq, struct fcm_error *err)
{
	struct vm *vm = http_vm(rq);
	int64_t port;

	if (api_number(rq, "port", 1, 65535, 22, &port, err) < 0 || api_vm_runs(vm, err) < 0)
		return -1;
	registry_lock();
	struct in_addr ip = vm->view.ip;
	registry_unlock();
	int fd = relay_connect(ip, (uint16_t)port, vm->view.name, err);
	if (fd < 0)
		return -1;
	struct tunnel *t = xalloc(sizeof *t);
	*t = (struct tunnel){.fd = fd, .vm = vm_ref(vm)};
	return http_upgrade(rq, "fcm-tunnel", run_tunnel, t);
}
