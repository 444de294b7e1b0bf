/*
 * How it works. The pieces come from an HTTP thread, but libarchive wants to pull: a thread of the upload's own unpacks
 * what it reads from a socket pair, and feeding is writing into the other end. It blocks while the disk is slower than
 * the network, which is what we want. When the unpacker has had enough it closes its end, and the next feed fails with
 * its reason. Each upload works in a temporary directory, which a commit puts in the place of what was there.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/field.h"
#include "daemon/image/image.h"
#include "daemon/image/store.h"
#include "daemon/image/unpack.h"

enum {
	MEMBERS_MAX = 3,
	UPLOADS_MAX =
		4, /* at a time: hashing the holes of a large sparse image keeps a core busy for minutes */
};

static atomic_uint uploads;

#define MIB(n) ((uint64_t)(n) << 20)

static const struct unpack_member image_members[] = {
	/* s_magic of the superblock, which begins at 1024: Linux, Documentation/filesystems/ext4/super.rst */
	{.name = "image.ext4",
		.max = MIB(65536),
		.want_digest = true,
		.magic_at = 1024 + 56,
		.magic = "\x53\xef",
		.what = "an ext4 file system"},
	{.name = "image.json", .max = 65536},
};

static const struct unpack_member kernel_members[] = {
	{.name = "vmlinux", .max = MIB(128), .magic = "\177ELF", .what = "an uncompressed kernel (ELF)"},
	{.name = "initrd", .max = MIB(128)},
	{.name = "release", .max = 256},
};

struct image_upload {
	struct asset_name name;
	bool is_kernel, committed;
	struct image_temp temp; /* a directory beside the place of the result */
	int dir_fd, feed_fd, unpack_fd;
	struct unpack_member members[MEMBERS_MAX];
	size_t members_n;

	pthread_t thread;
	bool joined; /* what follows may be read only then */
	int result;
	struct fcm_error err;
};

static void *unpacker(void *arg)
{
	struct image_upload *up = arg;

	up->result = unpack_tar(up->unpack_fd, up->dir_fd, up->members, up->members_n, &up->err);
	shutdown(up->unpack_fd, SHUT_RDWR); /* a feed that waits fails now */
	return NULL;
}

/* Wait until the unpacker is through. Returns its result. */
static int finish(struct image_upload *up, struct fcm_error *err)
{
	if (!up->joined) {
		shutdown(up->feed_fd, SHUT_WR);
		pthread_join(up->thread, NULL);
		up->joined = true;
	}
	if (up->result < 0)
		*err = up->err;
	return up->result;
}

static void free_upload(struct image_upload *up)
{
	fcm_closep(&up->dir_fd);
	fcm_closep(&up->feed_fd);
	fcm_closep(&up->unpack_fd);
	free(up);
	atomic_fetch_sub(&uploads, 1);
}

static int start(struct image_upload *up, struct fcm_error *err)
{
	int parent = image_dir(up->is_kernel), sv[2];

	if (mkdirat(parent, up->temp.s, 0755) < 0)
		return fcm_fail_errno(err, "make a directory for '%s'", up->name.s);
	up->dir_fd = dir_open(parent, up->temp.s, err);
	if (up->dir_fd < 0)
		return -1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		return fcm_fail_errno(err, "receive '%s'", up->name.s);
	up->feed_fd = sv[0];
	up->unpack_fd = sv[1];
	errno = pthread_create(&up->thread, NULL, unpacker, up);
	return errno ? fcm_fail_errno(err, "receive '%s'", up->name.s) : 0;
}

static int check_room(const struct asset_name *name, struct fcm_error *err)
{
	struct ref ref;

	return ref_parse(name->s, "name", &ref, err) < 0 ? -1 : image_has_place(err);
}

int image_upload_begin(
	const struct asset_name *name, bool is_kernel, struct image_upload **ret, struct fcm_error *err)
{
	if (!is_kernel && check_room(name, err) < 0)
		return -1;
	if (atomic_fetch_add(&uploads, 1) >= UPLOADS_MAX) {
		atomic_fetch_sub(&uploads, 1);
		return fcm_fail(err, FCM_UNAVAILABLE, "%d uploads are in progress", UPLOADS_MAX);
	}
	struct image_upload *up = xalloc(sizeof *up);
	*up = (struct image_upload){
		.name = *name,
		.is_kernel = is_kernel,
		.temp = image_temp_name(),
		.dir_fd = -1,
		.feed_fd = -1,
		.unpack_fd = -1,
		.members_n = is_kernel ? ARRAY_SIZE(kernel_members) : ARRAY_SIZE(image_members),
	};
	memcpy(up->members, is_kernel ? kernel_members : image_members, up->members_n * sizeof *up->members);
	if (start(up, err) < 0) {
		struct fcm_error ignored;
		(void)!dir_remove(image_dir(is_kernel), up->temp.s, NULL, &ignored);
		free_upload(up);
		return -1;
	}
	*ret = up;
	return 0;
}

int image_upload_feed(struct image_upload *up, const void *data, size_t n, struct fcm_error *err)
{
	for (const char *p = data; n > 0;) {
		ssize_t k = send(up->feed_fd, p, n, MSG_NOSIGNAL);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return finish(up, err) < 0 ? -1
						   : fcm_fail(err, FCM_INVALID,
							     "there is more behind the end of the tar");
		p += k;
		n -= (size_t)k;
	}
	return 0;
}

static int write_facts(const struct image_upload *up, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct image_facts facts = {.created = clock_wall(), .size = (int64_t)up->members[0].size};

	if (file_read(up->dir_fd, "image.json", 65536, &text, err) < 0)
		return -1;
	field_json *v = fj_parse(text.p, text.n, err);
	if (v == NULL)
		return fcm_wrap(err, "image.json");
	const char *tag = fj_get_str(v, "tag");
	bool fits = fcm_copy(facts.tag, sizeof facts.tag, tag ? tag : "");
	fj_free(v);
	if (!fits)
		return fcm_fail_field(err, FCM_INVALID, "tag",
			"the tag in image.json is longer than %zu bytes", sizeof facts.tag - 1);
	facts.tag[fcm_printable(facts.tag, strlen(facts.tag))] = '\0';
	fcm_copy(facts.sha256, sizeof facts.sha256, up->members[0].digest);
	auto_free char *json = image_facts_print(&facts);
	return file_write_atomic(up->dir_fd, "image.json", 0444, json, strlen(json), err);
}

static int check_release(const struct image_upload *up, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};

	if (file_read(up->dir_fd, "release", 256, &text, err) < 0)
		return -1;
	size_t n = strspn(text.p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+~-");
	if (n == 0 || n > 64 || text.n > n + 1 || (text.n == n + 1 && text.p[n] != '\n'))
		return fcm_fail(err, FCM_INVALID,
			"release is not the release of a kernel (one line, as uname -r prints)");
	return 0;
}

/* Move the new directory into place; an older one is exchanged for it, then removed. */
static int publish(struct image_upload *up, const char *place, struct fcm_error *err)
{
	int parent = image_dir(up->is_kernel);
	struct fcm_error ignored;

	if (fsync(up->dir_fd) < 0)
		return fcm_fail_errno(err, "store '%s'", up->name.s);
	if (renameat2(parent, up->temp.s, parent, place, RENAME_NOREPLACE) < 0 &&
		(errno != EEXIST || renameat2(parent, up->temp.s, parent, place, RENAME_EXCHANGE) < 0))
		return fcm_fail_errno(err, "put '%s' into its place", up->name.s);
	up->committed = true;
	if (fsync(parent) < 0)
		return fcm_fail_errno(err, "store '%s'", up->name.s);
	(void)!dir_remove(parent, up->temp.s, NULL, &ignored); /* the older one; else image_init() will */
	return 0;
}

static int finish_kernel(struct image_upload *up, struct image_info *ret, struct fcm_error *err)
{
	if (check_release(up, err) < 0 || publish(up, up->name.s, err) < 0 || image_link_default(err) < 0)
		return -1;
	return image_find_kernel(&up->name, ret, err);
}

static int finish_image(struct image_upload *up, struct image_info *ret, struct fcm_error *err)
{
	struct ref_text name;
	struct image_id id;

	(void)fcm_copy(id.s, sizeof id.s, up->members[0].digest);
	if (write_facts(up, err) < 0 || publish(up, id.s, err) < 0 ||
		image_tag(&id, up->name.s, &name, err) < 0)
		return -1;
	return image_find(&id, ret, err);
}

int image_upload_commit(struct image_upload *up, struct image_info *ret, struct fcm_error *err)
{
	if (finish(up, err) < 0)
		return -1;
	return (up->is_kernel ? finish_kernel : finish_image)(up, ret, err);
}

void image_upload_abort(struct image_upload *up)
{
	struct fcm_error ignored;

	if (up == NULL)
		return;
	(void)!finish(up, &ignored);
	if (!up->committed)
		(void)!dir_remove(image_dir(up->is_kernel), up->temp.s, NULL, &ignored);
	free_upload(up);
}
