/*
 * What the store takes of the disk, and what of that nobody uses.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/image/store.h"

void image_space_add(struct image_space *s, bool active, uint64_t bytes)
{
	s->count++;
	s->active += active;
	s->bytes += bytes;
	s->unused += active ? 0 : bytes;
}

static uint64_t on_disk(int dirfd, const char *path)
{
	struct stat st;

	return fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

/* With the layers of those that are used into *ret_layers, as files. */
static int count_images(
	image_used *used, void *arg, struct image_space *ret, struct strv *ret_layers, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv ids = {0};

	if (image_ids(&ids, err) < 0)
		return -1;
	for (size_t i = 0; i < ids.n; i++) {
		auto_free char *path = xprintf("%s/image.ext4", ids.v[i]);
		struct image_facts facts;
		struct image_id id = {0};
		(void)fcm_copy(id.s, sizeof id.s, ids.v[i]);
		bool active = used(arg, &id);
		image_space_add(ret, active, on_disk(image_store.images_fd, path));
		image_read_facts(id.s, &facts);
		for (size_t k = 0; k < facts.layers.n && active; k++)
			strv_addf(ret_layers, "%s.tar", facts.layers.v[k]);
		strv_done(&facts.layers);
	}
	return 0;
}

int image_space(image_used *used, void *arg, struct image_space *ret_images, struct image_space *ret_layers,
	struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv active = {0}, there = {0};

	*ret_images = *ret_layers = (struct image_space){0};
	if (count_images(used, arg, ret_images, &active, err) < 0 ||
		image_entries(image_store.layers_fd, &there, err) < 0)
		return -1;
	for (size_t i = 0; i < there.n; i++)
		image_space_add(ret_layers, strv_has(&active, there.v[i]),
			on_disk(image_store.layers_fd, there.v[i]));
	return 0;
}
