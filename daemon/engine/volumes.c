#include "daemon/engine/volumes.h"

#include <string.h>

#include "daemon/engine/engine.h"

size_t volumes_parse(const struct strv *volumes, struct volume_ref ret[VM_MAX_VOLUMES])
{
	struct fcm_error ignored;
	size_t n = 0;

	for (size_t i = 0; i < volumes->n && n < VM_MAX_VOLUMES; i++)
		n += volume_ref_parse(volumes->v[i], "volumes", &ret[n], &ignored) == 0;
	return n;
}

bool volumes_is_own(const struct vm *vm, const struct volume_ref *ref)
{
	size_t n = strlen(vm->id.s);

	return strncmp(ref->name.s, vm->id.s, n) == 0 && ref->name.s[n] == '.';
}

static int by_path(const void *a, const void *b)
{
	const struct volume_ref *x = a, *y = b;

	return strcmp(x->path, y->path);
}

void volumes_choose(struct strv *volumes, const struct vm_id *id)
{
	struct volume_ref refs[VM_MAX_VOLUMES];
	size_t n = volumes_parse(volumes, refs);

	strv_done(volumes);
	if (n)
		qsort(refs, n, sizeof *refs, by_path);
	for (size_t i = 0; i < n; i++) {
		if (refs[i].name.s[0] == '\0')
			(void)fcm_format(refs[i].name.s, sizeof refs[i].name.s, "%s.%zu", id->s, i);
		auto_free char *text = volume_ref_text(&refs[i]);
		strv_add(volumes, text);
	}
}

/* ---- what the API asks for ---- */

int volumes_make(const struct asset_name *name, const char *vm, uint32_t mib, struct fcm_error *err)
{
	auto_free struct volume_info *all = NULL;
	size_t n;

	if (engine_has_room(err) < 0 || volume_list(&all, &n, err) < 0)
		return -1;
	if (n >= engine()->config->max_volumes)
		return fcm_fail(err, FCM_INSUFFICIENT,
			"%zu volumes exist already, which is the limit (max_volumes)", n);
	return volume_make(name, vm, engine()->templates, mib, err);
}

static bool name_taken(const char *name, void *arg)
{
	struct asset_name volume;
	struct volume_info info;
	struct fcm_error ignored;

	(void)arg;
	return asset_name_parse(name, "name", &volume, &ignored) == 0 &&
	       volume_find(&volume, &info, &ignored) == 0;
}

static int check_there(const struct volume_info *v, uint32_t mib, struct fcm_error *err)
{
	if (mib == 0 || v->size == (uint64_t)mib << 20)
		return 0;
	return fcm_fail_field(err, FCM_NAME_TAKEN, "name", "there is a volume '%s' already, of %llu MiB",
		v->name.s, (unsigned long long)v->size >> 20);
}

int engine_volume_create(
	const struct volume_request *request, struct volume_info *ret, bool *ret_made, struct fcm_error *err)
{
	uint32_t mib = request->size_mib ? request->size_mib : engine()->config->defaults.disk_mib;
	struct asset_name name;

	*ret_made = false;
	if (*request->name == '\0')
		fcm_copy(name.s, sizeof name.s, vm_name_random(name_taken, NULL).s);
	else if (asset_name_parse(request->name, "name", &name, err) < 0)
		return -1;
	if (volume_find(&name, ret, err) == 0)
		return check_there(ret, request->size_mib, err);
	if (err->code != FCM_NOT_FOUND || volumes_make(&name, "", mib, err) < 0)
		return -1;
	*ret_made = true;
	return volume_find(&name, ret, err);
}

int engine_volume_remove(const struct asset_name *name, uint64_t *ret_freed, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv users = {0};
	struct volume_info info;

	if (volume_find(name, &info, err) < 0)
		return -1;
	if (!volumes_going(name->s, &users)) {
		if (users.n == 0)
			return fcm_fail(err, FCM_BUSY, "the volume '%s' is being removed", name->s);
		fcm_fail(err, FCM_WRONG_STATE, "VM '%s' has the volume '%s'", users.v[0], name->s);
		return fcm_hint(err, "fcm destroy %s first: then nothing reads or writes it", users.v[0]);
	}
	*ret_freed = 0;
	int rc = volume_remove(name, ret_freed, err);
	volumes_gone(name->s);
	return rc;
}
