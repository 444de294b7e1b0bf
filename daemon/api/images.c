/*
 * Images and kernels: list, name, remove. A reference has slashes, so it comes as ?ref=.
 */
#include <string.h>

#include "common/core/clock.h"
#include "daemon/api/api.h"
#include "daemon/engine/build.h"
#include "daemon/engine/pull.h"
#include "daemon/engine/snapshots.h"
#include "daemon/image/image.h"
#include "daemon/image/tags.h"

static bool uses(const struct vm *vm, const struct image_info *info)
{
	if (info->is_kernel)
		return strcmp(vm->view.spec.kernel, info->name) == 0;
	return strcmp(vm->view.image_id.s, info->id.s) == 0;
}

/* How many of these VMs use it. */
static int64_t used_by(const struct image_info *info, struct vm **all, size_t n)
{
	int64_t users = 0;

	registry_lock();
	for (size_t i = 0; i < n; i++)
		users += uses(all[i], info);
	registry_unlock();
	return users;
}

field_json *api_image_json(const struct image_info *info)
{
	field_json *o = fj_object();

	fj_set_str(o, "name", info->name[0] ? info->name : "<none>");
	fj_set_str(o, "kind", info->is_kernel ? "kernel" : "image");
	fj_set_str(o, "tag", info->tag);
	fj_set_str(o, "version", info->is_kernel ? info->tag : info->version);
	fj_set_str(o, "digest", info->id.s);
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
	nvms = registry_seen(http_only(rq), &all);
	field_json *o = fj_object(), *list = fj_array();
	for (size_t i = 0; i < n; i++) {
		field_json *e = api_image_json(&infos[i]);
		fj_set_int(e, "used_by", used_by(&infos[i], all, nvms));
		fj_append(list, e);
	}
	registry_all_done(all, nvms);
	fj_set(o, "images", list);
	return http_reply(rq, 200, o);
}

/* ---- names, and removing ---- */

static field_json *names_json(const struct strv *entries)
{
	field_json *list = fj_array();

	for (size_t i = 0; i < entries->n; i++)
		fj_append(list, fj_str(tag_of(entries->v[i]).name.s));
	return list;
}

static field_json *strings_json(const struct strv *l)
{
	field_json *list = fj_array();

	for (size_t i = 0; i < l->n; i++)
		fj_append(list, fj_str(l->v[i]));
	return list;
}

/* What needs an image, by names. */
struct users {
	struct strv vms, snapshots;
};

static void users_done(struct users *u)
{
	strv_done(&u->vms);
	strv_done(&u->snapshots);
}

static int snapshots_of(const struct image_id *id, const char *only, struct strv *ret, struct fcm_error *err)
{
	struct snapshot *all = NULL;
	size_t n;

	if (engine_snapshots(only, &all, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		if (strcmp(all[i].vm.image_id.s, id->s) == 0)
			strv_add(ret, all[i].name);
		snapshot_done(&all[i]);
	}
	free(all);
	return 0;
}

/* With those whose config.json can't be read: nobody knows what they need. */
static void vms_of(const struct image_id *id, const char *only, struct strv *ret)
{
	struct vm **all;
	size_t n = registry_seen(only, &all);

	registry_lock();
	for (size_t i = 0; i < n; i++)
		if (all[i]->broken || strcmp(all[i]->view.image_id.s, id->s) == 0)
			strv_add(ret, all[i]->view.name);
	registry_unlock();
	registry_all_done(all, n);
}

static int need_ref(const struct request *rq, const char **ret, struct fcm_error *err)
{
	*ret = http_query(rq, "ref");
	return *ret && **ret ? 0 : fcm_fail_field(err, FCM_INVALID, "ref", "ref: say which image");
}

int api_image_of(const struct request *rq, struct image_id *ret, struct fcm_error *err)
{
	const char *ref;

	return need_ref(rq, &ref, err) < 0 ? -1 : image_resolve(ref, ret, err);
}

int api_image_get(struct request *rq, struct fcm_error *err)
{
	_cleanup_(users_done) struct users users = {.vms = {0}};
	_cleanup_(strv_done) struct strv names = {0};
	struct image_info info;
	struct image_id id;

	if (api_image_of(rq, &id, err) < 0 || image_find(&id, &info, err) < 0 ||
		snapshots_of(&id, http_only(rq), &users.snapshots, err) < 0)
		return -1;
	field_json *o = api_image_json(&info);
	tags_list(&id, &names);
	vms_of(&id, http_only(rq), &users.vms);
	fj_set(o, "names", names_json(&names));
	fj_set(o, "vms", strings_json(&users.vms));
	fj_set(o, "snapshots", strings_json(&users.snapshots));
	return http_reply(rq, 200, o);
}

/* ---- from a registry ---- */

field_json *api_image_result(const struct op *op)
{
	return api_image_json(&op->image);
}

int api_images_pull(struct request *rq, struct fcm_error *err)
{
	struct op *op;

	return engine_pull(http_body(rq), &op, err) < 0 ? -1 : api_run(rq, op, 200, api_image_result, err);
}

/* ---- by a script ---- */

int api_images_build(struct request *rq, struct fcm_error *err)
{
	struct op *op;

	return engine_build(http_body(rq), &op, err) < 0 ? -1 : api_run(rq, op, 201, api_image_result, err);
}

static field_json *checked(const struct op *op)
{
	field_json *o = fj_object();

	fj_set_str(o, "registry", op->pull.image);
	return o;
}

int api_registry_check(struct request *rq, struct fcm_error *err)
{
	return api_run(rq, engine_check_registry(http_body(rq)), 200, checked, err);
}

int api_images_tag(struct request *rq, struct fcm_error *err)
{
	const struct tag_request *body = http_body(rq);
	struct image_info info;
	struct ref_text name;
	struct image_id id;

	if (image_resolve(body->image, &id, err) < 0 || image_tag(&id, body->tag, &name, err) < 0 ||
		image_find(&id, &info, err) < 0)
		return -1;
	field_json *o = api_image_json(&info);
	fj_set_str(o, "added", name.s);
	return http_reply(rq, 200, o);
}

/* image_used: `arg` gets the names. What can't be known is in use. */
static bool in_use(void *arg, const struct image_id *id)
{
	struct users *users = arg;
	struct fcm_error ignored;

	users_done(users);
	vms_of(id, NULL, &users->vms);
	return snapshots_of(id, NULL, &users->snapshots, &ignored) < 0 || users->vms.n || users->snapshots.n;
}

bool api_image_used(void *arg, const struct image_id *id)
{
	_cleanup_(users_done) struct users users = {.vms = {0}};

	(void)arg;
	return in_use(&users, id);
}

static int reply_removed(struct request *rq, struct image_removed *removed)
{
	field_json *o = fj_object();

	fj_set(o, "untagged", strings_json(&removed->untagged));
	fj_set(o, "removed", strings_json(&removed->ids));
	fj_set_int(o, "bytes", (int64_t)removed->bytes);
	image_removed_done(removed);
	return http_reply(rq, 200, o);
}

static int fail_in_use(const char *ref, const struct users *users, struct fcm_error *err)
{
	const struct strv *l = users->vms.n ? &users->vms : &users->snapshots;
	const char *what = users->vms.n ? "VM" : "snapshot";
	_cleanup_(buf_done) struct buf list = {0};

	for (size_t i = 0; i < MIN(l->n, (size_t)5); i++)
		buf_printf(&list, "%s%s", i ? ", " : "", l->v[i]);
	fcm_fail(err, FCM_WRONG_STATE, "image '%.80s' is the disk's lower layer of %zu %s%s: %s%s", ref, l->n,
		what, l->n == 1 ? "" : "s", list.p, l->n > 5 ? ", ..." : "");
	return fcm_hint(err, "%s the %ss first, or give the image another name: fcm image tag",
		users->vms.n ? "destroy" : "remove", what);
}

int api_image_delete(struct request *rq, struct fcm_error *err)
{
	_cleanup_(users_done) struct users users = {.vms = {0}};
	struct image_removed removed = {0};
	const char *ref;

	if (need_ref(rq, &ref, err) < 0)
		return -1;
	int r = image_remove(ref, in_use, &users, &removed, err);
	if (r < 0 && err->code == FCM_WRONG_STATE && (users.vms.n || users.snapshots.n))
		fail_in_use(ref, &users, err);
	if (r == 0)
		return reply_removed(rq, &removed);
	image_removed_done(&removed);
	return -1;
}

int api_images_prune(struct request *rq, struct fcm_error *err)
{
	const struct prune_request *body = http_body(rq);
	_cleanup_(users_done) struct users users = {.vms = {0}};
	struct image_removed removed = {0};
	int r = image_prune(body->all, in_use, &users, &removed, err);

	if (r == 0)
		return reply_removed(rq, &removed);
	image_removed_done(&removed);
	return -1;
}
