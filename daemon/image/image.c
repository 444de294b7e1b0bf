#include "daemon/image/image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "common/core/log.h"
#include "common/field.h"
#include "daemon/image/make.h"
#include "daemon/image/store.h"
#include "daemon/image/tags.h"

enum { FACTS_MAX = 65536 };

struct image_store image_store = {.state_fd = -1, .images_fd = -1, .kernels_fd = -1, .layers_fd = -1};

static const struct field facts_table[] = {
	F(struct image_facts, tag, FIELD_CHARS),
	F(struct image_facts, created, FIELD_TIME),
	F(struct image_facts, size, FIELD_I64, .max = INT64_MAX),
	F(struct image_facts, sha256, FIELD_CHARS, .flags = FIELD_OMIT_EMPTY),
	F(struct image_facts, layers, FIELD_STRV, .max = 128, .flags = FIELD_OMIT_EMPTY),
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

int image_job_dirs(bool is_kernel, const struct image_temp *temp, const char *job, uid_t uid, int *ret_fd,
	int *ret_job_fd, struct fcm_error *err)
{
	const char *of = is_kernel ? "kernel" : "image";
	int parent = image_dir(is_kernel);

	*ret_fd = *ret_job_fd = -1;
	if (mkdirat(parent, temp->s, 0700) < 0)
		return fcm_fail_errno(err, "make a directory for the %s", of);
	*ret_fd = dir_open(parent, temp->s, err);
	if (*ret_fd < 0)
		return -1;
	if (mkdirat(*ret_fd, job, 0700) < 0 ||
		fchownat(*ret_fd, job, uid, (gid_t)uid, AT_SYMLINK_NOFOLLOW) < 0)
		return fcm_fail_errno(err, "make a directory for the %s", of);
	*ret_job_fd = dir_open(*ret_fd, job, err);
	return *ret_job_fd < 0 ? -1 : 0;
}

/* Stat a regular file of an image or a kernel. */
static bool stat_file(bool is_kernel, const char *dir, const char *file, struct stat *st)
{
	auto_free char *path = xprintf("%s/%s", dir, file);

	return fstatat(image_dir(is_kernel), path, st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st->st_mode);
}

/* Does the link lead there already? A disk that is read-only keeps no daemon from starting. */
static bool leads_to(int fd, const char *link, const char *target)
{
	char old[PATH_MAX];
	ssize_t n = readlinkat(fd, link, old, sizeof old - 1);

	old[MAX(n, 0)] = '\0';
	return target && n > 0 && strcmp(old, target) == 0;
}

static int link_one(const char *link, const char *target, struct fcm_error *err)
{
	struct image_temp temp = image_temp_name();
	int fd = image_store.state_fd;
	struct stat st;

	if ((fstatat(fd, link, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISLNK(st.st_mode)) ||
		leads_to(fd, link, target))
		return 0;
	if (target == NULL) {
		(void)unlinkat(fd, link, 0);
		return 0;
	}
	if (symlinkat(target, fd, temp.s) < 0)
		return fcm_fail_errno(err, "link %s", link);
	if (renameat(fd, temp.s, fd, link) < 0) {
		fcm_fail_errno(err, "link %s", link);
		(void)unlinkat(fd, temp.s, 0);
		return -1;
	}
	return 0;
}

int image_link_default(struct fcm_error *err)
{
	static const struct asset_name kernel = {"default"};
	auto_free char *target = NULL;
	struct image_id id;
	struct stat st;

	if (tags_get(REF_LOCAL "/base:latest", &id))
		target = xprintf("images/%s/image.ext4", id.s);
	bool booted = stat_file(true, kernel.s, "vmlinux", &st);
	return link_one("base-rootfs.img", target, err) < 0 ||
			       link_one("vmlinux.bin", booted ? "kernels/default/vmlinux" : NULL, err) < 0
		       ? -1
		       : 0;
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
	struct fcm_error why;

	if (dir_make(path, 0755, err) < 0)
		return -1;
	*ret = dir_open(image_store.state_fd, name, err);
	if (*ret >= 0 && remove_leftovers(*ret, &why) < 0)
		log_error(LOG_LEVEL_WARN, NULL, &why);
	return *ret < 0 ? -1 : 0;
}

static int open_store(const char *state_dir, struct fcm_error *err)
{
	fcm_closep(&image_store.state_fd);
	fcm_closep(&image_store.images_fd);
	fcm_closep(&image_store.kernels_fd);
	fcm_closep(&image_store.layers_fd);
	free(image_store.state_dir);
	image_store = (struct image_store){xstrdup(state_dir), -1, -1, -1, -1};
	image_store.state_fd = dir_open(AT_FDCWD, state_dir, err);
	return image_store.state_fd < 0 ? -1 : 0;
}

int image_init_looking(const char *state_dir, struct fcm_error *err)
{
	if (open_store(state_dir, err) < 0)
		return -1;
	image_store.images_fd = dir_open(image_store.state_fd, "images", err);
	return image_store.images_fd < 0 ? -1 : tags_load(image_store.state_fd, err);
}

/* What only makes room, or is for convenience, doesn't keep VMs from being served: the disk may be full, or read-only. */
int image_init(const char *state_dir, struct fcm_error *err)
{
	struct fcm_error why;

	if (open_store(state_dir, err) < 0 || open_part("images", &image_store.images_fd, err) < 0 ||
		open_part("kernels", &image_store.kernels_fd, err) < 0 ||
		open_part("layers", &image_store.layers_fd, err) < 0 ||
		tags_load(image_store.state_fd, err) < 0 || image_migrate(err) < 0)
		return fcm_wrap(err, "open the image store");
	if (image_link_default(&why) < 0 || image_layers_sweep(&why) < 0)
		log_error(LOG_LEVEL_WARN, NULL, &why);
	return 0;
}

static int fail_missing(const struct image_id *id, struct fcm_error *err)
{
	return fcm_fail(err, FCM_NO_IMAGE, "there is no image %.12s", id->s);
}

static int fail_no_kernel(const struct asset_name *name, struct fcm_error *err)
{
	return fcm_fail(err, FCM_NO_KERNEL, "there is no kernel '%s'", name->s);
}

static int read_facts(const char *dir, struct image_facts *ret, struct fcm_error *err)
{
	auto_free char *path = xprintf("%s/image.json", dir);
	_cleanup_(buf_done) struct buf text = {0};

	*ret = (struct image_facts){0};
	if (file_read(image_store.images_fd, path, FACTS_MAX, &text, err) == 0 &&
		field_decode(facts_table, text.p, text.n, FIELD_DISK, ret, err) == 0)
		return 0;
	strv_done(&ret->layers);
	*ret = (struct image_facts){0};
	return fcm_wrap(err, "image %.12s", dir);
}

void image_read_facts(const char *dir, struct image_facts *ret)
{
	struct fcm_error ignored;

	(void)!read_facts(dir, ret, &ignored);
}

int image_read_layers(const char *dir, struct strv *ret, struct fcm_error *err)
{
	struct image_facts facts;

	if (read_facts(dir, &facts, err) < 0)
		return err->code == FCM_NOT_FOUND ? 0 : -1;
	strv_copy(ret, &facts.layers);
	strv_done(&facts.layers);
	return 0;
}

bool image_there(const struct image_id *id)
{
	struct stat st;

	return id->s[0] && stat_file(false, id->s, "image.ext4", &st);
}

static void set_name(struct image_info *info, const char *entry)
{
	struct fcm_error ignored;
	struct ref ref;

	if (ref_parse(tag_of(entry).name.s, "image", &ref, &ignored) < 0)
		return;
	(void)fcm_copy(info->name, sizeof info->name, ref_name(&ref).s);
	(void)fcm_copy(info->tag, sizeof info->tag, ref.tag);
}

/* But for its names. */
static bool find_nameless(const struct image_id *id, struct image_info *ret)
{
	struct image_facts facts;
	struct stat st;

	if (id->s[0] == '\0' || !stat_file(false, id->s, "image.ext4", &st))
		return false;
	image_read_facts(id->s, &facts);
	*ret = (struct image_info){
		.id = *id,
		.size = (uint64_t)st.st_size,
		.on_disk = (uint64_t)st.st_blocks * 512,
		.created = facts.created ? facts.created : st.st_mtime,
	};
	fcm_copy(ret->version, sizeof ret->version, facts.tag);
	strv_done(&facts.layers);
	return true;
}

int image_find(const struct image_id *id, struct image_info *ret, struct fcm_error *err)
{
	struct strv names = {0};

	if (!find_nameless(id, ret))
		return fail_missing(id, err);
	tags_list(id, &names);
	if (names.n)
		set_name(ret, names.v[0]);
	strv_done(&names);
	return 0;
}

int image_find_kernel(const struct asset_name *name, struct image_info *ret, struct fcm_error *err)
{
	auto_free char *path = xprintf("%s/release", name->s);
	_cleanup_(buf_done) struct buf release = {0};
	struct fcm_error ignored;
	struct stat vmlinux, initrd;

	if (!stat_file(true, name->s, "vmlinux", &vmlinux) || !stat_file(true, name->s, "initrd", &initrd))
		return fail_no_kernel(name, err);
	*ret = (struct image_info){
		.size = (uint64_t)vmlinux.st_size + (uint64_t)initrd.st_size,
		.on_disk = ((uint64_t)vmlinux.st_blocks + (uint64_t)initrd.st_blocks) * 512,
		.created = vmlinux.st_mtime,
		.is_kernel = true,
	};
	fcm_copy(ret->name, sizeof ret->name, name->s);
	if (file_read(image_store.kernels_fd, path, FACTS_MAX, &release, &ignored) == 0) {
		release.p[strcspn(release.p, "\n")] = '\0';
		fcm_copy(ret->tag, sizeof ret->tag, release.p);
	}
	return 0;
}

int image_path(const struct image_id *id, char **ret, struct fcm_error *err)
{
	if (!image_there(id))
		return fail_missing(id, err);
	*ret = xprintf("%s/images/%s/image.ext4", image_store.state_dir, id->s);
	return 0;
}

int kernel_paths(const struct asset_name *name, char **ret_vmlinux, char **ret_initrd, struct fcm_error *err)
{
	struct stat st;

	if (!stat_file(true, name->s, "vmlinux", &st) || !stat_file(true, name->s, "initrd", &st))
		return fail_no_kernel(name, err);
	*ret_vmlinux = xprintf("%s/kernels/%s/vmlinux", image_store.state_dir, name->s);
	*ret_initrd = xprintf("%s/kernels/%s/initrd", image_store.state_dir, name->s);
	return 0;
}

int image_entries(int dirfd, struct strv *ret, struct fcm_error *err)
{
	_cleanup_(closedirp) DIR *d = open_listing(dirfd);
	struct dirent *e;

	if (d == NULL)
		return fcm_fail_errno(err, "read the image store");
	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			strv_add(ret, e->d_name);
	strv_sort(ret);
	return 0;
}

int image_ids(struct strv *ret, struct fcm_error *err)
{
	struct strv all = {0};
	int r = image_entries(image_dir(false), &all, err);

	for (size_t i = 0; i < all.n; i++)
		if (ref_digest_valid(all.v[i], false))
			strv_add(ret, all.v[i]);
	strv_done(&all);
	return r;
}

int image_has_place(struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv ids = {0};

	if (image_ids(&ids, err) < 0)
		return -1;
	return ids.n < IMAGES_MAX
		       ? 0
		       : fcm_fail(err, FCM_INSUFFICIENT, "there are %d images already", IMAGES_MAX);
}

/* ---- the list ---- */

struct list {
	struct image_info *v;
	size_t n;
};

static void add(struct list *l, const struct image_info *info)
{
	l->v = xrealloc(l->v, (l->n + 1) * sizeof *l->v);
	l->v[l->n++] = *info;
}

/* A row for each of its names, or one without. */
static void add_image(struct list *l, const char *dir)
{
	struct strv names = {0};
	struct image_info info;
	struct image_id id = {0};

	if (!fcm_copy(id.s, sizeof id.s, dir) || !find_nameless(&id, &info))
		return; /* just removed, or not ours */
	tags_list(&id, &names);
	for (size_t i = 0; i < names.n; i++) {
		set_name(&info, names.v[i]);
		add(l, &info);
	}
	if (names.n == 0)
		add(l, &info);
	strv_done(&names);
}

static void add_kernel(struct list *l, const char *dir)
{
	struct fcm_error ignored;
	struct asset_name name;
	struct image_info info;

	if (asset_name_parse(dir, "kernel", &name, &ignored) == 0 &&
		image_find_kernel(&name, &info, &ignored) == 0)
		add(l, &info);
}

static int by_kind_and_name(const void *a, const void *b)
{
	const struct image_info *x = a, *y = b;
	int r = x->is_kernel - y->is_kernel;

	r = r ? r : (x->name[0] == '\0') - (y->name[0] == '\0'); /* those without at last */
	r = r ? r : strcmp(x->name, y->name);
	r = r ? r : strcmp(x->tag, y->tag);
	return r ? r : strcmp(x->id.s, y->id.s);
}

int image_list(struct image_info **ret, size_t *ret_n, struct fcm_error *err)
{
	struct strv images = {0}, kernels = {0};
	struct list l = {0};

	int r = image_ids(&images, err) < 0 || image_entries(image_dir(true), &kernels, err) < 0 ? -1 : 0;
	for (size_t i = 0; r == 0 && i < images.n; i++)
		add_image(&l, images.v[i]);
	for (size_t i = 0; r == 0 && i < kernels.n; i++)
		add_kernel(&l, kernels.v[i]);
	strv_done(&images);
	strv_done(&kernels);
	if (l.n)
		qsort(l.v, l.n, sizeof *l.v, by_kind_and_name);
	*ret = l.v;
	*ret_n = l.n;
	return r;
}
