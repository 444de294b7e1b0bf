/*
 * An older fcm had images/<name>/: each becomes images/<id>/ with the name localhost/<name>:latest. The name is written first,
 * so that whatever ends us the next start finds the old directory still, and goes on.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "common/crypt.h"
#include "daemon/image/store.h"
#include "daemon/image/tags.h"

enum { BLOCK = 256 << 10 };

/* The id of an image whose image.json doesn't tell. */
static int hash_image(const char *name, struct image_id *ret, struct fcm_error *err)
{
	auto_free char *path = xprintf("%s/image.ext4", name), *block = xalloc(BLOCK);
	auto_close int fd = openat(image_dir(false), path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return fcm_fail_errno(err, "open %s", path);
	struct crypt_sha256 *h = crypt_sha256_new();
	while ((n = read(fd, block, BLOCK)) > 0)
		crypt_sha256_add(h, block, (size_t)n);
	crypt_sha256_hex(h, ret->s);
	return n < 0 ? fcm_fail_errno(err, "read %s", path) : 0;
}

static int migrate_one(const char *name, struct fcm_error *err)
{
	auto_free char *full = xprintf(REF_LOCAL "/%s:latest", name);
	struct image_facts facts;
	struct image_id id = {0};
	struct ref ref;
	int fd = image_dir(false);

	image_read_facts(name, &facts);
	strv_done(&facts.layers); /* no image of then has any */
	if (ref_digest_valid(facts.sha256, false))
		(void)fcm_copy(id.s, sizeof id.s, facts.sha256);
	else if (hash_image(name, &id, err) < 0)
		return -1;
	/* what was a name then and is no reference now (a dot at its end) is found by its id */
	if (ref_parse(full, "image", &ref, err) == 0 && tags_set(full, &id, err) < 0)
		return -1;
	if (renameat2(fd, name, fd, id.s, RENAME_NOREPLACE) == 0)
		return 0;
	/* two names of one image */
	return errno == EEXIST ? dir_remove(fd, name, NULL, err) : fcm_fail_errno(err, "rename %s", name);
}

/* Is it a directory with an image that was made before there were ids? */
static bool is_old(const char *name)
{
	auto_free char *path = xprintf("%s/image.ext4", name);
	struct stat st;

	return asset_name_valid(name) && fstatat(image_dir(false), path, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       S_ISREG(st.st_mode);
}

int image_migrate(struct fcm_error *err)
{
	struct strv names = {0};
	int r = image_entries(image_dir(false), &names, err);

	for (size_t i = 0; i < names.n && r == 0; i++)
		if (is_old(names.v[i]))
			r = migrate_one(names.v[i], err);
	strv_done(&names);
	return r < 0 ? fcm_wrap(err, "give the images of an older fcm their ids") : 0;
}
