/*
 * Removing images. One in use stays: the user of it is asked after before and, since a VM may be made meanwhile, once more
 * when the image can't be found any more, and then it comes back.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "common/core/fileio.h"
#include "daemon/image/make.h"
#include "daemon/image/store.h"
#include "daemon/image/tags.h"

void image_removed_done(struct image_removed *r)
{
	strv_done(&r->untagged);
	strv_done(&r->ids);
}

static int fail_used(const struct image_id *id, struct fcm_error *err)
{
	return fcm_fail(err, FCM_WRONG_STATE, "image %.12s is in use", id->s);
}

static int untag(
	const char *name, const struct image_id *id, struct image_removed *ret, struct fcm_error *err)
{
	if (tags_remove(name, id, err) < 0)
		return -1;
	strv_add(&ret->untagged, name);
	return image_link_default(err);
}

/* Its names first: one that nobody can name is listed and can be removed, a name of nothing couldn't. */
static int untag_all(const struct image_id *id, struct image_removed *ret, struct fcm_error *err)
{
	struct strv names = {0};
	int r = 0;

	tags_list(id, &names);
	for (size_t i = 0; i < names.n && r == 0; i++)
		r = untag(tag_of(names.v[i]).name.s, id, ret, err);
	strv_done(&names);
	return r;
}

static int remove_whole(const struct image_id *id, image_used *used, void *arg, struct image_removed *ret,
	struct fcm_error *err)
{
	struct image_temp away = image_temp_name();
	int fd = image_dir(false);

	if (used(arg, id))
		return fail_used(id, err);
	if (untag_all(id, ret, err) < 0)
		return -1;
	if (renameat(fd, id->s, fd, away.s) < 0)
		return errno == ENOENT ? 0 : fcm_fail_errno(err, "remove image %.12s", id->s);
	if (used(arg, id) && renameat2(fd, away.s, fd, id->s, RENAME_NOREPLACE) == 0)
		return fail_used(id, err);
	strv_add(&ret->ids, id->s);
	return dir_remove(fd, away.s, &ret->bytes, err) < 0 ? -1 : image_layers_sweep(err);
}

/* `fcm images` lists them, too. */
static int fail_kernel(const char *text, struct fcm_error *err)
{
	struct fcm_error ignored;
	struct asset_name name;
	struct image_info info;

	if (err->code != FCM_NO_IMAGE || asset_name_parse(text, "image", &name, &ignored) < 0 ||
		image_find_kernel(&name, &info, &ignored) < 0)
		return -1;
	fcm_fail(err, FCM_WRONG_STATE, "'%s' is a kernel, which stays", name.s);
	return fcm_hint(err, "fcm image build kernel makes the default one anew, in its place");
}

int image_remove(
	const char *text, image_used *used, void *arg, struct image_removed *ret, struct fcm_error *err)
{
	struct strv names = {0};
	struct ref_text name;
	struct image_id id;

	if (image_resolve(text, &id, err) < 0)
		return fail_kernel(text, err);
	tags_list(&id, &names);
	bool others = names.n > 1;
	strv_done(&names);
	if (others && image_name_of(text, &id, &name))
		return untag(name.s, &id, ret, err);
	return remove_whole(&id, used, arg, ret, err);
}

int image_prune(bool all, image_used *used, void *arg, struct image_removed *ret, struct fcm_error *err)
{
	struct strv ids = {0};
	int r = image_ids(&ids, err);

	for (size_t i = 0; i < ids.n && r == 0; i++) {
		struct strv names = {0};
		struct image_id id = {0};
		struct fcm_error ignored;
		(void)fcm_copy(id.s, sizeof id.s, ids.v[i]);
		tags_list(&id, &names);
		bool named = names.n > 0;
		strv_done(&names);
		if ((named && !all) || used(arg, &id))
			continue;
		if (remove_whole(&id, used, arg, ret, &ignored) < 0 && ignored.code != FCM_WRONG_STATE) {
			*err = ignored;
			r = -1;
		}
	}
	strv_done(&ids);
	return r;
}
