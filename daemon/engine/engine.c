#include "daemon/engine/engine.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/log.h"
#include "daemon/caddy/caddy.h"
#include "daemon/disk/volume.h"
#include "daemon/engine/events.h"
#include "daemon/engine/mainlog.h"
#include "daemon/engine/ops.h"
#include "daemon/engine/site.h"
#include "daemon/engine/supervise.h"
#include "daemon/engine/timekeeper.h"
#include "daemon/net/net.h"
#include "daemon/vmm/bootargs.h"

static struct engine the;
static _Atomic bool stopping;

const struct engine *engine(void)
{
	return &the;
}

unsigned engine_starts_at_once(void)
{
	uint32_t n = engine()->config->starts_at_once;

	return n ? n : (unsigned)sysconf(_SC_NPROCESSORS_ONLN) + 1;
}

bool engine_stopping(void)
{
	return stopping;
}

uid_t engine_uid(struct in_addr ip)
{
	return the.config->uid_base + (ntohl(ip.s_addr) - ntohl(the.ipam.pool.addr.s_addr));
}

/* The address whose VM has that uid, the reverse; 0 when it is none of ours. */
static struct in_addr ip_of_uid(uid_t uid)
{
	struct in_addr ip = {htonl(ntohl(the.ipam.pool.addr.s_addr) + (uid - the.config->uid_base))};

	return uid >= the.config->uid_base && ip_net_has(&the.ipam.pool, ip) ? ip : (struct in_addr){0};
}

void engine_domain(const char *name, char *ret, size_t size)
{
	struct in_addr ip;

	if (the.config->domain[0]) {
		fcm_format(ret, size, "%s.%s", name, the.config->domain);
		return;
	}
	net_public_ip(&ip);
	fcm_format(ret, size, "%s.%s.sslip.io", name, ip_dashed(ip).s);
}

char *engine_path(const char *fmt, ...)
{
	auto_free char *tail = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&tail, fmt, ap) < 0)
		abort();
	va_end(ap);
	return xprintf("%s/%s", the.config->state_dir, tail);
}

/* ---- start ---- */

static int open_templates(struct fcm_error *err)
{
	auto_free char *dir = engine_path("templates");

	if (dir_make(dir, 0700, err) < 0)
		return -1;
	the.templates = dir_open(AT_FDCWD, dir, err);
	return the.templates < 0 ? -1 : volume_init(the.config->state_dir, err);
}

/* A VM whose config.json can't be read: listed as failed under its id, its disk kept. One without any
 * config.json was never finished and is rolled back. */
static void load_broken(struct vm *vm, const struct fcm_error *why)
{
	struct vm_view *v = &vm->view;
	struct stat st;

	if (fstatat(vm->dirfd, "rootfs.img", &st, AT_SYMLINK_NOFOLLOW) == 0)
		vm->held_ip = ip_of_uid(st.st_uid);
	field_done(vm_view_fields, v);
	*v = (struct vm_view){.state = why->code == FCM_NOT_FOUND ? VM_CREATING : VM_FAILED, .schema = 1};
	fcm_copy(v->id, sizeof v->id, vm->id.s);
	fcm_copy(v->name, sizeof v->name, vm->id.s);
	fcm_copy(v->reason.code, sizeof v->reason.code, "config_invalid");
	fcm_copy(v->reason.message, sizeof v->reason.message, why->msg);
	v->reason.time = clock_wall();
	vm->broken = v->state == VM_FAILED;
}

/* VMs of a daemon that knew images by their names alone. One whose image isn't there is pinned when it starts. */
static void pin_old(struct vm *vm)
{
	struct fcm_error err;

	if (vm->broken || vm->view.image_id.s[0] || engine_pin_image(vm, &err) < 0)
		return;
	if (store_vm_save(&vm->view, &err) < 0)
		log_error(LOG_LEVEL_WARN, vm->id.s, &err);
}

static struct vm *load_vm(const char *id)
{
	struct vm *vm = vm_new();
	struct fcm_error err;

	fcm_copy(vm->id.s, sizeof vm->id.s, id);
	vm->dirfd = store_vm_open(&vm->id, &err);
	if (store_vm_load(&vm->id, &vm->view, &err) < 0) {
		log_error(LOG_LEVEL_ERROR, id, &err);
		load_broken(vm, &err);
	} else {
		pin_old(vm);
	}
	if (store_run_load(&vm->id, &vm->run, &err) == 0) {
		vm->driver = vmm_driver_find(vm->run.vmm_driver);
		vm->shim_pidfd = proc_open(&vm->run.shim, &err);
		vm->has_volumes = vm->shim_pidfd >= 0; /* until the first operation on it is over */
	}
	if (vm->driver == NULL)
		vm->driver = the.driver;
	return vm;
}

static int by_created(const void *a, const void *b)
{
	const struct vm *x = *(struct vm *const *)a, *y = *(struct vm *const *)b;

	return x->view.created < y->view.created ? -1 : x->view.created > y->view.created;
}

static int load_all(struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv ids = {0};

	if (store_vm_list(&ids, err) < 0)
		return -1;
	auto_free struct vm **list = xalloc((ids.n + 1) * sizeof *list);
	for (size_t i = 0; i < ids.n; i++)
		list[i] = load_vm(ids.v[i]);
	qsort(list, ids.n, sizeof *list, by_created);
	for (size_t i = 0; i < ids.n; i++) {
		registry_add(list[i]);
		vm_unref(list[i]);
	}
	return 0;
}

enum { FORWARDING_MAX = 1 << 20 };

/* What the host's interfaces were: an older fcm kept that in the state directory, which may be full. */
static void bring_forwarding(const struct fcmd_config *c)
{
	auto_free char *old = xprintf("%s/forwarding", c->state_dir);
	auto_free char *new = xprintf("%s/forwarding", c->run_dir);
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error err;

	if (file_read(AT_FDCWD, old, FORWARDING_MAX, &text, &err) < 0)
		return;
	if (access(new, F_OK) == 0 || file_write_atomic(AT_FDCWD, new, 0600, text.p, text.n, &err) == 0)
		unlink(old);
	else
		log_error(LOG_LEVEL_WARN, NULL, &err);
}

/* The host's network, with the elements of the VMs that live, in one transaction: none of them loses a
 * packet. */
static int network_up(struct vm **all, size_t n, struct fcm_error *err)
{
	const struct fcmd_config *c = the.config;
	struct net_config config = {.pool = c->pool,
		.gateway = c->gateway,
		.dns = c->dns,
		.public_ip = c->public_ip,
		.api_port = config_api_port(c)};
	auto_free struct net_vm *parts = xalloc((n + 1) * sizeof *parts);
	auto_free struct publish_list *ports = xalloc((n + 1) * sizeof *ports);
	size_t live = 0;

	for (size_t i = 0; i < n; i++)
		if (all[i]->shim_pidfd >= 0 && all[i]->view.ip.s_addr) {
			if (publish_of(all[i], &ports[live], err) < 0)
				ports[live].n =
					0; /* somebody wrote nonsense into config.json; its step says so */
			parts[live] = vm_net_part(all[i]);
			parts[live].ports = &ports[live];
			live++;
		}
	bring_forwarding(c);
	return net_init(&config, c->run_dir, parts, live, err);
}

/* The sockets of published ports went with the last daemon. They are held again before anybody is served, who might publish the same;
 * that one is taken each VM's own adoption says. */
static void hold_ports(struct vm **all, size_t n)
{
	struct publish_list ports;
	struct fcm_error err;

	for (size_t i = 0; i < n; i++) {
		const struct net_vm part = vm_net_part(all[i]);
		if (all[i]->shim_pidfd < 0 || publish_of(all[i], &ports, &err) < 0)
			continue;
		if (net_publish(&part, all[i]->view.name, &ports, &err) < 0)
			log_error(LOG_LEVEL_WARN, all[i]->id.s, &err);
	}
}

static bool known(struct vm **all, size_t n, const char *id)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(all[i]->id.s, id) == 0)
			return true;
	return false;
}

/* TAPs of VMs that are no longer there: somebody emptied the state directory. (A group can't be left over: it is made
 * after a VM's directory and goes before it. One with an unknown name belongs to another daemon.) */
static void remove_orphans(struct vm **all, size_t n)
{
	_cleanup_(strv_done) struct strv taps = {0};
	struct fcm_error err;

	if (net_list_taps(&taps, &err) < 0)
		log_error(LOG_LEVEL_WARN, NULL, &err);
	for (size_t i = 0; i < taps.n; i++) {
		struct net_vm part = {0};
		fcm_copy(part.id.s, sizeof part.id.s, taps.v[i]);
		if (!known(all, n, taps.v[i]) && net_tap_down(&part, NULL, &err) < 0)
			log_error(LOG_LEVEL_WARN, taps.v[i], &err);
	}
}

static void repair_all(struct vm **all, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		enum repair repair = repair_due(all[i]);
		if (repair == REPAIR_NONE) {
			supervise_remove(all[i]);
			continue;
		}
		log_line(LOG_LEVEL_INFO, all[i]->id.s, "found %s, wanted %s: %s",
			vm_state_names[all[i]->view.state], vm_desired_names[all[i]->view.desired],
			repair_names[repair]);
		supervise_run(op_new(&table_adopt, all[i], op_repair_run));
	}
}

static gid_t kvm_group(void)
{
	struct stat st;

	return stat("/dev/kvm", &st) == 0 ? st.st_gid : 0;
}

int engine_init(const struct fcmd_config *config, struct loop *loop, struct fcm_error *err)
{
	const struct caddy_config caddy = {
		.binary = config->caddy,
		.caddyfile = config->caddyfile,
		.user = config->caddy_user,
		.tls = config->tls,
		.acme_ca = config->acme_ca,
		.admin = config->caddy_admin,
	};
	struct vm **all;

	the = (struct engine){.config = config,
		.loop = loop,
		.ipam = {config->pool, config->first_address, config->last_address}};
	the.driver = vmm_choose(config, &the.probe);
	the.tsc_khz = bootargs_tsc_khz();
	the.kvm_gid = kvm_group();
	if (open_templates(err) < 0 || snapshots_init(store_dirfd(), err) < 0 ||
		events_start(store_dirfd(), err) < 0 || load_all(err) < 0)
		return -1;
	size_t n = registry_all(&all);
	int rc = network_up(all, n, err) < 0 || caddy_init(&caddy, err) < 0 || site_init(err) < 0 ||
				 supervise_host(err) < 0 || timekeeper_start(config->clock_seconds, err) < 0
			 ? -1
			 : 0;
	if (rc == 0) {
		hold_ports(all, n);
		remove_orphans(all, n);
		repair_all(all, n);
		site_sync();
	}
	registry_all_done(all, n);
	return rc;
}

/* Handles of VMs that run on; the next daemon opens its own. */
static void let_go(struct vm *vm)
{
	supervise_unwatch(vm);
	mainlog_unwatch(vm);
	vm_set_guest(vm, NULL);
	if (vm->vmm)
		vm->driver->free(STEAL(vm->vmm));
}

void engine_drain(int64_t deadline)
{
	stopping = true;
	timekeeper_stop();
	if (!ops_drain(deadline))
		log_warn("operations are still in progress: the next daemon finishes or rolls them back");
}

bool engine_stop(int64_t deadline)
{
	struct vm **all;

	if (!ops_drain(deadline))
		return false;
	size_t n = registry_all(&all);
	for (size_t i = 0; i < n; i++)
		let_go(all[i]);
	registry_all_done(all, n);
	events_stop();
	return true;
}

/* ---- operations ---- */

static struct vm *vm_from_spec(const struct vm_spec *spec)
{
	struct vm *vm = vm_new();
	struct vm_view *v = &vm->view;

	vm_spec_copy(&v->spec, spec);
	fcm_copy(v->name, sizeof v->name, spec->name);
	v->schema = 1;
	v->state = VM_CREATING;
	v->desired = WANT_RUNNING;
	v->created = clock_wall();
	return vm;
}

struct op *engine_create(const struct vm_create *rq)
{
	struct vm *vm = vm_from_spec(&rq->spec);
	struct op *op = op_new(&table_create, vm, op_create_run);
	struct snapshot *s = &op->hold.snapshot;

	vm_unref(vm);
	op->save = rq->save_snapshot[0];
	fcm_copy(s->name, sizeof s->name, rq->save_snapshot);
	return op;
}

struct op *engine_start(struct vm *vm, const struct ready_spec *ready)
{
	struct op *op = op_new(&table_start, vm, op_start_run);

	ready_copy(&op->ready, ready);
	return op;
}

struct op *engine_stop_vm(struct vm *vm, int64_t grace_ms)
{
	struct op *op = op_new(&table_stop, vm, op_stop_run);

	op->grace_ms = grace_ms;
	op->urgent = grace_ms == 0;
	return op;
}

struct op *engine_pause(struct vm *vm)
{
	return op_new(&table_pause, vm, op_pause_run);
}

struct op *engine_resume(struct vm *vm)
{
	return op_new(&table_resume, vm, op_resume_run);
}

struct op *engine_suspend(struct vm *vm)
{
	return op_new(&table_suspend, vm, op_suspend_run);
}

struct op *engine_restart(struct vm *vm, int64_t grace_ms)
{
	struct op *op = op_new(&table_stop, vm, op_restart_run);

	op->what = "restart";
	op->grace_ms = grace_ms;
	return op;
}

struct op *engine_destroy(struct vm *vm, bool force)
{
	struct op *op = op_new(&table_destroy, vm, op_destroy_run);

	op->grace_ms = force ? 0 : the.config->stop_seconds * 1000ll;
	op->urgent = force;
	return op;
}

struct op *engine_expose(struct vm *vm, uint16_t port, const char *domain)
{
	struct op *op = op_new(port ? &table_expose : &table_unexpose, vm, op_expose_run);

	op->expose.port = port;
	if (port)
		fcm_copy(op->expose.domain, sizeof op->expose.domain, domain);
	return op;
}

struct op *engine_publish(struct vm *vm, const struct strv *ports, bool away)
{
	struct op *op = op_new(&table_publish, vm, op_publish_run);

	op->what = away ? "unpublish" : "publish";
	op->unpublish = away;
	strv_copy(&op->publish, ports);
	return op;
}

struct op *engine_update(struct vm *vm, const struct update_request *update)
{
	struct op *op = op_new(&table_update, vm, op_update_run);

	op->update = *update;
	op->update.labels = op->update.remove_labels = (struct strv){0};
	strv_copy(&op->update.labels, &update->labels);
	strv_copy(&op->update.remove_labels, &update->remove_labels);
	return op;
}

struct op *engine_add_keys(struct vm *vm, const struct strv *keys)
{
	struct op *op = op_new(&table_expose, vm, op_keys_run);

	op->what = "keys";
	strv_copy(&op->keys, keys);
	return op;
}

int engine_describe_create(const struct vm_create *rq, struct strv *ret, struct fcm_error *err)
{
	struct op *op = engine_create(rq);
	int rc = step_image.run(op, err) < 0 || registry_choose(op->vm, op, false, err) < 0 ||
				 step_admit.run(op, err) < 0
			 ? -1
			 : 0;

	if (rc == 0)
		steps_describe(op, ret);
	if (rc == 0 && op->save) {
		op->table = &table_snapshot;
		op->hold.snapshot.memory = true;
		steps_describe(op, ret);
	}
	op_unref(op);
	return rc;
}

void engine_describe_destroy(struct vm *vm, struct strv *ret)
{
	struct op *op = engine_destroy(vm, false);

	steps_describe(op, ret);
	op_unref(op);
}
