/*
 * Images and kernels: list, and receive as a request body.
 */
#include <string.h>

#include "common/core/clock.h"
#include "daemon/api/api.h"
#include "daemon/image/image.h"

/* How many VMs use it. */
static int64_t used_by(const struct image_info *info, struct vm **all, size_t n)
{
	int64_t users = 0;

	registry_lock();
	for (size_t i = 0; i < n; i++) {
		const struct vm_spec *spec = &all[i]->view.spec;
		users += strcmp(info->is_kernel ? spec->kernel : spec->image, info->name.s) == 0;
	}
	registry_unlock();
	return users;
}

static field_json *info_json(const struct image_info *info)
{
	field_json *o = fj_object();

	fj_set_str(o, "name", info->name.s);
	fj_set_str(o, "kind", info->is_kernel ? "kernel" : "image");
	fj_set_str(o, "tag", info->tag);
	fj_set_str(o, "digest", info->digest);
	fj_set_int(o, "size", (int64_t)info->size);
	fj_set_int(o, "on_disk", (int64_t)info->on_disk);
	fj_set_str(o, "created", clock_rfc3339(info->created).s);
	return o;
}

int api_images_list(struct request *rq, struct fcm_error *err)
{
	auto_free struct image_info *infos = NULL;
	size_t n, nvms;
	struct vm **all;

	if (image_list(&infos, &n, err) < 0)
		return -1;
	nvms = registry_all(&all);
	field_json *o = fj_object(), *list = fj_array();
	for (size_t i = 0; i < n; i++) {
		field_json *e = info_json(&infos[i]);
		fj_set_int(e, "used_by", used_by(&infos[i], all, nvms));
		fj_append(list, e);
	}
	registry_all_done(all, nvms);
	fj_set(o, "images", list);
	return http_reply(rq, 200, o);
}

/* The room that is left for running VMs is not for images. Asked for each piece: the size isn't known before. */
static int feed(void *arg, const void *p, size_t n, struct fcm_error *err)
{
	return engine_has_room(err) < 0 ? -1 : image_upload_feed(arg, p, n, err);
}

static int finish(void *arg, struct request *rq, struct fcm_error *err)
{
	struct image_info info;

	return image_upload_commit(arg, &info, err) < 0 ? -1 : http_reply(rq, 201, info_json(&info));
}

static void done(void *arg)
{
	image_upload_abort(arg);
}

static int receive(struct request *rq, bool is_kernel, struct fcm_error *err)
{
	struct asset_name name;
	struct image_upload *up;

	if (engine_has_room(err) < 0 || asset_name_parse(http_param(rq, "name"), "name", &name, err) < 0 ||
		image_upload_begin(&name, is_kernel, &up, err) < 0)
		return -1;
	return http_receive(rq, feed, finish, done, up);
}

int api_image_put(struct request *rq, struct fcm_error *err)
{
	return receive(rq, false, err);
}

int api_kernel_put(struct request *rq, struct fcm_error *err)
{
	return receive(rq, true, err);
}
