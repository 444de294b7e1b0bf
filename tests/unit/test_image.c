/* The image store: good tars of several makes, and bad ones that must leave nothing behind. */
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

static char top[] = "/tmp/fcm-image-XXXXXX";

static const struct asset_name base = {"base"}, other = {"other-1.0"}, kernel = {"default"};

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

/* ---- tars */

/* A ustar header (POSIX pax, "ustar Interchange Format"). */
static void add_header(struct buf *tar, const char *name, char type, uint64_t size, const char *link)
{
	char h[512] = {0};
	unsigned sum = 8 * ' ';

	snprintf(h, 100, "%s", name);
	snprintf(h + 100, 8, "%07o", 0644);
	snprintf(h + 108, 8, "%07o", 0);
	snprintf(h + 116, 8, "%07o", 0);
	if (size >> 33) {
		h[124] = (char)0x80; /* base-256, GNU */
		for (int i = 0; i < 8; i++)
			h[135 - i] = (char)(size >> (8 * i));
	} else {
		snprintf(h + 124, 12, "%011llo", (unsigned long long)size);
	}
	snprintf(h + 136, 12, "%011o", 0);
	h[156] = type;
	snprintf(h + 157, 100, "%s", link ? link : "");
	memcpy(h + 257, "ustar\00000", 8);
	for (size_t i = 0; i < sizeof h; i++)
		sum += (unsigned char)h[i];
	snprintf(h + 148, 8, "%06o", sum);
	h[155] = ' ';
	buf_add(tar, h, sizeof h);
}

static void add_file(struct buf *tar, const char *name, const void *data, size_t n)
{
	static const char pad[512];

	add_header(tar, name, '0', n, NULL);
	buf_add(tar, data, n);
	buf_add(tar, pad, (512 - n % 512) % 512);
}

static void add_end(struct buf *tar)
{
	static const char pad[10240];

	buf_add(tar, pad, sizeof pad);
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

static void good_image(struct buf *tar, char fill, const char *json)
{
	add_file(tar, "image.ext4", ext4_bytes(fill), EXT4);
	add_file(tar, "image.json", json, strlen(json));
	add_end(tar);
}

static void good_kernel(struct buf *tar)
{
	add_file(tar, "./vmlinux", "\177ELF kernel", 11);
	add_file(tar, "./initrd", "cpio", 4);
	add_file(tar, "./release", "6.1.0-18-cloud-amd64\n", 21);
	add_end(tar);
}

/* Upload in pieces; the result of the first call that fails, or of the commit. */
static int upload(const struct asset_name *name, bool is_kernel, const struct buf *tar, size_t piece,
	struct image_info *info, struct fcm_error *err)
{
	struct image_upload *up;
	int r = 0;

	*err = (struct fcm_error){0};
	assert_int_equal(image_upload_begin(name, is_kernel, &up, err), 0);
	for (size_t at = 0; at < tar->n && r == 0; at += piece)
		r = image_upload_feed(up, tar->p + at, MIN(piece, tar->n - at), err);
	if (r == 0)
		r = image_upload_commit(up, info, err);
	image_upload_abort(up);
	return r;
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

static void expect_bad(bool is_kernel, struct buf *tar, enum fcm_code code, const char *message)
{
	struct image_info info;
	struct fcm_error err;

	assert_int_equal(upload(is_kernel ? &kernel : &base, is_kernel, tar, 4096, &info, &err), -1);
	if (err.code != code || strstr(err.msg, message) == NULL)
		fail_msg("%d: %s", (int)err.code, err.msg);
	assert_int_equal(entries("images"), 0);
	assert_int_equal(entries("kernels"), 0);
	assert_int_equal(entries(""), 2);
	buf_done(tar);
}

/* ---- tests */

static void test_good_image(void **state)
{
	_cleanup_(buf_done) struct buf tar = {0}, text = {0};
	auto_free char *path = NULL, *link = xprintf("%s/base-rootfs.img", top);
	struct image_info info;
	struct fcm_error err;
	struct stat st;
	char digest[65];

	(void)state;
	good_image(&tar, 'a', "{\"tag\":\"12\",\"packages\":3}");
	if (upload(&base, false, &tar, 1000, &info, &err) < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(info.tag, "12");
	assert_int_equal(info.size, EXT4);
	assert_in_range(info.on_disk, 4096, 40960); /* zeros became holes */
	struct crypt_sha256 *h = crypt_sha256_new();
	crypt_sha256_add(h, ext4_bytes('a'), EXT4);
	crypt_sha256_hex(h, digest);
	assert_string_equal(info.digest, digest);
	assert_int_equal(image_path(&base, &path, &err), 0);
	assert_int_equal(file_read(AT_FDCWD, path, EXT4, &text, &err), 0);
	assert_memory_equal(text.p, ext4_bytes('a'), EXT4);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0444);
	assert_int_equal(stat(link, &st), 0);
	assert_int_equal(st.st_size, EXT4);
	assert_int_equal(entries("images"), 1);
	assert_int_equal(entries("images/base"), 2);
}

static void test_good_kernel(void **state)
{
	_cleanup_(buf_done) struct buf tar = {0};
	auto_free char *vmlinux = NULL, *initrd = NULL, *link = xprintf("%s/vmlinux.bin", top);
	struct image_info info;
	struct fcm_error err;

	(void)state;
	assert_int_equal(kernel_paths(&kernel, &vmlinux, &initrd, &err), -1);
	assert_int_equal(err.code, FCM_NO_KERNEL);
	good_kernel(&tar);
	if (upload(&kernel, true, &tar, tar.n, &info, &err) < 0)
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
	_cleanup_(buf_done) struct buf a = {0}, b = {0}, k = {0};
	auto_free struct image_info *list = NULL;
	auto_free char *path = NULL, *link = xprintf("%s/base-rootfs.img", top);
	struct image_info first, second;
	struct fcm_error err;
	struct stat st;
	size_t n;
	char c = 0;

	(void)state;
	good_image(&a, 'a', "{}");
	good_image(&b, 'b', "{\"tag\":\"new\"}");
	good_kernel(&k);
	assert_int_equal(upload(&base, false, &a, 100000, &first, &err), 0);
	assert_int_equal(image_path(&base, &path, &err), 0);
	int old = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(upload(&base, false, &b, 100000, &second, &err), 0);
	assert_string_not_equal(first.digest, second.digest);
	assert_int_equal(pread(old, &c, 1, 250000), 1); /* who has the old one open keeps it */
	assert_int_equal(c, 'a');
	close(old);
	assert_int_equal(entries("images"), 1);

	assert_int_equal(upload(&other, false, &a, 100000, &second, &err), 0);
	assert_int_equal(upload(&kernel, true, &k, 100000, &second, &err), 0);
	assert_int_equal(image_list(&list, &n, &err), 0);
	assert_int_equal(n, 3);
	assert_string_equal(list[0].name.s, "base");
	assert_string_equal(list[0].tag, "new");
	assert_string_equal(list[1].name.s, "other-1.0");
	assert_true(list[2].is_kernel);

	assert_int_equal(image_remove(&base, false, &err), 0);
	assert_int_equal(image_remove(&base, false, &err), -1);
	assert_int_equal(err.code, FCM_NO_IMAGE);
	assert_int_equal(image_find(&base, &first, &err), -1);
	assert_int_equal(err.code, FCM_NO_IMAGE);
	assert_true(lstat(link, &st) < 0 && errno == ENOENT);
	assert_int_equal(entries("images"), 1);
}

/* Archives of tar(1): sparse in two formats, compressed. */
static void test_tar_programs(void **state)
{
	static const char *const ways[] = {"--format=gnu -S", "--format=pax -S", "--format=ustar",
		"--format=gnu -S -z", "--format=pax --zstd"};

	struct image_info info, first = {0};
	struct fcm_error err;

	(void)state;
	auto_free char *make =
		xprintf("cd %s && mkdir in && truncate -s 64M in/image.ext4 && mkfs.ext4 -q in/image.ext4 && "
			"printf 'the end' | dd of=in/image.ext4 bs=1M seek=60 conv=notrunc status=none && "
			"echo {} >in/image.json",
			top);
	assert_int_equal(system(make), 0);
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		_cleanup_(buf_done) struct buf tar = {0};
		auto_free char *pack =
			xprintf("tar -C %s/in %s -cf %s/t image.ext4 image.json", top, ways[i], top);
		auto_free char *path = xprintf("%s/t", top);
		assert_int_equal(system(pack), 0);
		assert_int_equal(file_read(AT_FDCWD, path, 128 << 20, &tar, &err), 0);
		if (upload(&base, false, &tar, 65536, &info, &err) < 0)
			fail_msg("%s: %s", ways[i], err.msg);
		if (i == 0)
			first = info;
		assert_string_equal(info.digest, first.digest);
		assert_in_range(info.on_disk, 1, 8 << 20);
		auto_free char *compare = xprintf("cmp %s/in/image.ext4 %s/images/base/image.ext4", top, top);
		assert_int_equal(system(compare), 0);
	}
}

static void test_foreign_members(void **state)
{
	static const char *const names[] = {"../image.ext4", "/etc/passwd", "image.ext4/../../x", "x\033[31m",
		"", ".", "image.json/", "IMAGE.EXT4"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct buf tar = {0};
		add_file(&tar, "image.ext4", ext4_bytes('a'), EXT4);
		add_file(&tar, names[i], "{}", 2);
		add_end(&tar);
		expect_bad(false, &tar, FCM_INVALID, "");
	}
	struct buf tar = {0};
	good_kernel(&tar);
	expect_bad(false, &tar, FCM_INVALID,
		"unexpected './vmlinux' in the tar, which must hold exactly image.ext4, image.json");
}

static void test_wrong_types(void **state)
{
	static const char types[] = {'1', '2', '3', '4', '5', '6'};

	(void)state;
	for (size_t i = 0; i < sizeof types; i++) {
		struct buf tar = {0};
		add_file(&tar, "image.json", "{}", 2);
		add_header(&tar, "image.ext4", types[i], 0, "/etc/passwd");
		add_end(&tar);
		expect_bad(false, &tar, FCM_INVALID, "not a regular file");
	}
}

static void test_missing_twice_empty(void **state)
{
	struct buf tar = {0};

	(void)state;
	add_file(&tar, "image.ext4", ext4_bytes('a'), EXT4);
	add_end(&tar);
	expect_bad(false, &tar, FCM_INVALID, "image.json is missing");
	add_file(&tar, "image.json", "{}", 2);
	add_file(&tar, "image.json", "{}", 2);
	add_end(&tar);
	expect_bad(false, &tar, FCM_INVALID, "twice");
	add_file(&tar, "image.json", "", 0);
	add_end(&tar);
	expect_bad(false, &tar, FCM_INVALID, "empty");
}

static void test_sizes(void **state)
{
	struct buf tar = {0};

	(void)state;
	add_header(&tar, "image.ext4", '0', (64ull << 30) + 1, NULL);
	expect_bad(false, &tar, FCM_TOO_LARGE, "larger than 65536 MiB");
	add_header(&tar, "image.ext4", '0', INT64_MAX, NULL);
	expect_bad(false, &tar, FCM_INVALID, "");
	add_header(&tar, "vmlinux", '0', (128 << 20) + 1, NULL);
	expect_bad(true, &tar, FCM_TOO_LARGE, "larger than 128 MiB");
	add_header(&tar, "image.ext4", '0', UINT64_MAX, NULL);
	expect_bad(false, &tar, FCM_INVALID, "");
}

static void test_truncated_and_garbage(void **state)
{
	struct buf tar = {0}, junk = {0};

	(void)state;
	good_image(&tar, 'a', "{}");
	for (size_t n = 0; n < EXT4 + 1024; n += 25013) {
		struct buf part = {0};
		buf_add(&part, tar.p, n);
		expect_bad(false, &part, FCM_INVALID, "");
	}
	buf_done(&tar);
	for (size_t i = 0; i < 3000000; i++)
		buf_add(&junk, &(char){(char)(i * 31 + i / 256)}, 1);
	expect_bad(false, &junk, FCM_INVALID, "not a good tar");
}

static void test_more_behind_the_end(void **state)
{
	struct buf tar = {0};

	(void)state;
	good_image(&tar, 'a', "{}");
	for (int i = 0; i < 40; i++)
		buf_add(&tar, ext4_bytes('a'), EXT4);
	expect_bad(false, &tar, FCM_INVALID, "more behind the end");
}

static void test_wrong_contents(void **state)
{
	struct buf tar = {0};

	(void)state;
	add_file(&tar, "image.ext4", "#!/bin/sh", 9);
	add_file(&tar, "image.json", "{}", 2);
	add_end(&tar);
	expect_bad(false, &tar, FCM_INVALID, "image.ext4 is not an ext4 file system");
	add_file(&tar, "vmlinux", "MZ", 2);
	add_end(&tar);
	expect_bad(true, &tar, FCM_INVALID, "vmlinux is not an uncompressed kernel");
	good_image(&tar, 'a', "{\"tag\":");
	expect_bad(false, &tar, FCM_BAD_JSON, "image.json");
	good_image(&tar, 'a', "{\"tag\":\"0123456789012345678901234567890123456789\"}");
	expect_bad(false, &tar, FCM_INVALID, "longer than 31 bytes");
	add_file(&tar, "vmlinux", "\177ELF", 4);
	add_file(&tar, "initrd", "x", 1);
	add_file(&tar, "release", "6.1 console=ttyS0", 17);
	add_end(&tar);
	expect_bad(true, &tar, FCM_INVALID, "release");
}

struct uploader {
	const struct buf *tar;
	const struct asset_name *name;
	int r;
};

static void *upload_elsewhere(void *arg)
{
	struct uploader *u = arg;
	struct image_info info;
	struct fcm_error err;

	for (int i = 0; i < 10 && u->r == 0; i++)
		u->r = upload(u->name, false, u->tar, 10000, &info, &err);
	return NULL;
}

static void test_uploads_together(void **state)
{
	_cleanup_(buf_done) struct buf a = {0}, b = {0};
	struct uploader u[4] = {{&a, &base, 0}, {&b, &base, 0}, {&a, &other, 0}, {&b, &base, 0}};
	struct image_info info;
	struct fcm_error err;
	pthread_t t[4];

	(void)state;
	good_image(&a, 'a', "{}");
	good_image(&b, 'b', "{}");
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, upload_elsewhere, &u[i]);
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(u[i].r, 0);
	}
	assert_int_equal(entries("images"), 2);
	assert_int_equal(image_find(&base, &info, &err), 0);
	assert_int_equal(image_find(&other, &info, &err), 0);
}

static void test_abort_and_leftovers(void **state)
{
	_cleanup_(buf_done) struct buf tar = {0};
	auto_free char *planted = xprintf("%s/images/.0123456789abcdef", top);
	struct image_upload *up;
	struct fcm_error err;

	(void)state;
	good_image(&tar, 'a', "{}");
	assert_int_equal(image_upload_begin(&base, false, &up, &err), 0);
	assert_int_equal(image_upload_feed(up, tar.p, 100000, &err), 0);
	image_upload_abort(up);
	image_upload_abort(NULL);
	assert_int_equal(entries("images"), 0);

	assert_int_equal(mkdir(planted, 0700), 0);
	assert_int_equal(image_init(top, &err), 0);
	assert_int_equal(entries("images"), 0);
}

static void test_uploads_bounded(void **state)
{
	struct image_upload *up[4], *fifth;
	struct fcm_error err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(up); i++)
		assert_int_equal(image_upload_begin(&base, false, &up[i], &err), 0);
	assert_int_equal(image_upload_begin(&base, false, &fifth, &err), -1);
	assert_int_equal(err.code, FCM_UNAVAILABLE);
	for (size_t i = 0; i < ARRAY_SIZE(up); i++)
		image_upload_abort(up[i]);
	assert_int_equal(image_upload_begin(&base, false, &fifth, &err), 0);
	image_upload_abort(fifth);
	assert_int_equal(entries("images"), 0);
}

static void test_foreign_file_at_link(void **state)
{
	_cleanup_(buf_done) struct buf tar = {0};
	auto_free char *path = xprintf("%s/base-rootfs.img", top);
	struct image_info info;
	struct fcm_error err;
	struct stat st;

	(void)state;
	assert_int_equal(file_write_atomic(AT_FDCWD, path, 0600, "mine", 4, &err), 0);
	good_image(&tar, 'a', "{}");
	assert_int_equal(upload(&base, false, &tar, 100000, &info, &err), 0);
	assert_int_equal(image_remove(&base, false, &err), 0);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_size, 4);
}

static void test_broken_facts(void **state)
{
	_cleanup_(buf_done) struct buf tar = {0};
	auto_free char *path = xprintf("%s/images/base/image.json", top);
	struct image_info info;
	struct fcm_error err;

	(void)state;
	good_image(&tar, 'a', "{\"tag\":\"12\"}");
	assert_int_equal(upload(&base, false, &tar, 100000, &info, &err), 0);
	assert_int_equal(file_write_atomic(AT_FDCWD, path, 0600, "{\"tag\":9", 8, &err), 0);
	assert_int_equal(image_find(&base, &info, &err), 0);
	assert_string_equal(info.tag, "");
	assert_int_equal(info.size, EXT4);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, begin, end)
	const struct CMUnitTest tests[] = {
		T(test_good_image),
		T(test_good_kernel),
		T(test_replace_list_remove),
		T(test_tar_programs),
		T(test_foreign_members),
		T(test_wrong_types),
		T(test_missing_twice_empty),
		T(test_sizes),
		T(test_truncated_and_garbage),
		T(test_more_behind_the_end),
		T(test_wrong_contents),
		T(test_uploads_together),
		T(test_abort_and_leftovers),
		T(test_uploads_bounded),
		T(test_foreign_file_at_link),
		T(test_broken_facts),
	};
	crypt_init();
	return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
