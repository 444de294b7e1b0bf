#include "daemon/image/image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "common/field.h"
#include "daemon/image/store.h"

enum { FACTS_MAX = 65536 };

struct image_store image_store = {.state_fd = -1, .images_fd = -1, .kernels_fd = -1};

static const struct field facts_table[] = {
	F(struct image_facts, name, FIELD_CHARS),
	F(struct image_facts, tag, FIELD_CHARS),
	F(struct image_facts, created, FIELD_TIME),
	F(struct image_facts, size, FIELD_I64, .max = INT64_MAX),
	F(struct image_facts, sha256, FIELD_CHARS),
	FIELD_END,
};

int image_dir(bool is_kernel)
{
	return is_kernel ? image_store.kernels_fd : image_store.images_fd;
}

struct image_temp image_temp_name(void)
{
	struct image_temp t;
	uint64_t r;

	if (getrandom(&r, sizeof r, 0) != sizeof r) /* can't fail: getrandom(2), up to 256 bytes */
		abort();
	snprintf(t.s, sizeof t.s, ".%016" PRIx64, r);
	return t;
}

const char *image_default_link(const struct asset_name *name, bool is_kernel, const char **ret_target)
{
	*ret_target = is_kernel ? "kernels/default/vmlinux" : "images/base/image.ext4";
	if (strcmp(name->s, is_kernel ? "default" : "base") != 0)
		return NULL;
	return is_kernel ? "vmlinux.bin" : "base-rootfs.img";
}

char *image_facts_print(const struct image_facts *facts)
{
	field_json *v = field_encode(facts_table, facts, false);
	char *text = fj_print(v, true);

	fj_free(v);
	return text;
}

static void closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

static DIR *open_listing(int dirfd)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (d == NULL && fd >= 0)
		close(fd);
	return d;
}

static int remove_leftovers(int dirfd, struct fcm_error *err)
{
	_cleanup_(closedirp) DIR *d = open_listing(dirfd);
	struct dirent *e;

	if (d == NULL)
		return fcm_fail_errno(err, "read the image store");
	while ((e = readdir(d)))
		if (e->d_name[0] == '.' && strcmp(e->d_name, ".") && strcmp(e->d_name, "..") &&
			dir_remove(dirfd, e->d_name, NULL, err) < 0)
			return -1;
	return 0;
}

static int open_part(const char *name, int *ret, struct fcm_error *err)
{
	auto_free char *path = xprintf("%s/%s", image_store.state_dir, name);

	if (dir_make(path, 0755, err) < 0)
		return -1;
	*ret = dir_open(image_store.state_fd, name, err);
	return *ret < 0 ? -1 : remove_leftovers(*ret, err);
}

int image_init(const char *state_dir, struct fcm_error *err)
{
	fcm_closep(&image_store.state_fd);
	fcm_closep(&image_store.images_fd);
	fcm_closep(&image_store.kernels_fd);
	free(image_store.state_dir);
	image_store = (struct image_store){xstrdup(state_dir), -1, -1, -1};
	image_store.state_fd = dir_open(AT_FDCWD, state_dir, err);
	if (image_store.state_fd < 0 || open_part("images", &image_store.images_fd, err) < 0 ||
		open_part("kernels", &image_store.kernels_fd, err) < 0)
		return fcm_wrap(err, "open the image store");
	return 0;
}

static int fail_missing(const struct asset_name *name, bool is_kernel, struct fcm_error *err)
{
	if (is_kernel)
		return fcm_fail(err, FCM_NO_KERNEL, "there is no kernel '%s'", name->s);
	return fcm_fail(err, FCM_NO_IMAGE, "there is no image '%s'", name->s);
}

/* Stat a regular file of an asset. */
static bool stat_file(const struct asset_name *name, bool is_kernel, const char *file, struct stat *st)
{
	auto_free char *path = xprintf("%s/%s", name->s, file);

	return fstatat(image_dir(is_kernel), path, st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st->st_mode);
}

/* A broken image.json costs the facts, not the image. */
static void read_facts(const struct asset_name *name, struct image_facts *ret)
{
	auto_free char *path = xprintf("%s/image.json", name->s);
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error err;

	*ret = (struct image_facts){0};
	if (file_read(image_store.images_fd, path, FACTS_MAX, &text, &err) < 0 ||
		field_decode(facts_table, text.p, text.n, FIELD_DISK, ret, &err) < 0)
		*ret = (struct image_facts){0};
}

int image_find(const struct asset_name *name, struct image_info *ret, struct fcm_error *err)
{
	struct image_facts facts;
	struct stat st;

	if (!stat_file(name, false, "image.ext4", &st))
		return fail_missing(name, false, err);
	read_facts(name, &facts);
	*ret = (struct image_info){
		.name = *name,
		.size = (uint64_t)st.st_size,
		.on_disk = (uint64_t)st.st_blocks * 512,
		.created = facts.created ? facts.created : st.st_mtime,
	};
	fcm_copy(ret->tag, sizeof ret->tag, facts.tag);
	fcm_copy(ret->digest, sizeof ret->digest, facts.sha256);
	return 0;
}

int image_find_kernel(const struct asset_name *name, struct image_info *ret, struct fcm_error *err)
{
	auto_free char *path = xprintf("%s/release", name->s);
	_cleanup_(buf_done) struct buf release = {0};
	struct fcm_error ignored;
	struct stat vmlinux, initrd;

	if (!stat_file(name, true, "vmlinux", &vmlinux) || !stat_file(name, true, "initrd", &initrd))
		return fail_missing(name, true, err);
	*ret = (struct image_info){
		.name = *name,
		.size = (uint64_t)vmlinux.st_size + (uint64_t)initrd.st_size,
		.on_disk = ((uint64_t)vmlinux.st_blocks + (uint64_t)initrd.st_blocks) * 512,
		.created = vmlinux.st_mtime,
		.is_kernel = true,
	};
	if (file_read(image_store.kernels_fd, path, FACTS_MAX, &release, &ignored) == 0) {
		release.p[strcspn(release.p, "\n")] = '\0';
		fcm_copy(ret->tag, sizeof ret->tag, release.p);
	}
	return 0;
}

int image_path(const struct asset_name *name, char **ret, struct fcm_error *err)
{
	struct stat st;

	if (!stat_file(name, false, "image.ext4", &st))
		return fail_missing(name, false, err);
	*ret = xprintf("%s/images/%s/image.ext4", image_store.state_dir, name->s);
	return 0;
}

int kernel_paths(const struct asset_name *name, char **ret_vmlinux, char **ret_initrd, struct fcm_error *err)
{
	struct stat st;

	if (!stat_file(name, true, "vmlinux", &st) || !stat_file(name, true, "initrd", &st))
		return fail_missing(name, true, err);
	*ret_vmlinux = xprintf("%s/kernels/%s/vmlinux", image_store.state_dir, name->s);
	*ret_initrd = xprintf("%s/kernels/%s/initrd", image_store.state_dir, name->s);
	return 0;
}

static int list_part(bool is_kernel, struct image_info **list, size_t *n, struct fcm_error *err)
{
	_cleanup_(closedirp) DIR *d = open_listing(image_dir(is_kernel));
	struct fcm_error ignored;
	struct asset_name name;
	struct image_info info;
	struct dirent *e;

	if (d == NULL)
		return fcm_fail_errno(err, "read the image store");
	while ((e = readdir(d))) {
		if (!asset_name_valid(e->d_name) || !fcm_copy(name.s, sizeof name.s, e->d_name))
			continue;
		if ((is_kernel ? image_find_kernel : image_find)(&name, &info, &ignored) < 0)
			continue; /* just removed, or not ours */
		*list = xrealloc(*list, (*n + 1) * sizeof **list);
		(*list)[(*n)++] = info;
	}
	return 0;
}

static int by_kind_and_name(const void *a, const void *b)
{
	const struct image_info *x = a, *y = b;

	return x->is_kernel != y->is_kernel ? x->is_kernel - y->is_kernel : strcmp(x->name.s, y->name.s);
}

int image_list(struct image_info **ret, size_t *ret_n, struct fcm_error *err)
{
	auto_free struct image_info *list = NULL;
	size_t n = 0;

	if (list_part(false, &list, &n, err) < 0 || list_part(true, &list, &n, err) < 0)
		return -1;
	if (n)
		qsort(list, n, sizeof *list, by_kind_and_name);
	*ret = STEAL(list);
	*ret_n = n;
	return 0;
}

int image_remove(const struct asset_name *name, bool is_kernel, struct fcm_error *err)
{
	struct image_temp away = image_temp_name();
	int dirfd = image_dir(is_kernel);
	const char *target, *link = image_default_link(name, is_kernel, &target);
	struct stat st;

	if (renameat(dirfd, name->s, dirfd, away.s) < 0)
		return errno == ENOENT ? fail_missing(name, is_kernel, err)
				       : fcm_fail_errno(err, "remove '%s'", name->s);
	if (link && fstatat(image_store.state_fd, link, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode))
		(void)unlinkat(image_store.state_fd, link, 0);
	return dir_remove(dirfd, away.s, NULL, err);
}
