/*
 * How our own changes are told from foreign ones: the kernel puts the port of the netlink socket that asked for a change
 * into each notification of it. libnftables keeps its socket to itself, so it is found among our descriptors: it is
 * the netlink socket of netfilter that appears while nft_ctx_new() runs and isn't bound yet; the kernel binds it to a
 * port when it is first used (netlink(7)).
 */
#include "daemon/net/firewall.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <nftables/libnftables.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

static struct {
	pthread_mutex_t lock;
	struct nft_ctx *nft;
	_Atomic uint32_t port;
	bool installed;
	bool owed; /* the kernel hasn't got all of `rules`: a transaction failed */
	struct rules rules;
} fw = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

static void unlockp(pthread_mutex_t **m)
{
	pthread_mutex_unlock(*m);
}

#define HOLD_LOCK()                                                                                          \
	pthread_mutex_lock(&fw.lock);                                                                        \
	_cleanup_(unlockp) __attribute__((unused)) pthread_mutex_t *held_ = &fw.lock

static bool is_unbound_netfilter(int fd)
{
	struct sockaddr_nl a = {0};
	int protocol = -1;
	socklen_t n = sizeof a, m = sizeof protocol;

	return getsockname(fd, (struct sockaddr *)&a, &n) == 0 && a.nl_family == AF_NETLINK &&
	       a.nl_pid == 0 && getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &m) == 0 &&
	       protocol == NETLINK_NETFILTER;
}

/* The descriptor of libnftables' socket, right after nft_ctx_new(), or -1. */
static int find_socket(void)
{
	_cleanup_(closedirp) DIR *d = opendir("/proc/self/fd");
	struct dirent *e;
	int64_t fd;

	while (d && (e = readdir(d)))
		if (fcm_parse_i64(e->d_name, 0, INT32_MAX, &fd) && is_unbound_netfilter((int)fd))
			return (int)fd;
	return -1;
}

/* nft's complaint is several lines with a picture of the command: keep the first. */
static int run(const char *text, struct fcm_error *err)
{
	if (nft_run_cmd_from_buffer(fw.nft, text) == 0)
		return 0;
	const char *said = nft_ctx_get_error_buffer(fw.nft);
	return fcm_fail(err, FCM_HOST, "nftables: %.*s", (int)strcspn(said, "\n"), said);
}

static int open_context(struct fcm_error *err)
{
	struct sockaddr_nl a = {0};
	socklen_t n = sizeof a;

	if (fw.nft)
		return 0;
	struct nft_ctx *nft = nft_ctx_new(NFT_CTX_DEFAULT);
	if (nft == NULL)
		return fcm_fail(err, FCM_HOST, "nftables: no netlink socket");
	int fd = find_socket();
	if (fd >= 0)
		fcntl(fd, F_SETFD, FD_CLOEXEC); /* the library doesn't, and a VMM must not get it */
	fw.nft = nft;
	nft_ctx_buffer_output(nft);
	nft_ctx_buffer_error(nft);
	if (run("list tables inet", err) < 0 || getsockname(fd, (struct sockaddr *)&a, &n) < 0 ||
		a.nl_pid == 0) {
		nft_ctx_free(nft);
		fw.nft = NULL;
		return fd < 0 ? fcm_fail(err, FCM_INTERNAL, "nftables: the library's socket wasn't found")
			      : -1;
	}
	atomic_store(&fw.port, a.nl_pid);
	return 0;
}

static int install(struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};

	rules_table(&fw.rules, &text);
	fw.owed = run(text.p, err) < 0;
	return fw.owed ? -1 : 0;
}

int firewall_check(const struct rules *rules, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};

	rules_table(rules, &text);
	HOLD_LOCK();
	if (open_context(err) < 0)
		return -1;
	nft_ctx_set_dry_run(fw.nft, true);
	int r = run(text.p, err);
	nft_ctx_set_dry_run(fw.nft, false);
	return r;
}

int firewall_install(const struct rules *rules, struct fcm_error *err)
{
	HOLD_LOCK();
	if (open_context(err) < 0)
		return -1;
	rules_done(&fw.rules);
	fw.rules = (struct rules){.pool = rules->pool, .gateway = rules->gateway, .site = rules->site};
	strv_copy(&fw.rules.no_router, &rules->no_router);
	for (size_t i = 0; i < rules->vms.n; i++) {
		const struct net_vm *vm = &rules->vms.v[i];
		net_vms_put(&fw.rules.vms, vm);
		if (vm->ports)
			net_ports_put(&fw.rules.ports, vm, vm->ports);
	}
	fw.installed = true;
	return install(err);
}

int firewall_rebuild(struct fcm_error *err)
{
	HOLD_LOCK();
	return fw.installed ? install(err) : 0;
}

int firewall_remove(struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	HOLD_LOCK();

	rules_delete_table(&text);
	if (open_context(err) < 0)
		return -1;
	fw.installed = false;
	rules_done(&fw.rules);
	int r = run(text.p, err);
	nft_ctx_free(fw.nft);
	fw.nft = NULL;
	atomic_store(&fw.port, 0);
	return r;
}

/* Run `text`; when that fails, perhaps because somebody else flushed our table a moment ago, install what should be. */
static int run_or_install(const char *text, struct fcm_error *err)
{
	struct fcm_error ignored;

	return !fw.owed && run(text, &ignored) == 0 ? 0 : install(err);
}

static int not_installed(struct fcm_error *err)
{
	return fcm_fail(err, FCM_INTERNAL, "the network isn't up: net_init() comes first");
}

int firewall_add_vm(const struct net_vm *vm, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	HOLD_LOCK();

	if (!fw.installed)
		return not_installed(err);
	const struct net_vm *old = net_vms_find(&fw.rules.vms, vm->id.s);
	if (old && old->ip.s_addr != vm->ip.s_addr) {
		rules_add_vm(old, &text);
		rules_delete_vm(old, &text);
	}
	rules_add_vm(vm, &text);
	net_vms_put(&fw.rules.vms, vm);
	if (run_or_install(text.p, err) == 0)
		return 0;
	net_vms_drop(&fw.rules.vms, vm->id.s);
	return -1;
}

int firewall_delete_vm(const struct net_vm *vm, unsigned *ret_elements, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0}, both = {0};
	struct fcm_error ignored;
	HOLD_LOCK();

	if (!fw.installed)
		return not_installed(err);
	rules_delete_vm(vm, &text);
	net_vms_drop(&fw.rules.vms, vm->id.s);
	if (run(text.p, &ignored) == 0) {
		*ret_elements = 1;
		return 0;
	}
	/* nft 1.0.6 knows no `destroy`: adding it first makes the deletion of a missing one succeed */
	rules_add_vm(vm, &both);
	buf_str(&both, text.p);
	if (run_or_install(both.p, err) < 0)
		return -1;
	*ret_elements = 0;
	return 0;
}

/* As the table that a new daemon installs has them. */
static bool has_ports(const struct net_vm *vm, const struct publish_list *ports)
{
	size_t all = 0, same = 0;

	for (size_t i = 0; i < fw.rules.ports.n; i++) {
		const struct net_port *have = &fw.rules.ports.v[i];
		if (strcmp(have->id.s, vm->id.s) != 0)
			continue;
		all++;
		same += publish_list_has(ports, &have->p);
	}
	return all == ports->n && same == all;
}

int firewall_publish(const struct net_vm *vm, const struct publish_list *ports, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	HOLD_LOCK();

	if (!fw.installed)
		return not_installed(err);
	if (!fw.owed && has_ports(vm, ports))
		return 0;
	net_ports_put(&fw.rules.ports, vm, ports);
	rules_ports(&fw.rules.ports, &text);
	return run_or_install(text.p, err);
}

bool firewall_publishes(const struct vm_id *id)
{
	HOLD_LOCK();

	for (size_t i = 0; i < fw.rules.ports.n; i++)
		if (strcmp(fw.rules.ports.v[i].id.s, id->s) == 0)
			return true;
	return false;
}

int firewall_site(struct in_addr site, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	HOLD_LOCK();

	if (!fw.installed)
		return not_installed(err);
	if (!fw.owed && fw.rules.site.s_addr == site.s_addr)
		return 0;
	fw.rules.site = site;
	rules_site(site, &text);
	return run_or_install(text.p, err);
}

static bool same_names(const struct strv *a, const struct strv *b)
{
	for (size_t i = 0; a->n == b->n && i < a->n; i++)
		if (strcmp(a->v[i], b->v[i]) != 0)
			return false;
	return a->n == b->n;
}

int firewall_no_router(const struct strv *names, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	HOLD_LOCK();

	if (!fw.installed)
		return not_installed(err);
	if (!fw.owed && same_names(&fw.rules.no_router, names))
		return 0;
	strv_done(&fw.rules.no_router);
	strv_copy(&fw.rules.no_router, names);
	rules_no_router(names, &text);
	return run_or_install(text.p, err);
}

int firewall_list(const char *command, struct buf *ret, struct fcm_error *err)
{
	HOLD_LOCK();

	if (open_context(err) < 0 || run(command, err) < 0)
		return -1;
	buf_str(ret, nft_ctx_get_output_buffer(fw.nft));
	return 0;
}

uint32_t firewall_port(void)
{
	return atomic_load(&fw.port);
}
