/*
 * The daemon itself: health, facts, checks of the host.
 */
#include <string.h>

#include "common/core/clock.h"
#include "common/core/log.h"
#include "daemon/api/api.h"
#include "daemon/check.h"
#include "daemon/engine/site.h"
#include "daemon/net/net.h"

int api_health(struct request *rq, struct fcm_error *err)
{
	(void)err;
	field_json *o = fj_object();
	fj_set_str(o, "status", "ok");
	return http_reply(rq, 200, o);
}

static field_json *vmm_json(void)
{
	const struct engine *e = engine();
	field_json *o = fj_object();

	fj_set_str(o, "driver", e->driver ? e->driver->name : NULL);
	fj_set_str(o, "version", e->probe.version);
	fj_set_str(o, "accel", e->driver == NULL ? NULL : e->probe.accel == VMM_KVM ? "kvm" : "tcg");
	fj_set_str(o, "kvm", e->probe.kvm);
	fj_set_str(o, "reason", e->probe.reason);
	return o;
}

/* The API's public name and whether Caddy serves it; NULL without one. */
static field_json *remote_json(void)
{
	struct vm_expose site;

	site_api(&site);
	if (site.domain[0] == '\0')
		return NULL;
	auto_free char *url = xprintf("https://%s", site.domain);
	field_json *o = fj_object();
	fj_set_str(o, "url", url);
	fj_set_str(o, "status", site.status);
	if (site.reason[0])
		fj_set_str(o, "reason", site.reason);
	return o;
}

int api_info(struct request *rq, struct fcm_error *err)
{
	const struct fcmd_config *c = engine()->config;
	field_json *o = fj_object(), *vms = fj_object();
	struct in_addr ip;
	size_t total, running;

	(void)err;
	bool public = net_public_ip(&ip);
	registry_count(http_only(rq), &total, &running);
	fj_set_str(o, "version", FCM_VERSION);
	fj_set_str(o, "api", "v1");
	fj_set(o, "extensions", fj_array());
	fj_set(o, "vmm", vmm_json());
	fj_set(o, "defaults", field_encode(vm_defaults_fields, &c->defaults, false));
	auto_free char *pool = xprintf("%s/%u", ip_dotted(c->pool.addr).s, c->pool.prefix);
	fj_set_str(o, "pool", pool);
	fj_set_str(o, "public_ip", ip.s_addr ? ip_dotted(ip).s : NULL);
	fj_set_bool(o, "public", public);
	fj_set(o, "remote", remote_json());
	fj_set_str(o, "state_dir", c->state_dir);
	fj_set_int(vms, "total", (int64_t)total);
	fj_set_int(vms, "running", (int64_t)running);
	fj_set(o, "vms", vms);
	return http_reply(rq, 200, o);
}

int api_doctor(struct request *rq, struct fcm_error *err)
{
	(void)err;
	field_json *o = fj_object();
	fj_set(o, "checks", check_json(engine()->config, true));
	return http_reply(rq, 200, o);
}

int api_park(struct request *rq, struct fcm_error *err)
{
	struct park_result result;
	int64_t begun = clock_ms();

	(void)err;
	engine_park(engine()->config->stop_seconds * 1000ll, &result);
	field_json *o = fj_object();
	fj_set_int(o, "parked", result.parked);
	fj_set_int(o, "forced", result.forced);
	fj_set_int(o, "failed", result.failed);
	fj_set_int(o, "took_ms", clock_ms() - begun);
	return http_reply(rq, 200, o);
}
