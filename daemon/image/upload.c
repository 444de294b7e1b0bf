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

#include "common/core/fileio.h"
#include "daemon/image/image.h"
#include "daemon/image/store.h"
#include "daemon/image/unpack.h"

enum { MEMBERS = 3, UPLOADS_MAX = 4 /* at a time */ };

static atomic_uint uploads;

#define MIB(n) ((uint64_t)(n) << 20)

static const struct unpack_member kernel_members[MEMBERS] = {
	{.name = "vmlinux", .max = MIB(128), .magic = "\177ELF", .what = "an uncompressed kernel (ELF)"},
	{.name = "initrd", .max = MIB(128)},
	{.name = "release", .max = 256},
};

struct kernel_upload {
	struct asset_name name;
	bool committed;
	struct image_temp temp; /* a directory beside the place of the result */
	int dir_fd, feed_fd, unpack_fd;
	struct unpack_member members[MEMBERS];

	pthread_t thread;
	bool joined; /* what follows may be read only then */
	int result;
	struct fcm_error err;
};

static void *unpacker(void *arg)
{
	struct kernel_upload *up = arg;

	up->result = unpack_tar(up->unpack_fd, up->dir_fd, up->members, MEMBERS, &up->err);
	shutdown(up->unpack_fd, SHUT_RDWR); /* a feed that waits fails now */
	return NULL;
}

/* Wait until the unpacker is through. Returns its result. */
static int finish(struct kernel_upload *up, struct fcm_error *err)
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

static void free_upload(struct kernel_upload *up)
{
	fcm_closep(&up->dir_fd);
	fcm_closep(&up->feed_fd);
	fcm_closep(&up->unpack_fd);
	free(up);
	atomic_fetch_sub(&uploads, 1);
}

static int start(struct kernel_upload *up, struct fcm_error *err)
{
	int parent = image_dir(true), sv[2];

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

int kernel_upload_begin(const struct asset_name *name, struct kernel_upload **ret, struct fcm_error *err)
{
	if (atomic_fetch_add(&uploads, 1) >= UPLOADS_MAX) {
		atomic_fetch_sub(&uploads, 1);
		return fcm_fail(err, FCM_UNAVAILABLE, "%d uploads are in progress", UPLOADS_MAX);
	}
	struct kernel_upload *up = xalloc(sizeof *up);
	*up = (struct kernel_upload){
		.name = *name,
		.temp = image_temp_name(),
		.dir_fd = -1,
		.feed_fd = -1,
		.unpack_fd = -1,
	};
	memcpy(up->members, kernel_members, sizeof up->members);
	if (start(up, err) < 0) {
		struct fcm_error ignored;
		(void)!dir_remove(image_dir(true), up->temp.s, NULL, &ignored);
		free_upload(up);
		return -1;
	}
	*ret = up;
	return 0;
}

int kernel_upload_feed(struct kernel_upload *up, const void *data, size_t n, struct fcm_error *err)
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

static int check_release(const struct kernel_upload *up, struct fcm_error *err)
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
static int publish(struct kernel_upload *up, struct fcm_error *err)
{
	const char *place = up->name.s;
	int parent = image_dir(true);
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

int kernel_upload_commit(struct kernel_upload *up, struct image_info *ret, struct fcm_error *err)
{
	if (finish(up, err) < 0 || check_release(up, err) < 0 || publish(up, err) < 0 ||
		image_link_default(err) < 0)
		return -1;
	return image_find_kernel(&up->name, ret, err);
}

void kernel_upload_abort(struct kernel_upload *up)
{
	struct fcm_error ignored;

	if (up == NULL)
		return;
	(void)!finish(up, &ignored);
	if (!up->committed)
		(void)!dir_remove(image_dir(true), up->temp.s, NULL, &ignored);
	free_upload(up);
}
