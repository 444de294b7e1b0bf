/*
 * What a user's text means, and what names an image has.
 */
#include <string.h>

#include "daemon/image/store.h"
#include "daemon/image/tags.h"

enum { PREFIX_MIN = 4, HEX = 64 };

static int fail_missing(const char *text, struct fcm_error *err)
{
	char shown[80];

	(void)fcm_copy(shown, sizeof shown, text);
	return fcm_fail_field(err, FCM_NO_IMAGE, "image", "there is no image '%s'", shown);
}

/* A bare name is first that of an image that was made here. */
static bool by_name(const char *text, const struct ref *ref, struct image_id *ret)
{
	struct ref local;

	if (strchr(text, '/') == NULL && ref_local(ref, &local) && tags_get(ref_full(&local).s, ret))
		return true;
	return tags_get(ref_full(ref).s, ret);
}

static int by_id(const char *text, struct image_id *ret, struct fcm_error *err)
{
	const char *hex = strncmp(text, "sha256:", 7) == 0 ? text + 7 : text;
	size_t n = strlen(hex);
	struct strv ids = {0};
	const char *found = NULL;
	int r = 0;

	if (n < PREFIX_MIN || n > HEX || strspn(hex, "0123456789abcdef") != n)
		return fail_missing(text, err);
	if (image_ids(&ids, err) < 0)
		return -1;
	for (size_t i = 0; i < ids.n && r == 0; i++) {
		if (strncmp(ids.v[i], hex, n) != 0)
			continue;
		if (found)
			r = fcm_fail_field(err, FCM_INVALID, "image",
				"image: '%s' is the beginning of several ids", text);
		found = ids.v[i];
	}
	if (r == 0 && found == NULL)
		r = fail_missing(text, err);
	if (r == 0)
		(void)fcm_copy(ret->s, sizeof ret->s, found);
	strv_done(&ids);
	return r;
}

int image_resolve(const char *text, struct image_id *ret, struct fcm_error *err)
{
	struct image_id id;
	struct ref ref;

	if (ref_parse(text, "image", &ref, err) < 0)
		return -1;
	if (!by_name(text, &ref, &id) && by_id(text, &id, err) < 0)
		return -1;
	if (!image_there(&id))
		return fail_missing(text, err);
	*ret = id;
	return 0;
}

bool image_name_of(const char *text, const struct image_id *id, struct ref_text *ret)
{
	struct fcm_error ignored;
	struct ref ref, local;
	struct image_id meant;

	if (ref_parse(text, "image", &ref, &ignored) < 0 || !by_name(text, &ref, &meant) ||
		strcmp(meant.s, id->s) != 0)
		return false;
	if (strchr(text, '/') == NULL && ref_local(&ref, &local) && tags_get(ref_full(&local).s, &meant))
		ref = local;
	*ret = ref_full(&ref);
	return true;
}

int image_whole_name(const char *name, const char *field, struct ref_text *ret, struct fcm_error *err)
{
	struct ref ref, local;

	if (ref_parse(name, field, &ref, err) < 0)
		return -1;
	if (ref.digest[0])
		return fcm_fail_field(
			err, FCM_INVALID, field, "%s: a name with a digest can't be given", field);
	if (strchr(name, '/') == NULL && ref_local(&ref, &local))
		ref = local;
	*ret = ref_full(&ref);
	return 0;
}

int image_tag(const struct image_id *id, const char *name, struct ref_text *ret, struct fcm_error *err)
{
	if (image_whole_name(name, "tag", ret, err) < 0 || tags_set(ret->s, id, err) < 0)
		return -1;
	if (!image_there(id)) { /* somebody removed it in that moment: no name of nothing stays */
		if (tags_remove(ret->s, id, err) < 0)
			return -1;
		return fail_missing(name, err);
	}
	return image_link_default(err);
}
