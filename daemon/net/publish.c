/*
 * The sockets of published ports. Each is held while its VM publishes it: no other program gets the port, whoever wants it
 * is refused at once, and what the rules don't take reaches the VM all the same: connections to 127.0.0.1, and for a moment
 * all, when somebody flushed the rules. Those are passed on here, by a thread each.
 *
 * UDP has no connections that one could pass on, so its sockets are held and never read: a datagram to 127.0.0.1 is lost.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "daemon/loop.h"
#include "daemon/net/config.h"
#include "daemon/net/firewall.h"
#include "daemon/net/net.h"
#include "daemon/net/nfnl.h"
#include "daemon/net/watch.h"
#include "daemon/relay.h"

enum {
	BACKLOG = 128,
	RELAYS_MAX = 256, /* connections that are passed on at one time, of all ports together */
	RELAY_STACK = 64 << 10,
};

/* A port that is held. Relays hold a reference: `stop` ends them. */
struct hold {
	struct vm_id id;
	char name[64];
	struct in_addr ip;
	struct publish p;
	int fd, stop;
	struct loop_source *source; /* of TCP */
	_Atomic unsigned refs;
};

static struct {
	pthread_mutex_t lock; /* taken before that of the rules; never by the loop's callback */
	struct hold **v;
	size_t n;
} holds = {.lock = PTHREAD_MUTEX_INITIALIZER};
static _Atomic unsigned relays;

static void hold_unref(struct hold *h)
{
	if (--h->refs > 0)
		return;
	fcm_closep(&h->fd);
	fcm_closep(&h->stop);
	free(h);
}

/* ---- passing on ---- */

struct passed {
	struct hold *hold;
	int client;
};

static void *pass_on(void *arg)
{
	struct passed *c = arg;
	struct hold *h = c->hold;
	struct fcm_error ignored;
	auto_close int client = c->client;
	auto_close int guest = relay_connect(h->ip, h->p.port, h->name, &ignored);
	struct relay r = {.client = client, .guest = guest, .stop_fd = h->stop};

	free(c);
	if (guest >= 0)
		relay_run(&r, "", 0);
	hold_unref(h);
	relays--;
	return NULL;
}

static void start_relay(struct hold *h, int client)
{
	struct passed *c = xalloc(sizeof *c);
	pthread_attr_t attr;
	pthread_t thread;

	*c = (struct passed){h, client};
	h->refs++;
	relays++;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, RELAY_STACK);
	if (pthread_create(&thread, &attr, pass_on, c) != 0) {
		relays--;
		hold_unref(h);
		close(client);
		free(c);
	}
	pthread_attr_destroy(&attr);
}

/* On the loop's thread. A crowd is turned away: this isn't the way for many. */
static void on_client(void *arg, uint32_t events)
{
	struct hold *h = arg;
	int client = accept4(h->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (client < 0)
		return;
	if (relays < RELAYS_MAX)
		start_relay(h, client);
	else
		close(client);
}

/* ---- holding ---- */

/* Ports of this host that a VM doesn't get, whatever listens there now. */
static const char *reserved_for(const struct publish *p)
{
	static const struct {
		uint16_t port;
		const char *owner;
	} reserved[] = {{22, "this host's own ssh"}, {80, "public names (fcm expose)"},
		{443, "public names (fcm expose)"}};

	if (p->udp)
		return NULL;
	if (p->host_port && p->host_port == net_config()->api_port)
		return "fcm's own API";
	for (size_t i = 0; i < ARRAY_SIZE(reserved); i++)
		if (reserved[i].port == p->host_port)
			return reserved[i].owner;
	return NULL;
}

static int fail_taken(const struct publish *p, const char *owner, struct fcm_error *err)
{
	fcm_fail_field(err, FCM_PORT_TAKEN, "publish", "port %u/%s of %s is taken by %s", p->host_port,
		p->udp ? "udp" : "tcp", p->host.s_addr == INADDR_ANY ? "this host" : ip_dotted(p->host).s,
		owner);
	return -1;
}

static int bind_port(struct publish *p, struct fcm_error *err)
{
	auto_close int fd =
		socket(AF_INET, (p->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(p->host_port), .sin_addr = p->host};
	socklen_t n = sizeof a;
	const int yes = 1;

	if (fd < 0)
		return fcm_fail_errno(err, "socket");
	if (!p->udp) /* connections of before may still be in TIME_WAIT */
		(void)!setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
	int r = bind(fd, (struct sockaddr *)&a, sizeof a);
	if (r == 0 && !p->udp)
		r = listen(fd, BACKLOG);
	if (r < 0 && errno == EADDRINUSE) {
		fail_taken(p, "another program", err);
		return fcm_hint(err, "ss -lnp%s 'sport = :%u' shows which", p->udp ? "u" : "t", p->host_port);
	}
	if (r < 0 && errno == EADDRNOTAVAIL)
		return fcm_fail_field(
			err, FCM_INVALID, "publish", "%s is no address of this host", ip_dotted(p->host).s);
	if (r < 0 || getsockname(fd, (struct sockaddr *)&a, &n) < 0)
		return fcm_fail_errno(err, "take port %u", p->host_port);
	p->host_port = ntohs(a.sin_port);
	return STEAL_FD(fd);
}

static const struct hold *find_owner(const struct publish *p, const struct vm_id *but)
{
	for (size_t i = 0; i < holds.n; i++)
		if (publish_clash(&holds.v[i]->p, p) && strcmp(holds.v[i]->id.s, but->s) != 0)
			return holds.v[i];
	return NULL;
}

static struct hold *take_port(
	const struct net_vm *vm, const char *name, struct publish *p, struct fcm_error *err)
{
	const struct hold *owner = find_owner(p, &vm->id);
	const char *reserved = reserved_for(p);

	if (reserved || owner) {
		auto_free char *who = owner ? xprintf("VM '%s'", owner->name) : xstrdup(reserved);
		fail_taken(p, who, err);
		if (owner)
			fcm_veil(err, "port %u is taken by another VM", p->host_port);
		return NULL;
	}
	auto_close int fd = bind_port(p, err);
	auto_close int stop = eventfd(0, EFD_CLOEXEC);
	if (fd < 0 || stop < 0) {
		if (fd >= 0)
			fcm_fail_errno(err, "eventfd");
		return NULL;
	}
	struct hold *h = xalloc(sizeof *h);
	*h = (struct hold){
		.id = vm->id, .ip = vm->ip, .p = *p, .fd = STEAL_FD(fd), .stop = STEAL_FD(stop), .refs = 1};
	fcm_copy(h->name, sizeof h->name, name);
	if (!p->udp && loop_add(watch_loop(), h->fd, EPOLLIN, on_client, h, &h->source, err) < 0) {
		hold_unref(h);
		return NULL;
	}
	return h;
}

/* Nobody is passed on any more. */
static void let_go(struct hold *h)
{
	loop_remove(h->source);
	eventfd_write(h->stop, 1);
	hold_unref(h);
}

static struct hold *find_held(const struct vm_id *id, const struct publish *p)
{
	for (size_t i = 0; i < holds.n; i++)
		if (strcmp(holds.v[i]->id.s, id->s) == 0 && publish_same(&holds.v[i]->p, p))
			return holds.v[i];
	return NULL;
}

/* Hold what isn't held yet; *ret_first: where the new ones begin. On failure none is new. */
static int hold_all(const struct net_vm *vm, const char *name, struct publish_list *ports, size_t *ret_first,
	struct fcm_error *err)
{
	*ret_first = holds.n;
	for (size_t i = 0; i < ports->n; i++) {
		struct hold *h = find_held(&vm->id, &ports->v[i]);
		if (h) {
			fcm_copy(h->name, sizeof h->name, name); /* it may have another one by now */
			continue;
		}
		h = take_port(vm, name, &ports->v[i], err);
		if (h == NULL)
			return -1;
		holds.v = xrealloc(holds.v, (holds.n + 1) * sizeof(struct hold *));
		holds.v[holds.n++] = h;
	}
	return 0;
}

static void drop_from(size_t first)
{
	while (holds.n > first)
		let_go(holds.v[--holds.n]);
}

/* Let go what the VM doesn't publish any more, and cut what came that way. */
static int drop_unwanted(const struct net_vm *vm, const struct publish_list *ports, struct fcm_error *err)
{
	size_t kept = 0;
	int rc = 0;

	for (size_t i = 0; i < holds.n; i++) {
		struct hold *h = holds.v[i];
		if (strcmp(h->id.s, vm->id.s) != 0 || publish_list_has(ports, &h->p)) {
			holds.v[kept++] = h;
			continue;
		}
		if (rc == 0)
			rc = nfnl_forget_port(vm->ip, &h->p, err);
		let_go(h);
	}
	holds.n = kept;
	return rc;
}

static bool publishes(const struct vm_id *id)
{
	for (size_t i = 0; i < holds.n; i++)
		if (strcmp(holds.v[i]->id.s, id->s) == 0)
			return true;
	return false;
}

static int publish(
	const struct net_vm *vm, const char *name, struct publish_list *ports, struct fcm_error *err)
{
	size_t first;

	if (hold_all(vm, name, ports, &first, err) < 0 || firewall_publish(vm, ports, err) < 0) {
		drop_from(first);
		return -1;
	}
	return drop_unwanted(vm, ports, err);
}

int net_publish(const struct net_vm *vm, const char *name, struct publish_list *ports, struct fcm_error *err)
{
	int rc = 0;

	pthread_mutex_lock(&holds.lock);
	if (ports->n || publishes(&vm->id) || firewall_publishes(&vm->id))
		rc = publish(vm, name, ports, err);
	pthread_mutex_unlock(&holds.lock);
	return rc;
}

void net_describe_publish(const struct net_vm *vm, const struct publish_list *ports, struct strv *ret)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct net_ports list = {0};

	for (size_t i = 0; i < ports->n; i++)
		strv_addf(ret, "hold %s port %u of %s", ports->v[i].udp ? "UDP" : "TCP",
			ports->v[i].host_port, ip_dotted(ports->v[i].host).s);
	net_ports_put(&list, vm, ports);
	rules_ports(&list, &text);
	for (char *rest = text.p, *line; (line = strsep(&rest, "\n")) && *line;)
		if (strncmp(line, "add ", 4) == 0)
			strv_addf(ret, "nft %s", line);
	net_ports_done(&list);
}
