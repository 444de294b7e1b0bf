#include "daemon/engine/vm.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/config.h"
#include "common/core/clock.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/events.h"
#include "daemon/engine/op.h"
#include "daemon/engine/site.h"
#include "daemon/engine/volumes.h"
#include "daemon/net/ipam.h"
#include "daemon/net/net.h"

enum { WAITING_MAX = 16 }; /* requests that wait for one VM, a thread each */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed; /* on CLOCK_MONOTONIC; made once */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static struct vm **vms; /* in order of creation */
static size_t nvms;
static uint64_t generation = 1; /* counts changes of anything that the API shows */
static struct buf list_text;	/* cached {"vms":[...]}, or empty */

static void make_cond(void)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&changed, &attr);
	pthread_condattr_destroy(&attr);
}

struct guest *vm_guest(struct vm *vm)
{
	registry_lock();
	struct guest *g = vm->guest ? guest_ref(vm->guest) : NULL;
	registry_unlock();
	return g;
}

void vm_set_guest(struct vm *vm, struct guest *guest)
{
	registry_lock();
	struct guest *old = vm->guest;
	vm->guest = guest;
	registry_unlock();
	guest_close(old);
}

void registry_lock(void)
{
	pthread_mutex_lock(&lock);
}

void registry_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

/* Wait for a change until `deadline`, with the lock held. False when the time is over. */
static bool wait_changed(int64_t deadline)
{
	struct timespec t = clock_monotonic(deadline);

	if (clock_left(deadline) == 0)
		return false;
	pthread_once(&once, make_cond);
	return pthread_cond_timedwait(&changed, &lock, &t) == 0 || deadline == FCM_FOREVER;
}

static void wake(void)
{
	pthread_once(&once, make_cond);
	generation++;
	pthread_cond_broadcast(&changed);
}

/* ---- one VM ---- */

struct vm *vm_new(void)
{
	struct vm *vm = xalloc(sizeof *vm);

	vm->refs = 1;
	vm->dirfd = vm->shim_pidfd = -1;
	vm->main_exit = -1;
	return vm;
}

struct vm *vm_ref(struct vm *vm)
{
	registry_lock();
	vm->refs++;
	registry_unlock();
	return vm;
}

static void vm_free(struct vm *vm)
{
	fcm_closep(&vm->dirfd);
	fcm_closep(&vm->shim_pidfd);
	field_done(vm_view_fields, &vm->view);
	free(vm->text);
	free(vm);
}

void vm_unref(struct vm *vm)
{
	if (vm == NULL)
		return;
	registry_lock();
	bool last = --vm->refs == 0;
	registry_unlock();
	if (last)
		vm_free(vm);
}

/* A client that goes away leaves its operation behind, so requests that wait are counted; those that kill the VM, which come
 * first, by themselves. What nobody asked for (the end of a VMM) has its place in any case. */
static bool is_crowded(const struct vm *vm, const struct op *op)
{
	unsigned before = op->urgent ? vm->urgent : vm->waiting;

	return vm->busy && before >= WAITING_MAX && !op->alone;
}

static bool must_wait(const struct vm *vm, const struct op *op)
{
	return vm->busy || (vm->urgent && !op->urgent);
}

int registry_claim(struct vm *vm, struct op *op, int64_t deadline, struct fcm_error *err)
{
	int rc = 0;

	registry_lock();
	bool crowded = is_crowded(vm, op);
	vm->waiting++;
	vm->urgent += op->urgent;
	while (!crowded && must_wait(vm, op) && vm->listed && wait_changed(deadline))
		;
	vm->waiting--;
	vm->urgent -= op->urgent;
	if (!vm->listed)
		rc = fcm_fail(err, FCM_NOT_FOUND, "VM '%s' was destroyed", vm->view.name);
	else if (must_wait(vm, op))
		rc = fcm_fail(err, FCM_BUSY, "VM '%s' is busy with another operation", vm->view.name);
	else
		vm->busy = op;
	registry_unlock();
	return rc;
}

void registry_drop(struct vm *vm)
{
	registry_lock();
	vm->busy = NULL;
	vm->admitted = vm->has_volumes = false;
	wake();
	registry_unlock();
}

/* ---- the list ---- */

static struct vm *by_name(const char *name)
{
	for (size_t i = 0; i < nvms; i++)
		if (strcmp(vms[i]->view.name, name) == 0)
			return vms[i];
	return NULL;
}

static struct vm *by_id(const char *id)
{
	for (size_t i = 0; i < nvms; i++)
		if (strcmp(vms[i]->id.s, id) == 0)
			return vms[i];
	return NULL;
}

static bool name_or_id_taken(const char *s, void *arg)
{
	(void)arg;
	return by_name(s) || by_id(s) || site_name_is_api(s);
}

int registry_domain_free(const char *domain, const struct vm *self, struct fcm_error *err)
{
	if (site_is_api(domain)) {
		fcm_fail_field(err, FCM_DOMAIN_TAKEN, "domain", "%s is the API's own name", domain);
		return fcm_hint(err, "choose another domain, or another api_domain in " CONFIG_FILE);
	}
	for (size_t i = 0; i < nvms; i++)
		if (vms[i] != self && vms[i]->view.expose.port &&
			strcmp(vms[i]->view.expose.domain, domain) == 0)
			return fcm_fail_field(
				err, FCM_DOMAIN_TAKEN, "domain", "%s is another VM's domain", domain);
	return 0;
}

/* May `self` have the name? What to do instead is for the caller to say. */
static int name_free(const char *name, const struct vm *self, struct fcm_error *err)
{
	const struct vm *other = by_name(name);

	if (other && other != self) {
		fcm_fail_field(err, FCM_NAME_TAKEN, "name", "the name is taken (%s, %s)", other->id.s,
			vm_state_names[other->view.state]);
		return fcm_veil(err, "the name is taken");
	}
	if (site_name_is_api(name)) {
		fcm_fail_field(err, FCM_NAME_TAKEN, "name", "'%s' is the name of this host's API, %s", name,
			site_api_domain());
		return fcm_hint(err, "choose another name, or another api_domain in " CONFIG_FILE);
	}
	if (by_id(name))
		return fcm_fail_field(err, FCM_NAME_TAKEN, "name",
			"a VM with the id '%s' exists: choose another name", name);
	return 0;
}

static int choose_name(struct vm *vm, struct fcm_error *err)
{
	struct vm_view *v = &vm->view;

	if (v->name[0] == '\0') {
		fcm_copy(v->name, sizeof v->name, vm_name_random(name_or_id_taken, NULL).s);
		return 0;
	}
	if (name_free(v->name, vm, err) == 0)
		return 0;
	return by_name(v->name) ? fcm_hint(err, "try --name %s-2, or fcm destroy %s", v->name, v->name) : -1;
}

int registry_rename(struct vm *vm, const char *name, struct fcm_error *err)
{
	registry_lock();
	int rc = name_free(name, vm, err);
	if (rc == 0) {
		fcm_copy(vm->view.name, sizeof vm->view.name, name);
		registry_changed(vm);
	}
	registry_unlock();
	return rc;
}

static int choose_address(struct vm *vm, struct fcm_error *err)
{
	auto_free struct in_addr *taken = xalloc((nvms + 1) * sizeof *taken);

	for (size_t i = 0; i < nvms; i++)
		taken[i] = vms[i]->view.ip.s_addr ? vms[i]->view.ip : vms[i]->held_ip;
	return ipam_pick(&engine()->ipam, taken, nvms, &vm->view.ip, err);
}

static int choose(struct vm *vm, struct fcm_error *err)
{
	struct vm_view *v = &vm->view;

	if (nvms >= engine()->config->max_vms)
		return fcm_fail(
			err, FCM_INSUFFICIENT, "%zu VMs exist already, which is the limit (max_vms)", nvms);
	do
		vm->id = vm_id_random();
	while (name_or_id_taken(vm->id.s, NULL));
	if (choose_name(vm, err) < 0 || choose_address(vm, err) < 0)
		return -1;
	volumes_choose(&v->spec.volumes, &vm->id);
	if (volumes_staying(vm, err) < 0)
		return -1;
	fcm_copy(v->id, sizeof v->id, vm->id.s);
	v->uid = engine_uid(v->ip);
	uint8_t m[6];
	net_mac(v->ip, m);
	fcm_format(
		v->mac, sizeof v->mac, "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
	if (v->expose.port == 0)
		return 0;
	if (v->expose.domain[0] == '\0')
		engine_domain(v->name, v->expose.domain, sizeof v->expose.domain);
	fcm_copy(v->expose.status, sizeof v->expose.status, "pending");
	return registry_domain_free(v->expose.domain, vm, err);
}

static void insert(struct vm *vm)
{
	vms = xrealloc(vms, (nvms + 1) * sizeof *vms);
	vms[nvms++] = vm;
	vm->listed = true;
	vm->refs++;
	registry_changed(vm);
}

int registry_choose(struct vm *vm, struct op *op, bool enter, struct fcm_error *err)
{
	registry_lock();
	int rc = choose(vm, err);
	if (rc == 0 && enter) {
		vm->busy = op;
		insert(vm);
	}
	registry_unlock();
	return rc;
}

void registry_add(struct vm *vm)
{
	registry_lock();
	vm->listed = true;
	events_known(vm);
	insert(vm);
	registry_unlock();
}

void registry_remove(struct vm *vm)
{
	registry_lock();
	bool was = vm->listed;
	for (size_t i = 0; was && i < nvms; i++)
		if (vms[i] == vm) {
			memmove(&vms[i], &vms[i + 1], (nvms - i - 1) * sizeof *vms);
			nvms--;
			break;
		}
	vm->listed = false;
	registry_changed(vm);
	registry_unlock();
	if (was)
		vm_unref(vm);
}

static bool sees(const char *only, const struct vm *vm)
{
	return labels_have(&vm->view.spec.labels, only);
}

static struct vm *by_prefix(const char *text, const char *only, struct fcm_error *err)
{
	struct vm *found = NULL;
	size_t n = strlen(text);

	for (size_t i = 0; n >= 4 && i < nvms; i++) {
		if (strncmp(vms[i]->id.s, text, n) != 0 || !sees(only, vms[i]))
			continue;
		if (found) {
			fcm_fail(err, FCM_INVALID, "'%s' is the beginning of several ids", text);
			return NULL;
		}
		found = vms[i];
	}
	if (found == NULL)
		fcm_fail(err, FCM_NOT_FOUND, "there is no VM '%.64s'", text);
	return found;
}

struct vm *registry_find(const char *text, bool exact, const char *only, struct fcm_error *err)
{
	registry_lock();
	struct vm *vm = by_name(text);
	if (vm == NULL)
		vm = by_id(text);
	if (vm && !sees(only, vm))
		vm = NULL;
	if (vm == NULL && exact)
		fcm_fail(err, FCM_NOT_FOUND, "there is no VM '%.64s'", text);
	else if (vm == NULL)
		vm = by_prefix(text, only, err);
	if (vm)
		vm->refs++;
	registry_unlock();
	return vm;
}

bool registry_listed(struct vm *vm)
{
	registry_lock();
	bool listed = vm->listed;
	registry_unlock();
	return listed;
}

int registry_dirfd(struct vm *vm)
{
	registry_lock();
	int fd = vm->dirfd;
	registry_unlock();
	return fd;
}

size_t registry_seen(const char *only, struct vm ***ret)
{
	size_t n = 0;

	registry_lock();
	*ret = xalloc((nvms + 1) * sizeof **ret);
	for (size_t i = 0; i < nvms; i++) {
		if (!sees(only, vms[i]))
			continue;
		(*ret)[n++] = vms[i];
		vms[i]->refs++;
	}
	registry_unlock();
	return n;
}

size_t registry_all(struct vm ***ret)
{
	return registry_seen(NULL, ret);
}

struct vm *const *registry_locked(size_t *ret_n)
{
	*ret_n = nvms;
	return vms;
}

void registry_all_done(struct vm **all, size_t n)
{
	for (size_t i = 0; i < n; i++)
		vm_unref(all[i]);
	free(all);
}

/* ---- what the API shows ---- */

void registry_changed(struct vm *vm)
{
	free(STEAL(vm->text));
	buf_done(&list_text);
	events_note(vm);
	wake();
}

/* The VM's cached text; with the lock held. */
static const char *vm_text(struct vm *vm)
{
	if (vm->text == NULL) {
		field_json *v = vm_view_json(&vm->view, false);
		vm_json_health(v, &vm->health);
		vm->text = fj_print(v, false);
		fj_free(v);
	}
	return vm->text;
}

char *registry_vm_text(struct vm *vm)
{
	registry_lock();
	char *text = xstrdup(vm_text(vm));
	registry_unlock();
	return text;
}

static void add_list(const struct vm_filter *filter, struct buf *b)
{
	bool first = true;

	buf_str(b, "{\"vms\":[");
	for (size_t i = 0; i < nvms; i++) {
		if (!vm_filter_fits(filter, &vms[i]->view))
			continue;
		buf_str(b, first ? "" : ",");
		buf_str(b, vm_text(vms[i]));
		first = false;
	}
	buf_str(b, "]}\n");
}

void registry_list_text(const struct vm_filter *filter, struct buf *ret)
{
	bool whole = vm_filter_empty(filter);

	registry_lock();
	if (whole && list_text.n == 0)
		add_list(filter, &list_text);
	if (whole)
		buf_add(ret, list_text.p, list_text.n);
	else
		add_list(filter, ret);
	registry_unlock();
}

void registry_wait(uint64_t *seen, int64_t deadline)
{
	registry_lock();
	while (*seen == generation && wait_changed(deadline))
		;
	*seen = generation;
	registry_unlock();
}

void registry_wake(void)
{
	registry_lock();
	wake();
	registry_unlock();
}

static bool occupies(const struct vm *vm)
{
	enum vm_state s = vm->view.state;

	return vm->admitted || vm_state_up(s);
}

/* What it has, or will have once it starts again, whichever is more. */
static uint32_t memory_of(const struct vm *vm)
{
	return MAX(vm->view.spec.mem_mib, vm->view.next.mem_mib);
}

void registry_count(const char *only, size_t *ret_total, size_t *ret_running)
{
	*ret_total = *ret_running = 0;
	registry_lock();
	for (size_t i = 0; i < nvms; i++) {
		*ret_total += sees(only, vms[i]);
		*ret_running += sees(only, vms[i]) && vms[i]->view.state == VM_RUNNING;
	}
	registry_unlock();
}

bool registry_admit(struct vm *vm, uint64_t usable, uint64_t *ret_used)
{
	uint64_t mib = 0;

	registry_lock();
	for (size_t i = 0; i < nvms; i++)
		if (vms[i] != vm && occupies(vms[i]))
			mib += memory_of(vms[i]);
	vm->admitted = mib + memory_of(vm) <= usable;
	registry_unlock();
	*ret_used = mib;
	return vm->admitted;
}
