/*
 * Public names: what is wanted (in config.json) and the site in Caddy. A site that can't be served now is
 * `pending` with the reason and is retried by supervise.c: no Caddy, or a broken one, never fails a VM.
 *
 * The API's own name is one more site, which no VM has and no operation changes: it is wanted as long as the config says so,
 * and what it is called then stays until the daemon ends. Caddy reaches it by a socket of its own, at which a token is needed
 * (daemon/http), and lets no VM through.
 */
#include "daemon/engine/site.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/core/clock.h"
#include "common/core/log.h"
#include "daemon/caddy/caddy.h"
#include "daemon/engine/claimed.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/ops.h"
#include "daemon/engine/supervise.h"
#include "daemon/net/net.h"

static int site_of(const struct vm *vm, struct caddy_site *ret, struct fcm_error *err)
{
	*ret = (struct caddy_site){.id = vm->id, .ip = vm->view.ip, .port = (uint16_t)vm->view.expose.port};
	if (site_is_api(vm->view.expose.domain))
		return fcm_fail(err, FCM_DOMAIN_TAKEN, "%s is the API's own name", vm->view.expose.domain);
	return dns_name_parse(vm->view.expose.domain, "domain", &ret->domain, err);
}

/* VMs reach 80 and 443 of the host's public address while any site exists, but for that of `gone` (may be NULL). */
static void open_for_vms(const struct vm *gone)
{
	/* of two threads that decide, the later one must also be the later one to act */
	static pthread_mutex_t deciding = PTHREAD_MUTEX_INITIALIZER;
	struct vm **all;
	bool any = false;
	struct fcm_error err;

	pthread_mutex_lock(&deciding);
	size_t n = registry_all(&all);
	registry_lock();
	for (size_t i = 0; i < n; i++)
		any = any || (all[i] != gone && all[i]->view.state != VM_DESTROYING &&
				     all[i]->view.expose.port != 0);
	registry_unlock();
	registry_all_done(all, n);
	if (net_sites(any, &err) < 0)
		log_error(LOG_LEVEL_WARN, NULL, &err);
	pthread_mutex_unlock(&deciding);
}

/* Held while Caddy's files are changed: site_sync() looks at all VMs first, and what it saw must still be so when it
 * writes. Taken before the registry's lock. */
static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER;

static void set_status(struct vm *vm, const char *status, const char *reason)
{
	VM_SET(vm, fcm_copy(view->expose.status, sizeof view->expose.status, status);
		fcm_copy(view->expose.reason, sizeof view->expose.reason, reason));
}

/* Have Caddy serve the VM's site. Its status says how that went. */
static int serve(struct vm *vm, struct fcm_error *why)
{
	struct caddy_site site;

	if (site_of(vm, &site, why) == 0) {
		pthread_mutex_lock(&changing);
		int rc = caddy_expose(&site, why);
		pthread_mutex_unlock(&changing);
		if (rc == 0) {
			set_status(vm, "active", "");
			return 0;
		}
	}
	set_status(vm, "pending", why->msg);
	return -1;
}

static int withdraw(struct vm *vm, bool *ret_existed, struct fcm_error *err)
{
	pthread_mutex_lock(&changing);
	int rc = caddy_unexpose(&vm->id, ret_existed, err);
	pthread_mutex_unlock(&changing);
	return rc;
}

/* Is the site what the operation is about? */
static bool is_about_site(const struct op *op)
{
	return op->table == &table_expose || op->table == &table_rename;
}

/* ---- want: what config.json says ---- */

static int want(struct op *op, struct fcm_error *err)
{
	struct vm_expose e = op->expose;
	struct vm *vm = op->vm;

	if (e.port) {
		if (e.domain[0] == '\0')
			engine_domain(vm->view.name, e.domain, sizeof e.domain);
		fcm_copy(e.status, sizeof e.status, "pending");
	}
	registry_lock();
	int rc = e.port ? registry_domain_free(e.domain, vm, err) : 0;
	if (rc == 0) {
		vm->view.expose = e;
		registry_changed(vm);
	}
	registry_unlock();
	if (rc < 0)
		return -1;
	open_for_vms(NULL);
	return store_vm_save(&vm->view, err);
}

/* The site that was there before comes back. */
static int unwant(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	struct fcm_error why;
	bool existed;

	VM_SET(vm, view->expose = op->before);
	open_for_vms(NULL);
	if (op->before.port && serve(vm, &why) < 0)
		supervise_sites();
	if (op->before.port == 0 && withdraw(vm, &existed, &why) < 0)
		log_error(LOG_LEVEL_WARN, vm->id.s, &why);
	return store_vm_save(&vm->view, err);
}

const struct step step_want = {.name = "want", .run = want, .undo = unwant};

/* ---- site: the file in fcm.d and Caddy's running configuration ---- */

static int site_up(struct op *op, struct fcm_error *err)
{
	struct fcm_error why;

	if (op->vm->view.expose.port == 0)
		return 0;
	open_for_vms(NULL);
	if (serve(op->vm, &why) == 0)
		return 0;
	if (why.code == FCM_DOMAIN_TAKEN && is_about_site(op)) {
		*err = why;
		return -1;
	}
	supervise_sites();
	return 0;
}

/* A Caddy that can't reload (its configuration was broken by hand) keeps no VM from going: the file is gone, and with the
 * next reload the site. */
static int site_down(struct op *op, struct fcm_error *err)
{
	if (is_about_site(op)) /* unwant() knows what was there before */
		return 0;
	if (withdraw(op->vm, &op->receipt.site, err) < 0) {
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

const struct step step_site = {.name = "site", .run = site_up, .undo = site_down, .describe = site_describe};

int op_site_retry_run(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	struct fcm_error why;

	if (claimed_try(op, err) < 0)
		return 0;
	if (vm->view.expose.port && serve(vm, &why) == 0 && store_vm_save(&vm->view, &why) < 0)
		log_error(LOG_LEVEL_WARN, vm->id.s, &why);
	registry_drop(vm);
	return 0;
}

static bool begin(void *(*run)(void *arg))
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, run, NULL) != 0)
		return false;
	pthread_detach(thread);
	return true;
}

/* ---- that of the API ---- */

static struct caddy_site api;	    /* without a domain: there is none */
static struct vm_expose api_status; /* this and the next under the registry's lock */
static bool api_tried;		    /* by a thread, now */

int site_init(struct fcm_error *err)
{
	const struct fcmd_config *c = engine()->config;
	char domain[sizeof api.domain.s];

	if (c->api_domain[0] == '\0')
		return 0;
	if (strchr(c->api_domain, '.'))
		fcm_copy(domain, sizeof domain, c->api_domain);
	else
		engine_domain(c->api_domain, domain, sizeof domain);
	if (dns_name_parse(domain, "api_domain", &api.domain, err) < 0)
		return -1;
	fcm_copy(api.id.s, sizeof api.id.s, CADDY_API_ID);
	api.socket = c->proxy_socket;
	api.closed_to = c->pool;
	fcm_copy(api_status.domain, sizeof api_status.domain, domain);
	fcm_copy(api_status.status, sizeof api_status.status, "pending");
	fcm_copy(api_status.reason, sizeof api_status.reason, "not tried yet");
	log_info("the API is at https://%s as well, by Caddy", domain);
	return 0;
}

const char *site_api_domain(void)
{
	return api.domain.s;
}

bool site_is_api(const char *domain)
{
	return api.domain.s[0] && strcmp(domain, api.domain.s) == 0;
}

bool site_name_is_api(const char *name)
{
	char domain[sizeof api.domain.s];

	if (api.domain.s[0] == '\0')
		return false;
	engine_domain(name, domain, sizeof domain);
	return site_is_api(domain);
}

void site_api(struct vm_expose *ret)
{
	registry_lock();
	*ret = api_status;
	registry_unlock();
}

static void api_set_status(int rc, const struct fcm_error *why)
{
	registry_lock();
	fcm_copy(api_status.status, sizeof api_status.status, rc < 0 ? "pending" : "active");
	fcm_copy(api_status.reason, sizeof api_status.reason, rc < 0 ? why->msg : "");
	api_tried = false;
	registry_unlock();
}

static void *api_thread(void *arg)
{
	struct fcm_error why;

	(void)arg;
	pthread_mutex_lock(&changing);
	int rc = caddy_expose(&api, &why);
	pthread_mutex_unlock(&changing);
	api_set_status(rc, &why);
	return NULL;
}

bool site_api_retry(void)
{
	registry_lock();
	bool pending = strcmp(api_status.status, "pending") == 0, due = pending && !api_tried;
	api_tried |= due;
	registry_unlock();
	if (due && !begin(api_thread)) {
		registry_lock();
		api_tried = false;
		registry_unlock();
	}
	return pending;
}

/* ---- all of them, when the daemon starts ---- */

/* One VM's part of the sync: op->expose says what became of its site. One that was destroyed or unexposed since the
 * list was made has got its file back by it. */
static int synced(struct op *op, struct fcm_error *err)
{
	struct vm *vm = op->vm;
	int rc = claimed_begin(op, err);
	struct caddy_site site;
	struct fcm_error why;
	bool existed;

	if (rc < 0 && err->code != FCM_NOT_FOUND)
		return -1;
	if (rc == 0 && vm->view.expose.port && site_of(vm, &site, &why) < 0)
		set_status(vm, "pending", why.msg);
	else if (rc == 0 && vm->view.expose.port)
		set_status(vm, op->expose.status, op->expose.reason);
	else if (withdraw(vm, &existed, err) < 0)
		log_error(LOG_LEVEL_WARN, vm->id.s, err);
	if (rc == 0)
		registry_drop(vm);
	return 0;
}

static void tell(struct vm *vm, int rc, const struct fcm_error *why)
{
	struct op *op = op_new(&table_expose, vm, synced);

	fcm_copy(op->expose.status, sizeof op->expose.status, rc < 0 ? "pending" : "active");
	fcm_copy(op->expose.reason, sizeof op->expose.reason, rc < 0 ? fcm_veiled(why) : "");
	supervise_run(op);
}

/* Is it to have a site? Called with the registry's lock held. */
static bool has_site(const struct vm *vm)
{
	return vm->view.expose.port && vm->view.state != VM_DESTROYING && vm->view.state != VM_CREATING;
}

/* Those of n VMs that have a site come to the front of `all`. Returns how many; *ret is the caller's, what Caddy gets: their sites,
 * and that of the API. One whose domain is the API's since the config says so has none. */
static size_t list_sites(struct vm **all, size_t n, struct caddy_site **ret, size_t *ret_n)
{
	struct caddy_site *list = xalloc((n + 1) * sizeof *list);
	size_t with = 0, sites = 0;
	struct fcm_error ignored;

	registry_lock();
	for (size_t i = 0; i < n; i++)
		if (has_site(all[i])) {
			struct vm *vm = all[i];
			all[i] = all[with];
			all[with++] = vm;
			sites += site_of(vm, &list[sites], &ignored) == 0;
		}
	registry_unlock();
	if (api.domain.s[0])
		list[sites++] = api;
	*ret = list;
	*ret_n = sites;
	return with;
}

static void *sync_thread(void *arg)
{
	struct vm **all;
	struct fcm_error why = {0};
	auto_free struct caddy_site *list = NULL;
	size_t sites;

	(void)arg;
	pthread_mutex_lock(&changing);
	size_t n = registry_all(&all), with = list_sites(all, n, &list, &sites);
	int rc = caddy_sync(list, sites, &why);
	pthread_mutex_unlock(&changing);
	if (rc < 0)
		log_error(LOG_LEVEL_WARN, NULL, &why);
	for (size_t i = 0; i < with; i++)
		tell(all[i], rc, &why);
	if (api.domain.s[0])
		api_set_status(rc, &why);
	registry_all_done(all, n);
	if (with)
		open_for_vms(NULL);
	if (sites && rc < 0)
		supervise_sites();
	return NULL;
}

void site_sync(void)
{
	(void)begin(sync_thread);
}
