#include "daemon/net/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>

#include "daemon/net/link.h"
#include "daemon/proc/proc.h"

static struct {
	pthread_mutex_t lock;
	struct in_addr gateway;
	struct net_vms known;
	uint64_t changes; /* of `known`, counted */
} taps = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const char prefix[] = "tap_";

struct net_tap net_tap_name(const struct vm_id *id)
{
	struct net_tap t = {{0}};

	fcm_format(t.s, sizeof t.s, "%s%s", prefix, id->s);
	return t;
}

void tap_set_gateway(struct in_addr gateway)
{
	taps.gateway = gateway;
}

static void remember(const struct net_vm *vm)
{
	pthread_mutex_lock(&taps.lock);
	net_vms_put(&taps.known, vm);
	taps.changes++;
	pthread_mutex_unlock(&taps.lock);
}

static void forget(const struct net_vm *vm)
{
	pthread_mutex_lock(&taps.lock);
	net_vms_drop(&taps.known, vm->id.s);
	taps.changes++;
	pthread_mutex_unlock(&taps.lock);
}

static bool is_known(const struct net_vm *vm, uint64_t *ret_changes)
{
	pthread_mutex_lock(&taps.lock);
	bool known = net_vms_find(&taps.known, vm->id.s);
	*ret_changes = taps.changes;
	pthread_mutex_unlock(&taps.lock);
	return known;
}

struct net_vms tap_known(void)
{
	struct net_vms copy = {0};

	pthread_mutex_lock(&taps.lock);
	for (size_t i = 0; i < taps.known.n; i++)
		net_vms_put(&copy, &taps.known.v[i]);
	pthread_mutex_unlock(&taps.lock);
	return copy;
}

bool tap_find(const char *name, struct in_addr ip, struct net_vm *ret)
{
	bool found = false;

	pthread_mutex_lock(&taps.lock);
	for (size_t i = 0; i < taps.known.n && !found; i++) {
		const struct net_vm *vm = &taps.known.v[i];
		found = name ? strcmp(net_tap_name(&vm->id).s, name) == 0 : vm->ip.s_addr == ip.s_addr;
		if (found)
			*ret = *vm;
	}
	pthread_mutex_unlock(&taps.lock);
	return found;
}

/* Attach to the TAP `name`, making one that goes with the descriptor if there is none. */
static int tun_open(const char *name, struct fcm_error *err)
{
	struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	auto_close int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		fcm_fail_errno(err, "open /dev/net/tun");
		return fcm_hint(err, "load the module: sudo modprobe tun");
	}
	fcm_copy(r.ifr_name, sizeof r.ifr_name, name);
	if (ioctl(fd, TUNSETIFF, &r) < 0)
		return fcm_fail_errno(err, "attach to %s", name);
	return STEAL_FD(fd);
}

static int not_ours(const char *name, struct fcm_error *err)
{
	fcm_fail(err, FCM_HOST, "there is a device %s that isn't fcm's", name);
	return fcm_hint(err, "see what it is: ip -d link show %s", name);
}

/* A persistent one was there before us: somebody made it since we looked. */
static int check_new(int fd, const char *name, struct fcm_error *err)
{
	struct ifreq r = {0};

	if (ioctl(fd, TUNGETIFF, &r) < 0)
		return fcm_fail_errno(err, "look at %s", name);
	return r.ifr_flags & IFF_PERSIST ? not_ours(name, err) : 0;
}

/* EINVAL: a user namespace that doesn't map that uid; the VMM has our uid there. */
static int set_owner(int fd, const struct net_vm *vm, const char *name, struct fcm_error *err)
{
	if (ioctl(fd, TUNSETOWNER, (unsigned long)vm->uid) < 0 && errno != EINVAL)
		return fcm_fail_errno(err, "give %s to uid %u", name, vm->uid);
	return 0;
}

/* A failure on the way leaves nothing: the device isn't persistent before all is well. */
static int make(const struct net_vm *vm, const char *name, struct fcm_error *err)
{
	auto_close int fd = tun_open(name, err);

	if (fd < 0 || check_new(fd, name, err) < 0 || set_owner(fd, vm, name, err) < 0)
		return -1;
	if (link_make_tap((int)if_nametoindex(name), name, vm, taps.gateway, err) < 0)
		return -1;
	return ioctl(fd, TUNSETPERSIST, 1) < 0 ? fcm_fail_errno(err, "keep %s", name) : 0;
}

static int mend(const struct net_vm *vm, const char *name, int index, struct fcm_error *err)
{
	if (link_make_tap(index, name, vm, taps.gateway, err) < 0)
		return -1;
	return link_mend_route(index, vm, taps.gateway, err);
}

int net_tap_up(const struct net_vm *vm, struct fcm_error *err)
{
	struct net_tap name = net_tap_name(&vm->id);
	struct link link;
	int r = -1;

	if (link_find(name.s, &link, err) < 0)
		return -1;
	switch (link.owner) {
	case LINK_NONE:
		proc_hold_spawns(); /* a child's copy of the descriptor would leave the TAP busy for its VMM */
		r = make(vm, name.s, err);
		proc_release_spawns();
		break;
	case LINK_OURS:
		r = mend(vm, name.s, link.index, err);
		break;
	case LINK_FOREIGN:
		r = not_ours(name.s, err);
		break;
	}
	if (r == 0)
		remember(vm);
	return r;
}

int net_tap_down(const struct net_vm *vm, bool *ret_existed, struct fcm_error *err)
{
	struct link link;

	forget(vm);
	if (link_find(net_tap_name(&vm->id).s, &link, err) < 0)
		return -1;
	if (ret_existed)
		*ret_existed = link.owner == LINK_OURS;
	return link.owner == LINK_OURS ? link_delete(link.index, err) : 0;
}

bool net_tap_exists(const struct vm_id *id)
{
	struct link link;
	struct fcm_error err;

	return link_find(net_tap_name(id).s, &link, &err) < 0 || link.owner == LINK_OURS;
}

int net_tap_open(const struct vm_id *id, struct fcm_error *err)
{
	struct net_tap name = net_tap_name(id);
	struct link link;

	if (link_find(name.s, &link, err) < 0)
		return -1;
	switch (link.owner) {
	case LINK_NONE:
		return fcm_fail(err, FCM_HOST, "there is no device %s", name.s);
	case LINK_FOREIGN:
		return not_ours(name.s, err);
	case LINK_OURS:
		break;
	}
	return tun_open(name.s, err);
}

int net_list_taps(struct strv *ret, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv names = {0};

	if (link_list_ours(&names, err) < 0)
		return -1;
	for (size_t i = 0; i < names.n; i++) {
		const char *id = names.v[i] + strlen(prefix);
		if (strncmp(names.v[i], prefix, strlen(prefix)) == 0 && vm_id_valid(id))
			strv_add(ret, id);
	}
	return 0;
}

int net_traffic(struct net_traffic **ret, size_t *ret_n, struct fcm_error *err)
{
	auto_free struct link_bytes *links = NULL;
	size_t nlinks, n = 0;

	if (link_list_bytes(&links, &nlinks, err) < 0)
		return -1;
	struct net_traffic *list = xalloc((nlinks + 1) * sizeof *list);
	for (size_t i = 0; i < nlinks; i++) {
		const char *id = links[i].name + strlen(prefix);
		if (strncmp(links[i].name, prefix, strlen(prefix)) != 0 || !vm_id_valid(id))
			continue;
		list[n] = (struct net_traffic){.received = links[i].sent, .sent = links[i].received};
		fcm_copy(list[n++].id.s, sizeof list->id.s, id);
	}
	*ret = list;
	*ret_n = n;
	return 0;
}

int tap_adopt(const struct net_vm *vms, size_t n, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv ids = {0};

	if (net_list_taps(&ids, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (strv_has(&ids, vms[i].id.s))
			remember(&vms[i]);
	return 0;
}

int tap_delete_all(struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv ids = {0};

	pthread_mutex_lock(&taps.lock);
	net_vms_done(&taps.known);
	pthread_mutex_unlock(&taps.lock);
	if (net_list_taps(&ids, err) < 0)
		return -1;
	for (size_t i = 0; i < ids.n; i++) {
		struct net_vm vm = {0};
		fcm_copy(vm.id.s, sizeof vm.id.s, ids.v[i]);
		if (net_tap_down(&vm, NULL, err) < 0)
			return -1;
	}
	return 0;
}

/* What we do ourselves meanwhile mustn't be taken for what others did: only a look counts during which `known` stayed
 * as it was, for a look takes 40 us and our own changes are far apart. */
int tap_check(const struct net_vm *vm, bool force, enum tap_state *ret, struct fcm_error *err)
{
	struct net_tap name = net_tap_name(&vm->id);
	struct link link;
	uint64_t before, after;

	*ret = TAP_FINE;
	do {
		if (!is_known(vm, &before))
			return 0;
		if (link_find(name.s, &link, err) < 0)
			return -1;
	} while (is_known(vm, &after) && before != after);
	if (before != after)
		return 0;
	if (link.owner != LINK_OURS) {
		forget(vm);
		*ret = TAP_GONE;
	} else if (force || !link.up) {
		if (mend(vm, name.s, link.index, err) < 0)
			return is_known(vm, &after) ? -1 : 0;
		*ret = TAP_REPAIRED;
	}
	return 0;
}

void net_describe_tap(const struct net_vm *vm, struct strv *ret)
{
	struct net_tap tap = net_tap_name(&vm->id);
	uint8_t m[6];

	net_mac(vm->ip, m);
	strv_addf(ret, "ioctl TUNSETIFF %s IFF_TAP|IFF_NO_PI|IFF_VNET_HDR, TUNSETOWNER %u", tap.s, vm->uid);
	strv_addf(ret,
		"netlink RTM_NEWLINK %s address " NET_HOST_MAC
		" forwarding 1 proxy_arp 1 rp_filter 1 redirects 0",
		tap.s);
	strv_addf(ret, "write /proc/sys/net/ipv4/neigh/%s/proxy_delay 0", tap.s);
	strv_addf(ret, "write /proc/sys/net/ipv6/conf/%s/disable_ipv6 1", tap.s);
	strv_addf(ret, "netlink RTM_NEWLINK %s mtu 1500 group %d up", tap.s, NET_GROUP);
	strv_addf(ret, "netlink RTM_NEWADDR %s %s peer %s/32", tap.s, ip_dotted(taps.gateway).s,
		ip_dotted(vm->ip).s);
	strv_addf(ret, "netlink RTM_NEWNEIGH %s %s lladdr %02x:%02x:%02x:%02x:%02x:%02x permanent", tap.s,
		ip_dotted(vm->ip).s, m[0], m[1], m[2], m[3], m[4], m[5]);
	strv_addf(ret, "ioctl TUNSETPERSIST %s", tap.s);
}
