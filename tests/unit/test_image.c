/* The store of images and kernels: names, what goes and what stays, and what makes neither and leaves nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "common/crypt.h"
#include "daemon/image/image.h"
#include "daemon/image/kernel.h"
#include "daemon/image/make.h"

static char top[] = "/tmp/fcm-image-XXXXXX";

static const struct asset_name kernel = {"default"}, other = {"other-1.0"};

static int begin(void **state)
{
	struct fcm_error err;

	(void)state;
	return mkdtemp(top) == NULL ? -1 : image_init(top, &err);
}

static int end(void **state)
{
	struct fcm_error err;

	(void)state;
	int r = dir_remove(AT_FDCWD, top, NULL, &err);
	strcpy(top + sizeof top - 7, "XXXXXX");
	return r;
}

enum { EXT4 = 300000 };

static const char *ext4_bytes(char fill)
{
	static char b[EXT4];

	memset(b, 0, sizeof b);
	memcpy(b + 1080, "\x53\xef", 2);
	memset(b + 250000, fill, 1000);
	return b;
}

enum { VMLINUX = 300000 };

static const char *vmlinux_bytes(char fill)
{
	static char b[VMLINUX];

	memset(b, 0, sizeof b);
	memcpy(b, "\177ELF", 4);
	memset(b + 250000, fill, 1000);
	return b;
}

/* A file that a kernel's job left; of a size without contents a hole. */
struct left {
	const char *name, *data;
	size_t n;
};

#define TEXT(s) s, sizeof(s) - 1
#define GOOD_INITRD                                                                                          \
	{                                                                                                    \
		"initrd", TEXT("cpio")                                                                       \
	}
#define GOOD_RELEASE                                                                                         \
	{                                                                                                    \
		"release", TEXT("6.1.0-18-cloud-amd64\n")                                                    \
	}

/* Find one by its name. */
static int find(const char *name, struct image_info *info, struct fcm_error *err)
{
	struct image_id id;

	return image_resolve(name, &id, err) < 0 ? -1 : image_find(&id, info, err);
}

static int find_path(const char *name, char **ret, struct fcm_error *err)
{
	struct image_id id;

	return image_resolve(name, &id, err) < 0 ? -1 : image_path(&id, ret, err);
}

static bool unused(void *arg, const struct image_id *id)
{
	(void)arg;
	(void)id;
	return false;
}

static int remove_image(const char *name, struct fcm_error *err)
{
	struct image_removed removed = {0};
	int r = image_remove(name, unused, NULL, &removed, err);

	image_removed_done(&removed);
	return r;
}

static void leave(const struct kernel_making *m, const struct left *l)
{
	int fd = openat(m->job_fd, l->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	if (l->data)
		assert_int_equal(pwrite(fd, l->data, l->n, 0), l->n);
	assert_int_equal(ftruncate(fd, (off_t)l->n), 0);
	close(fd);
}

static int make_kernel(const struct asset_name *name, const struct left *files, size_t n,
	struct image_info *info, struct fcm_error *err)
{
	struct kernel_making m;

	*err = (struct fcm_error){0};
	assert_int_equal(kernel_make_begin(getuid(), &m, err), 0);
	for (size_t i = 0; i < n; i++)
		leave(&m, &files[i]);
	int r = kernel_make_commit(&m, name, info, err);
	kernel_make_done(&m);
	return r;
}

static int good_kernel(
	const struct asset_name *name, char fill, struct image_info *info, struct fcm_error *err)
{
	const struct left files[] = {{"vmlinux", vmlinux_bytes(fill), VMLINUX}, GOOD_INITRD, GOOD_RELEASE};

	return make_kernel(name, files, ARRAY_SIZE(files), info, err);
}

static unsigned entries(const char *name)
{
	auto_free char *path = xprintf("%s/%s", top, name);
	DIR *d = opendir(path);
	unsigned n = 0;

	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));)
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(d);
	return n;
}

static void expect_bad(const struct left *files, size_t n, enum fcm_code code, const char *message)
{
	struct image_info info;
	struct fcm_error err;

	assert_int_equal(make_kernel(&kernel, files, n, &info, &err), -1);
	if (err.code != code || strstr(err.msg, message) == NULL)
		fail_msg("%d: %s", (int)err.code, err.msg);
	assert_int_equal(entries("kernels"), 0);
	assert_int_equal(entries(""), 3);
}

#define BAD(files, code, message) expect_bad(files, ARRAY_SIZE(files), code, message)

/* ---- images */

static void write_all(int fd, const char *p, size_t n)
{
	assert_int_equal(pwrite(fd, p, n, 0), n);
}

static struct image_id id_of(const char *p, size_t n)
{
	struct crypt_sha256 *h = crypt_sha256_new();
	struct image_id id;

	crypt_sha256_add(h, p, n);
	crypt_sha256_hex(h, id.s);
	return id;
}

static int commit(struct image_making *m, const struct image_id *id, const char *name,
	struct image_info *info, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv names = {0};
	struct ref_text whole;

	assert_int_equal(image_whole_name(name, "name", &whole, err), 0);
	strv_add(&names, whole.s);
	m->id = *id;
	int r = image_make_commit(m, &names, info, err);
	image_make_done(m);
	return r;
}

/* One as an import makes it of an ext4. */
static void put(const char *name, char fill, struct image_info *info)
{
	const struct image_id id = id_of(ext4_bytes(fill), EXT4);
	struct image_making m;
	struct fcm_error err;

	assert_int_equal(image_make_begin(getuid(), &m, &err), 0);
	write_all(m.out_fd, ext4_bytes(fill), EXT4);
	if (commit(&m, &id, name, info, &err) < 0)
		fail_msg("%s", err.msg);
}

/* ---- tests */

static void test_good_image(void **state)
{
	_cleanup_(buf_done) struct buf text = {0};
	auto_free char *path = NULL, *link = xprintf("%s/base-rootfs.img", top);
	struct image_info info;
	struct fcm_error err;
	struct stat st;

	(void)state;
	put("base", 'a', &info);
	assert_string_equal(info.version, "");
	assert_string_equal(info.name, "base");
	assert_string_equal(info.tag, "latest");
	assert_int_equal(info.size, EXT4);
	assert_string_equal(info.id.s, id_of(ext4_bytes('a'), EXT4).s);
	assert_int_equal(find_path("base", &path, &err), 0);
	assert_int_equal(file_read(AT_FDCWD, path, EXT4, &text, &err), 0);
	assert_memory_equal(text.p, ext4_bytes('a'), EXT4);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0444);
	assert_int_equal(stat(link, &st), 0);
	assert_int_equal(st.st_size, EXT4);
	assert_int_equal(entries("images"), 1);
	auto_free char *inside = xprintf("images/%s", info.id.s);
	assert_int_equal(entries(inside), 2);
}

#define CONFIG(label)                                                                                        \
	"{\"os\":\"linux\",\"architecture\":\"amd64\",\"config\":{\"Labels\":{"                              \
	"\"org.opencontainers.image.version\":" label "}}}"

/* What its maker calls it is a stranger's word. */
static void test_version(void **state)
{
	static const struct {
		const char *config, *version;
	} rows[] = {
		{CONFIG("\"12\""), "12"},
		{CONFIG("\"0123456789012345678901234567890123456789\""), "0123456789012345678901234567890"},
		{CONFIG("\"1\\u001b[31m\""), "1?[31m"},
		{CONFIG("12"), ""},
		{"{\"os\":\"linux\",\"architecture\":\"amd64\"}", ""},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct image_id id = id_of(rows[i].config, strlen(rows[i].config));
		struct image_making m;
		struct image_info info;
		struct fcm_error err;
		assert_int_equal(image_make_begin(getuid(), &m, &err), 0);
		strv_add(&m.layers, id.s);
		assert_int_equal(file_write_atomic(m.job_fd, "config.json", 0600, rows[i].config,
					 strlen(rows[i].config), &err),
			0);
		if (commit(&m, &id, "base", &info, &err) < 0)
			fail_msg("%s: %s", rows[i].config, err.msg);
		assert_string_equal(info.version, rows[i].version);
	}
}

static void test_good_kernel(void **state)
{
	auto_free char *vmlinux = NULL, *initrd = NULL, *link = xprintf("%s/vmlinux.bin", top);
	struct image_info info;
	struct fcm_error err;

	(void)state;
	assert_int_equal(kernel_paths(&kernel, &vmlinux, &initrd, &err), -1);
	assert_int_equal(err.code, FCM_NO_KERNEL);
	if (good_kernel(&kernel, 'a', &info, &err) < 0)
		fail_msg("%s", err.msg);
	assert_true(info.is_kernel);
	assert_string_equal(info.tag, "6.1.0-18-cloud-amd64");
	assert_int_equal(kernel_paths(&kernel, &vmlinux, &initrd, &err), 0);
	assert_int_equal(access(vmlinux, R_OK), 0);
	assert_int_equal(access(initrd, R_OK), 0);
	assert_int_equal(access(link, R_OK), 0);
}

static void test_replace_list_remove(void **state)
{
	auto_free struct image_info *list = NULL;
	auto_free char *path = NULL, *link = xprintf("%s/base-rootfs.img", top);
	struct image_removed removed = {0};
	struct image_info first, second;
	struct fcm_error err;
	struct stat st;
	size_t n;
	char c = 0;

	(void)state;
	put("base", 'a', &first);
	assert_int_equal(find_path("base", &path, &err), 0);
	int old = open(path, O_RDONLY | O_CLOEXEC);
	put("base", 'b', &second);
	assert_string_not_equal(first.id.s, second.id.s);
	assert_int_equal(pread(old, &c, 1, 250000), 1); /* who has the old one open keeps it */
	assert_int_equal(c, 'a');
	close(old);
	assert_int_equal(entries("images"), 2);
	assert_int_equal(find("base", &first, &err), 0);
	assert_string_equal(first.id.s, second.id.s);
	assert_int_equal(image_prune(false, unused, NULL, &removed, &err), 0);
	assert_int_equal(removed.ids.n, 1);
	image_removed_done(&removed);

	put("other-1.0", 'a', &second);
	assert_int_equal(good_kernel(&kernel, 'a', &second, &err), 0);
	assert_int_equal(image_list(&list, &n, &err), 0);
	assert_int_equal(n, 3);
	assert_string_equal(list[0].name, "base");
	assert_string_equal(list[0].id.s, first.id.s);
	assert_string_equal(list[1].name, "other-1.0");
	assert_true(list[2].is_kernel);

	assert_int_equal(remove_image("base", &err), 0);
	assert_int_equal(remove_image("base", &err), -1);
	assert_int_equal(err.code, FCM_NO_IMAGE);
	assert_int_equal(find("base", &first, &err), -1);
	assert_int_equal(err.code, FCM_NO_IMAGE);
	assert_true(lstat(link, &st) < 0 && errno == ENOENT);
	assert_int_equal(entries("images"), 1);
}

static void test_what_makes_no_kernel(void **state)
{
	const char *elf = vmlinux_bytes('a');

	(void)state;
	BAD(((const struct left[]){{"vmlinux", elf, VMLINUX}, GOOD_RELEASE}), FCM_INVALID,
		"initrd is missing");
	BAD(((const struct left[]){{"vmlinux", elf, VMLINUX}, {"initrd", NULL, 0}, GOOD_RELEASE}),
		FCM_INVALID, "initrd in the tar is empty");
	BAD(((const struct left[]){{"vmlinux", TEXT("MZ")}, GOOD_INITRD, GOOD_RELEASE}), FCM_INVALID,
		"vmlinux is not an uncompressed kernel");
	BAD(((const struct left[]){{"vmlinux", TEXT("\177EL")}, GOOD_INITRD, GOOD_RELEASE}), FCM_INVALID,
		"vmlinux is not an uncompressed kernel");
	BAD(((const struct left[]){
		    {"vmlinux", elf, VMLINUX}, {"initrd", NULL, (128 << 20) + 1}, GOOD_RELEASE}),
		FCM_TOO_LARGE, "initrd is larger than 131072 KiB");
	BAD(((const struct left[]){{"vmlinux", elf, VMLINUX}, GOOD_INITRD, {"release", NULL, 1025}}),
		FCM_TOO_LARGE, "release is larger than 1 KiB");
	BAD(((const struct left[]){
		    {"vmlinux", elf, VMLINUX}, GOOD_INITRD, {"release", TEXT("6.1 console=ttyS0")}}),
		FCM_INVALID, "release is not the release");
	BAD(((const struct left[]){
		    {"vmlinux", elf, VMLINUX}, GOOD_INITRD, GOOD_RELEASE, {"more", TEXT("x")}}),
		FCM_INVALID, "more than a kernel");
}

/* What a job that was taken over may leave in the place of a file. */
static void test_no_files(void **state)
{
	static const char *const ways[] = {"ln -s /etc/passwd initrd", "ln vmlinux initrd", "mkfifo initrd",
		"mkdir initrd", "mknod initrd c 1 5"};
	const struct left files[] = {{"vmlinux", vmlinux_bytes('a'), VMLINUX}, GOOD_RELEASE};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		struct kernel_making m;
		struct image_info info;
		struct fcm_error err;
		assert_int_equal(kernel_make_begin(getuid(), &m, &err), 0);
		leave(&m, &files[0]);
		leave(&m, &files[1]);
		auto_free char *plant = xprintf("cd %s/kernels/%s/kernel && %s", top, m.temp.s, ways[i]);
		assert_int_equal(system(plant), 0);
		assert_int_equal(kernel_make_commit(&m, &kernel, &info, &err), -1);
		kernel_make_done(&m);
		assert_int_equal(entries("kernels"), 0);
	}
}

struct maker {
	const struct asset_name *name;
	int r;
};

static void *make_elsewhere(void *arg)
{
	struct maker *u = arg;
	const struct left files[] = {{"vmlinux", TEXT("\177ELF")}, GOOD_INITRD, GOOD_RELEASE};
	struct image_info info;
	struct fcm_error err;

	for (int i = 0; i < 10 && u->r == 0; i++)
		u->r = make_kernel(u->name, files, ARRAY_SIZE(files), &info, &err);
	return NULL;
}

static void test_kernels_together(void **state)
{
	struct maker u[4] = {{&kernel, 0}, {&kernel, 0}, {&other, 0}, {&kernel, 0}};
	pthread_t t[4];

	(void)state;
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, make_elsewhere, &u[i]);
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(u[i].r, 0);
	}
	assert_int_equal(entries("kernels"), 2);
	assert_int_equal(entries("kernels/default"), 3);
}

static void test_abort_and_leftovers(void **state)
{
	auto_free char *planted = xprintf("%s/images/.0123456789abcdef", top);
	struct kernel_making k;
	struct image_making m;
	struct fcm_error err;

	(void)state;
	assert_int_equal(kernel_make_begin(getuid(), &k, &err), 0);
	leave(&k, &(struct left)GOOD_INITRD);
	kernel_make_done(&k);
	kernel_make_done(&k);
	assert_int_equal(entries("kernels"), 0);
	assert_int_equal(image_make_begin(getuid(), &m, &err), 0);
	image_make_done(&m);
	assert_int_equal(entries("images"), 0);

	assert_int_equal(mkdir(planted, 0700), 0);
	assert_int_equal(image_init(top, &err), 0);
	assert_int_equal(entries("images"), 0);
}

static void test_foreign_file_at_link(void **state)
{
	auto_free char *path = xprintf("%s/base-rootfs.img", top);
	struct image_info info;
	struct fcm_error err;
	struct stat st;

	(void)state;
	assert_int_equal(file_write_atomic(AT_FDCWD, path, 0600, "mine", 4, &err), 0);
	put("base", 'a', &info);
	assert_int_equal(remove_image("base", &err), 0);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_size, 4);
}

static void test_broken_facts(void **state)
{
	struct image_info info;
	struct fcm_error err;

	(void)state;
	put("base", 'a', &info);
	auto_free char *path = xprintf("%s/images/%s/image.json", top, info.id.s);
	assert_int_equal(file_write_atomic(AT_FDCWD, path, 0600, "{\"tag\":9", 8, &err), 0);
	assert_int_equal(find("base", &info, &err), 0);
	assert_string_equal(info.version, "");
	assert_int_equal(info.size, EXT4);
}

static void expect_meant(const char *text, const struct image_info *info)
{
	struct image_id id;
	struct fcm_error err;

	if (image_resolve(text, &id, &err) < 0)
		fail_msg("%s: %s", text, err.msg);
	assert_string_equal(id.s, info->id.s);
}

static void expect_unknown(const char *text, enum fcm_code code)
{
	struct image_id id;
	struct fcm_error err;

	assert_int_equal(image_resolve(text, &id, &err), -1);
	if (err.code != code)
		fail_msg("%s: %d %s", text, (int)err.code, err.msg);
}

static void test_resolve(void **state)
{
	static const char *const unknown[] = {"nosuch", "base:12", "registry.example/base", "ffff0000ffff",
		"docker.io/base",
		"base@sha256:0000000000000000000000000000000000000000000000000000000000000000"};
	struct image_info a, b;
	struct ref_text name;
	struct fcm_error err;

	(void)state;
	put("base", 'a', &a);
	put("other", 'b', &b);
	expect_meant("base", &a);
	expect_meant("base:latest", &a);
	expect_meant("localhost/base", &a);
	expect_meant("localhost/base:latest", &a);
	auto_free char *prefix = xprintf("%.6s", a.id.s), *whole = xprintf("sha256:%s", a.id.s),
		       *three = xprintf("%.3s", a.id.s);
	expect_meant(a.id.s, &a);
	expect_meant(prefix, &a);
	expect_meant(whole, &a);
	expect_unknown(three, FCM_NO_IMAGE);
	for (size_t i = 0; i < ARRAY_SIZE(unknown); i++)
		expect_unknown(unknown[i], FCM_NO_IMAGE);
	expect_unknown("../base", FCM_INVALID);
	expect_unknown("", FCM_INVALID);

	/* of docker.io and made here: the bare name is the latter, the whole one the former */
	assert_int_equal(image_tag(&b.id, "docker.io/library/base", &name, &err), 0);
	assert_string_equal(name.s, "docker.io/library/base:latest");
	expect_meant("base", &a);
	expect_meant("docker.io/library/base", &b);
	expect_meant("docker.io/base", &b);
	assert_int_equal(image_tag(&b.id, "mine:1", &name, &err), 0);
	assert_string_equal(name.s, "localhost/mine:1");
	expect_meant("mine:1", &b);
	assert_int_equal(image_tag(&b.id, "mine@sha256:00", &name, &err), -1);
	assert_int_equal(image_tag(&b.id, "Mine", &name, &err), -1);
	assert_string_equal(err.field, "tag");
}

/* Two ids of which the first digits are the same: directories suffice. */
static void test_ambiguous(void **state)
{
	struct fcm_error err;

	(void)state;
	for (char c = 'a'; c <= 'b'; c++) {
		auto_free char *dir = xprintf("%s/images/%063d%c", top, 0, c),
			       *file = xprintf("%s/image.ext4", dir);
		assert_int_equal(mkdir(dir, 0755), 0);
		assert_int_equal(file_write_atomic(AT_FDCWD, file, 0444, "x", 1, &err), 0);
	}
	expect_unknown("0000", FCM_INVALID);
	expect_unknown("sha256:000000", FCM_INVALID);
	auto_free char *whole = xprintf("%063d%c", 0, 'b');
	struct image_id id;
	assert_int_equal(image_resolve(whole, &id, &err), 0);
	assert_string_equal(id.s, whole);
}

static void test_names_last(void **state)
{
	struct image_removed removed = {0};
	struct image_info a, b, found;
	struct ref_text name;
	struct fcm_error err;

	(void)state;
	put("base", 'a', &a);
	assert_int_equal(image_tag(&a.id, "mine:1", &name, &err), 0);
	put("base", 'b', &b);
	assert_int_equal(image_init(top, &err), 0);
	expect_meant("base", &b);
	expect_meant("mine:1", &a);
	assert_int_equal(find("mine:1", &found, &err), 0);
	assert_string_equal(found.name, "mine");
	assert_string_equal(found.tag, "1");

	/* one of several names goes alone, the last with its image */
	assert_int_equal(image_tag(&a.id, "mine:2", &name, &err), 0);
	assert_int_equal(image_remove("mine:1", unused, NULL, &removed, &err), 0);
	assert_string_equal(removed.untagged.v[0], "localhost/mine:1");
	assert_int_equal(removed.ids.n, 0);
	image_removed_done(&removed);
	expect_meant("mine:2", &a);
	removed = (struct image_removed){0};
	assert_int_equal(image_remove("mine:2", unused, NULL, &removed, &err), 0);
	assert_string_equal(removed.ids.v[0], a.id.s);
	assert_in_range(removed.bytes, EXT4, 2 * EXT4);
	image_removed_done(&removed);
	expect_unknown(a.id.s, FCM_NO_IMAGE);
	expect_unknown("mine:2", FCM_NO_IMAGE);

	/* by its id: all names */
	assert_int_equal(image_tag(&b.id, "more", &name, &err), 0);
	assert_int_equal(remove_image(b.id.s, &err), 0);
	expect_unknown("base", FCM_NO_IMAGE);
	expect_unknown("more", FCM_NO_IMAGE);
	assert_int_equal(entries("images"), 0);
}

/* In use: from the call of that number on. */
static bool used_from(void *arg, const struct image_id *id)
{
	int *calls = arg;

	(void)id;
	return (*calls)-- <= 0;
}

static void test_used_stays(void **state)
{
	struct image_removed removed = {0};
	struct image_info a;
	struct fcm_error err;

	(void)state;
	put("base", 'a', &a);
	for (int calls = 0; calls < 2; calls++) {
		int left = calls;
		assert_int_equal(image_remove(a.id.s, used_from, &left, &removed, &err), -1);
		assert_int_equal(err.code, FCM_WRONG_STATE);
		image_removed_done(&removed);
		removed = (struct image_removed){0};
		expect_meant(a.id.s, &a); /* also when it was used only when it was away already */
		int none = 0;
		assert_int_equal(image_prune(true, used_from, &none, &removed, &err), 0);
		assert_int_equal(removed.ids.n, 0);
	}
	assert_int_equal(image_prune(false, unused, NULL, &removed, &err), 0);
	image_removed_done(&removed);
	assert_int_equal(entries("images"), 0); /* its name had gone */
}

static void test_prune(void **state)
{
	struct image_removed removed = {0};
	struct image_info a, b;
	struct fcm_error err;

	(void)state;
	put("base", 'a', &a);
	put("base", 'b', &b);
	assert_int_equal(entries("images"), 2);
	assert_int_equal(image_prune(false, unused, NULL, &removed, &err), 0);
	assert_int_equal(removed.ids.n, 1);
	assert_string_equal(removed.ids.v[0], a.id.s);
	image_removed_done(&removed);
	expect_meant("base", &b);
	removed = (struct image_removed){0};
	assert_int_equal(image_prune(true, unused, NULL, &removed, &err), 0);
	assert_int_equal(removed.ids.n, 1);
	assert_string_equal(removed.untagged.v[0], "localhost/base:latest");
	image_removed_done(&removed);
	assert_int_equal(entries("images"), 0);
}

static void write_old(const char *name, char fill, const char *json)
{
	auto_free char *dir = xprintf("%s/images/%s", top, name), *file = xprintf("%s/image.ext4", dir),
		       *facts = xprintf("%s/image.json", dir);
	struct fcm_error err;

	assert_int_equal(mkdir(dir, 0755), 0);
	assert_int_equal(file_write_atomic(AT_FDCWD, file, 0444, ext4_bytes(fill), EXT4, &err), 0);
	assert_int_equal(file_write_atomic(AT_FDCWD, facts, 0444, json, strlen(json), &err), 0);
}

/* What an older fcm left: with its digest, without, twice the same, and half of it done already. */
static void test_old_layout(void **state)
{
	auto_free char *link = xprintf("%s/base-rootfs.img", top);
	struct image_info info, again;
	struct fcm_error err;
	char digest[65];
	struct stat st;

	(void)state;
	struct crypt_sha256 *h = crypt_sha256_new();
	crypt_sha256_add(h, ext4_bytes('a'), EXT4);
	crypt_sha256_hex(h, digest);
	auto_free char *json = xprintf("{\"name\":\"base\",\"tag\":\"12\",\"created\":\"2026-01-02T03:04:"
				       "05Z\",\"size\":%d,\"sha256\":\"%s\"}",
		EXT4, digest);
	write_old("base", 'a', json);
	write_old("same", 'a', "{}");
	write_old("other-1.0", 'b', "broken");
	assert_int_equal(symlink("images/base/image.ext4", link), 0);
	for (int i = 0; i < 2; i++) {
		if (image_init(top, &err) < 0)
			fail_msg("%s", err.msg);
		assert_int_equal(find("base", &info, &err), 0);
		assert_string_equal(info.id.s, digest);
		assert_string_equal(info.version, "12");
		assert_int_equal(info.created, 1767323045);
		expect_meant("same", &info);
		assert_int_equal(find("other-1.0", &again, &err), 0);
		assert_string_not_equal(again.id.s, digest);
		assert_int_equal(entries("images"), 2);
		assert_int_equal(stat(link, &st), 0);
		assert_int_equal(st.st_size, EXT4);
	}
}

static void test_bad_tags_file(void **state)
{
	static const char *const bad[] = {"{", "{}", "{\"schema\":2}", "{\"schema\":1,\"tags\":[]}",
		"{\"schema\":1,\"tags\":{\"base\":\"00\"}}",
		"{\"schema\":1,\"tags\":{\"localhost/base:latest\":\"..\"}}",
		"{\"schema\":1,\"tags\":{\"../"
		"x\":\"0000000000000000000000000000000000000000000000000000000000000000\"}}"};
	auto_free char *path = xprintf("%s/tags.json", top);
	struct fcm_error err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(file_write_atomic(AT_FDCWD, path, 0600, bad[i], strlen(bad[i]), &err), 0);
		assert_int_equal(image_init(top, &err), -1);
		if (err.code != FCM_CONFIG || strstr(err.msg, "tags.json") == NULL)
			fail_msg("%s: %s", bad[i], err.msg);
	}
}

static void test_names_bounded(void **state)
{
	_cleanup_(buf_done) struct buf text = {0};
	auto_free char *path = xprintf("%s/tags.json", top);
	struct image_info a;
	struct ref_text name;
	struct fcm_error err;

	(void)state;
	put("base", 'a', &a);
	buf_str(&text, "{\"schema\":1,\"tags\":{");
	for (int i = 0; i < 4000; i++)
		buf_printf(&text, "%s\"localhost/n:%d\":\"%s\"", i ? "," : "", i, a.id.s);
	buf_str(&text, "}}");
	assert_int_equal(file_write_atomic(AT_FDCWD, path, 0600, text.p, text.n, &err), 0);
	assert_int_equal(image_init(top, &err), 0);
	assert_int_equal(image_tag(&a.id, "n:77", &name, &err), 0); /* it is there */
	assert_int_equal(image_tag(&a.id, "one-more", &name, &err), -1);
	assert_int_equal(err.code, FCM_INSUFFICIENT);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, begin, end)
	const struct CMUnitTest tests[] = {
		T(test_good_image),
		T(test_version),
		T(test_resolve),
		T(test_ambiguous),
		T(test_names_last),
		T(test_used_stays),
		T(test_prune),
		T(test_old_layout),
		T(test_bad_tags_file),
		T(test_names_bounded),
		T(test_good_kernel),
		T(test_replace_list_remove),
		T(test_what_makes_no_kernel),
		T(test_no_files),
		T(test_kernels_together),
		T(test_abort_and_leftovers),
		T(test_foreign_file_at_link),
		T(test_broken_facts),
	};
	crypt_init();
	return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
