/*
 * Public names: what is wanted (in config.json) and the site in Caddy. A site that can't be served now is
 * `pending` with the reason and is retried by supervise.c: no Caddy, or a broken one, never fails a VM.
 */
#include "daemon/engine/site.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/core/clock.h"
#include "common/core/log.h"
#include "daemon/caddy/caddy.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/supervise.h"
#include "daemon/net/net.h"

static int site_of(const struct vm *vm, struct caddy_site *ret, struct fcm_error *err)
{
	*ret = (struct caddy_site){.id = vm->id, .ip = vm->view.ip, .port = (uint16_t)vm->view.expose.port};
	return dns_name_parse(vm->view.expose.domain, "domain", &ret->domain, err);
}

/* VMs reach 80 and 443 of the host's public address while any site exists, but for that of `gone` (may be NULL). */
static void open_for_vms(const struct vm *gone)
{
	struct vm **all;
	size_t n = registry_all(&all);
	bool any = false;
	struct fcm_error err;

	registry_lock();
	for (size_t i = 0; i < n; i++)
		any = any || (all[i] != gone && all[i]->view.expose.port != 0);
	registry_unlock();
	registry_all_done(all, n);
	if (net_sites(any, &err) < 0)
		log_error(LOG_LEVEL_WARN, NULL, &err);
}

/* ---- want: what config.json says ---- */

static int set_wanted(struct vm *vm, const struct vm_expose *e, struct fcm_error *err)
{
	VM_SET(vm, view->expose = *e);
	open_for_vms(NULL);
	return store_vm_save(&vm->view, err);
}

static int want(struct op *op, struct fcm_error *err)
{
	struct vm_expose e = op->expose;

	if (e.port) {
		if (e.domain[0] == '\0')
			engine_domain(op->vm->view.name, e.domain, sizeof e.domain);
		fcm_copy(e.status, sizeof e.status, "pending");
		registry_lock();
		bool taken = registry_domain_taken(e.domain, op->vm);
		registry_unlock();
		if (taken)
			return fcm_fail_field(
				err, FCM_DOMAIN_TAKEN, "domain", "%s is another VM's domain", e.domain);
	}
	return set_wanted(op->vm, &e, err);
}

static int unwant(struct op *op, struct fcm_error *err)
{
	return set_wanted(op->vm, &op->before, err);
}

const struct step step_want = {.name = "want", .run = want, .undo = unwant};

/* ---- site: the file in fcm.d and Caddy's running configuration ---- */

static void pending(struct vm *vm, const struct fcm_error *why)
{
	VM_SET(vm, fcm_copy(view->expose.status, sizeof view->expose.status, "pending");
		fcm_copy(view->expose.reason, sizeof view->expose.reason, why->msg));
	supervise_sites();
}

static int site_up(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	struct caddy_site site;
	struct fcm_error why;

	if (vm->view.expose.port == 0)
		return 0;
	if (site_of(vm, &site, err) < 0)
		return -1;
	open_for_vms(NULL);
	if (caddy_expose(&site, &why) == 0) {
		VM_SET(vm, fcm_copy(view->expose.status, sizeof view->expose.status, "active");
			view->expose.reason[0] = '\0');
		return 0;
	}
	if (why.code == FCM_DOMAIN_TAKEN && op->table == &table_expose) {
		*err = why;
		return -1;
	}
	pending(vm, &why);
	return 0;
}

/* A Caddy that can't reload (its configuration was broken by hand) keeps no VM from going: the file is gone, and with the
 * next reload the site. */
static int site_down(struct op *op, struct fcm_error *err)
{
	if (caddy_unexpose(&op->vm->id, &op->receipt.site, err) < 0) {
		log_error(LOG_LEVEL_WARN, op->vm->id.s, err);
		fcm_copy(op->receipt.left, sizeof op->receipt.left, err->msg);
	}
	open_for_vms(op->vm);
	return 0;
}

static void site_describe(const struct op *op, bool undo, struct strv *ret)
{
	struct caddy_site site;
	struct fcm_error err;

	if (op->vm->view.expose.port == 0)
		return;
	if (undo)
		strv_addf(ret, "remove fcm.d/%s.caddy, caddy reload", op->vm->id.s);
	else if (site_of(op->vm, &site, &err) == 0)
		caddy_describe(&site, ret);
}

const struct step step_site = {
	.name = "site", .run = site_up, .undo = site_down, .describe = site_describe, .flags = STEP_KEEP};

/* ---- all of them, when the daemon starts ---- */

enum { CLAIM_MS = 10000 };

/* Set the status of one VM's site, as an operation that claims it. */
static int set_status(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;

	if (registry_claim(vm, op, clock_in(CLAIM_MS), err) < 0)
		return -1;
	if (vm->view.expose.port && op->err.code)
		pending(vm, &op->err);
	else if (vm->view.expose.port)
		VM_SET(vm, fcm_copy(view->expose.status, sizeof view->expose.status, "active"));
	registry_drop(vm);
	return 0;
}

static void *sync_thread(void *arg)
{
	struct vm **all;
	size_t n = registry_all(&all), sites = 0;
	auto_free struct caddy_site *list = xalloc((n + 1) * sizeof *list);
	struct fcm_error err, why = {0};

	(void)arg;
	registry_lock();
	for (size_t i = 0; i < n; i++)
		if (all[i]->view.expose.port && site_of(all[i], &list[sites], &err) == 0)
			sites++;
	registry_unlock();
	if (caddy_sync(list, sites, &why) < 0)
		log_error(LOG_LEVEL_WARN, NULL, &why);
	for (size_t i = 0; i < n && sites; i++) {
		struct op *op = op_new(&table_expose, all[i], set_status);
		op->err = why;
		op_run(op);
		op_unref(op);
	}
	registry_all_done(all, n);
	if (sites)
		open_for_vms(NULL);
	return NULL;
}

void site_sync(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, sync_thread, NULL) == 0)
		pthread_detach(thread);
}
