/*
 * What takes room on the disk, and what of it could be had back.
 */
#include "daemon/api/api.h"
#include "daemon/disk/disk.h"
#include "daemon/disk/volume.h"
#include "daemon/engine/snapshots.h"
#include "daemon/engine/volumes.h"

static void add_row(field_json *list, const char *type, const struct image_space *s)
{
	field_json *o = fj_object();

	fj_set_str(o, "type", type);
	fj_set_int(o, "count", (int64_t)s->count);
	fj_set_int(o, "active", (int64_t)s->active);
	fj_set_int(o, "size", (int64_t)s->bytes);
	fj_set_int(o, "reclaimable", (int64_t)s->unused);
	fj_append(list, o);
}

/* Their disks; one that doesn't run could be destroyed. */
static struct image_space vms(void)
{
	struct image_space s = {0};
	struct vm **all;
	size_t n = registry_all(&all);

	for (size_t i = 0; i < n; i++) {
		int dirfd = registry_dirfd(all[i]);
		registry_lock();
		enum vm_state state = all[i]->view.state;
		registry_unlock();
		image_space_add(
			&s, state != VM_STOPPED && state != VM_FAILED, dirfd < 0 ? 0 : disk_used(dirfd));
	}
	registry_all_done(all, n);
	return s;
}

static int volumes(struct image_space *ret, struct fcm_error *err)
{
	auto_free struct volume_info *all = NULL;
	size_t n;

	*ret = (struct image_space){0};
	if (volume_list(&all, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		_cleanup_(strv_done) struct strv users = {0};
		volumes_users(all[i].name.s, &users);
		image_space_add(ret, users.n > 0, all[i].on_disk);
	}
	return 0;
}

/* No VM needs one: all of it could be freed. */
static int snapshots(struct image_space *ret, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv ids = {0};

	*ret = (struct image_space){0};
	if (snapshots_list(&ids, err) < 0)
		return -1;
	for (size_t i = 0; i < ids.n; i++) {
		struct vm_id id = {""};
		fcm_copy(id.s, sizeof id.s, ids.v[i]);
		image_space_add(ret, false, snapshot_on_disk(&id));
	}
	return 0;
}

int api_system_df(struct request *rq, struct fcm_error *err)
{
	struct image_space images, layers, disks = vms(), vols, shots;

	if (image_space(api_image_used, NULL, &images, &layers, err) < 0 || volumes(&vols, err) < 0 ||
		snapshots(&shots, err) < 0)
		return -1;
	field_json *o = fj_object(), *list = fj_array();
	add_row(list, "images", &images);
	add_row(list, "layers", &layers);
	add_row(list, "vms", &disks);
	add_row(list, "volumes", &vols);
	add_row(list, "snapshots", &shots);
	fj_set(o, "df", list);
	fj_set_int(o, "free", (int64_t)disk_free_bytes(store_dirfd()));
	return http_reply(rq, 200, o);
}
