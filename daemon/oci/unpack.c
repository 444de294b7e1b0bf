#include "daemon/oci/unpack.h"

#include <string.h>
#include <unistd.h>

#include "common/core/kv.h"
#include "common/core/sparse.h"
#include "daemon/oci/place.h"
#include "daemon/oci/source.h"

enum { BEHIND_MAX = 1 << 20 }; /* what may stand behind the archive's end: tar(1) pads to its record size */

struct unpacker {
	const struct oci_job *job;
	struct archive *a;
	const char *of;
	int64_t room;	  /* bytes that the rest may have */
	struct strv have; /* names */
};

static void unpacker_done(struct unpacker *u)
{
	source_closep(&u->a);
	strv_done(&u->have);
}

static void tell(void *arg, uint64_t done)
{
	const struct unpacker *u = arg;

	oci_progress("reading", u->of, done, 0);
}

/* ---- a file ---- */

/* The bytes of the entry where the archive stands. */
static int copy(struct archive *a, const char *name, int64_t size, struct fcm_error *err)
{
	auto_close int fd = place_create(name, err);
	int64_t end = 0;
	const void *p;
	size_t n;
	la_int64_t at;
	int r;

	if (fd < 0)
		return -1;
	while ((r = archive_read_data_block(a, &p, &n, &at)) == ARCHIVE_OK) {
		if (at < end || at > size || n > (uint64_t)(size - at))
			return fcm_fail(err, FCM_INVALID, "'%s' isn't as its header says", name);
		if (sparse_write(fd, p, n, at) < 0)
			return fcm_fail_errno(err, "write '%s'", name);
		end = at + (int64_t)n;
	}
	if (r != ARCHIVE_EOF) {
		source_fail(a, err);
		return fcm_wrap(err, "%s", name);
	}
	return ftruncate(fd, size) < 0 ? fcm_fail_errno(err, "write '%s'", name) : 0;
}

/* ---- members ---- */

/* Its name is a stranger's. */
static int fail_member(const struct unpacker *u, struct archive_entry *e, enum fcm_code code,
	const char *what, struct fcm_error *err)
{
	const char *name = archive_entry_pathname(e);
	char shown[64];

	(void)fcm_quote(shown, sizeof shown, name ? name : "");
	return fcm_fail(err, code, "'%s' %s a %s", shown, what, u->of);
}

/* The plan's own word for that name, or NULL. */
static const char *planned(const struct oci_job *job, const char *name)
{
	if (name && strncmp(name, "./", 2) == 0)
		name += 2;
	for (const char *s = NULL; name && (s = kv_next(job->plan, job->plan_n, "file", s));)
		if (strcmp(s, name) == 0)
			return s;
	return NULL;
}

static bool is_file(struct archive_entry *e)
{
	return archive_entry_filetype(e) == AE_IFREG && archive_entry_hardlink(e) == NULL &&
	       archive_entry_size_is_set(e) && archive_entry_size(e) >= 0;
}

static int take(struct unpacker *u, struct archive_entry *e, struct fcm_error *err)
{
	const char *name = planned(u->job, archive_entry_pathname(e));

	if (name == NULL)
		return fail_member(u, e, FCM_INVALID, "is no file of", err);
	if (strv_has(&u->have, name))
		return fail_member(u, e, FCM_INVALID, "comes twice in", err);
	if (!is_file(e))
		return fail_member(u, e, FCM_INVALID, "is no regular file in", err);
	if (archive_entry_size(e) > u->room)
		return fail_member(u, e, FCM_TOO_LARGE, "makes it larger than may come as", err);
	u->room -= archive_entry_size(e);
	strv_add(&u->have, name);
	return copy(u->a, name, archive_entry_size(e), err);
}

static int take_all(struct unpacker *u, struct fcm_error *err)
{
	struct archive_entry *e;
	int r;

	while ((r = archive_read_next_header(u->a, &e)) == ARCHIVE_OK)
		if (take(u, e, err) < 0)
			return -1;
	return r == ARCHIVE_EOF ? 0 : source_fail(u->a, err);
}

/* Who sends shall be done, too, when we are. */
static int read_end(struct source *source, struct unpacker *u, struct fcm_error *err)
{
	const void *p;
	la_ssize_t n;

	for (uint64_t behind = 0; (n = source_read(u->a, source, &p)) > 0;)
		if ((behind += (uint64_t)n) > BEHIND_MAX)
			return fcm_fail(err, FCM_INVALID, "there is more behind the end of the %s", u->of);
	return n < 0 ? source_fail(u->a, err) : 0;
}

int oci_unpack(const struct oci_job *job, struct buf *ret, struct fcm_error *err)
{
	const char *of = kv_get(job->plan, job->plan_n, "of");
	static struct source source = {.fd = OCI_IN, .progress = tell};
	_cleanup_(unpacker_done) struct unpacker u = {.job = job,
		.of = of ? of : "file",
		.room = kv_i64(job->plan, job->plan_n, "max", 0, INT64_MAX, 0)};

	(void)ret;
	source.arg = &u;
	u.a = source_packed_tar(&source, err);
	return u.a == NULL || take_all(&u, err) < 0 ? -1 : read_end(&source, &u, err);
}
