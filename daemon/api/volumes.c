/*
 * Volumes: make, list, show, remove.
 */
#include "daemon/engine/volumes.h"
#include "common/core/clock.h"
#include "daemon/api/api.h"

static field_json *volume_json(const struct volume_info *v)
{
	_cleanup_(strv_done) struct strv users = {0};
	field_json *o = fj_object(), *used_by = fj_array();

	volumes_users(v->name.s, &users);
	for (size_t i = 0; i < users.n; i++)
		fj_append(used_by, fj_str(users.v[i]));
	fj_set_str(o, "name", v->name.s);
	fj_set_int(o, "size", (int64_t)(v->size >> 20));
	fj_set_int(o, "on_disk", (int64_t)v->on_disk);
	fj_set_str(o, "vm", v->vm[0] ? v->vm : NULL);
	fj_set(o, "used_by", used_by);
	fj_set_str(o, "created", v->created ? clock_rfc3339(v->created).s : NULL);
	return o;
}

int api_volumes_list(struct request *rq, struct fcm_error *err)
{
	auto_free struct volume_info *all = NULL;
	size_t n;

	if (volume_list(&all, &n, err) < 0)
		return -1;
	field_json *o = fj_object(), *list = fj_array();
	for (size_t i = 0; i < n; i++)
		fj_append(list, volume_json(&all[i]));
	fj_set(o, "volumes", list);
	return http_reply(rq, 200, o);
}

int api_volume_create(struct request *rq, struct fcm_error *err)
{
	struct volume_info info;
	bool made;

	if (engine_volume_create(http_body(rq), &info, &made, err) < 0)
		return -1;
	return http_reply(rq, made ? 201 : 200, volume_json(&info));
}

static int find(const struct request *rq, struct volume_info *ret, struct fcm_error *err)
{
	struct asset_name name;

	return asset_name_parse(http_param(rq, "volume"), "volume", &name, err) < 0
		       ? -1
		       : volume_find(&name, ret, err);
}

int api_volume_get(struct request *rq, struct fcm_error *err)
{
	struct volume_info info;

	return find(rq, &info, err) < 0 ? -1 : http_reply(rq, 200, volume_json(&info));
}

int api_volume_remove(struct request *rq, struct fcm_error *err)
{
	struct volume_info info;
	uint64_t freed;

	if (find(rq, &info, err) < 0 || engine_volume_remove(&info.name, &freed, err) < 0)
		return -1;
	field_json *o = fj_object();
	fj_set_str(o, "name", info.name.s);
	fj_set_int(o, "bytes", (int64_t)freed);
	return http_reply(rq, 200, o);
}
