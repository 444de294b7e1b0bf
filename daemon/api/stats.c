/*
 * What VMs use, as JSON: numbers that grow, so that whoever takes two samples knows what came between them.
 */
#include <inttypes.h>

#include "daemon/api/api.h"
#include "daemon/engine/stats.h"

static void set_known(field_json *o, const char *key, int64_t value)
{
	if (value >= 0)
		fj_set_int(o, key, value);
	else
		fj_set(o, key, NULL);
}

static field_json *guest_json(const struct guest_stats *g)
{
	field_json *o = fj_object();
	auto_free char *load = xprintf("%" PRId64 ".%02" PRId64, g->load / 100, g->load % 100);

	set_known(o, "memory", g->memory);
	set_known(o, "available", g->available);
	fj_set_str(o, "load", g->load >= 0 ? load : NULL);
	set_known(o, "disk", g->disk);
	set_known(o, "disk_used", g->disk_used);
	return o;
}

static field_json *stats_json(const struct vm_stats *s)
{
	field_json *o = fj_object();

	fj_set_str(o, "id", s->id.s);
	fj_set_str(o, "name", s->name);
	fj_set_str(o, "state", vm_state_names[s->state]);
	fj_set_int(o, "cpus", s->vcpus);
	fj_set_int(o, "memory", s->mem_mib);
	set_known(o, "pid", s->pid);
	set_known(o, "threads", s->threads);
	set_known(o, "up_ms", s->up_ms);
	set_known(o, "at_us", s->at_us);
	set_known(o, "cpu_us", s->cpu_us);
	set_known(o, "rss", s->rss);
	set_known(o, "pss", s->pss);
	set_known(o, "disk_read", s->disk_read);
	set_known(o, "disk_written", s->disk_written);
	set_known(o, "net_received", s->net_received);
	set_known(o, "net_sent", s->net_sent);
	fj_set(o, "guest", guest_json(&s->guest));
	return o;
}

int api_vm_stats(struct request *rq, struct fcm_error *err)
{
	struct vm *vm = http_vm(rq);
	struct vm_stats stats;

	(void)err;
	engine_stats(&vm, 1, &stats);
	return http_reply(rq, 200, stats_json(&stats));
}

int api_stats_list(struct request *rq, struct fcm_error *err)
{
	field_json *o = fj_object(), *list = fj_array();
	size_t n;
	auto_free struct vm_stats *stats = engine_stats_all(http_only(rq), &n);

	(void)err;
	for (size_t i = 0; i < n; i++)
		fj_append(list, stats_json(&stats[i]));
	fj_set(o, "vms", list);
	return http_reply(rq, 200, o);
}
