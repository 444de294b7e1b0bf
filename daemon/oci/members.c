#include "daemon/oci/members.h"

#include <string.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "daemon/oci/source.h"

/* ---- names ---- */

/* One part more, or with ".." one less. */
static bool add_part(char ret[MEMBERS_PATH], const char *part, size_t n)
{
	size_t used = strlen(ret);
	char *slash = strrchr(ret, '/');

	if (n == 0 || (n == 1 && *part == '.'))
		return true;
	if (n == 2 && memcmp(part, "..", 2) == 0) {
		*(slash ? slash : ret) = '\0';
		return used > 0;
	}
	return fcm_format(ret + used, MEMBERS_PATH - used, "%s%.*s", used ? "/" : "", (int)n, part);
}

static bool add_parts(char ret[MEMBERS_PATH], const char *path, size_t n)
{
	for (const char *end = path + n; path < end;) {
		size_t part = strcspn(path, "/");
		part = MIN(part, (size_t)(end - path));
		if (!add_part(ret, path, part))
			return false;
		path += part + 1;
	}
	return true;
}

bool member_path(const char *from, const char *path, char ret[MEMBERS_PATH])
{
	const char *slash = strrchr(from, '/');

	ret[0] = '\0';
	return (*path == '/' || add_parts(ret, from, slash ? (size_t)(slash - from) : 0)) &&
	       add_parts(ret, path, strlen(path));
}

static int fail_member(const char *name, const char *why, struct fcm_error *err)
{
	char shown[120];

	(void)fcm_quote(shown, sizeof shown, name);
	return fcm_fail(err, FCM_INVALID, "'%s' %s", shown, why);
}

/* ---- the archive ---- */

static struct source source;

static struct archive *begin(int fd, struct fcm_error *err)
{
	if (lseek(fd, 0, SEEK_SET) < 0) {
		fcm_fail_errno(err, "read the archive");
		return NULL;
	}
	source.fd = fd, source.hash = NULL, source.done = 0;
	return source_tar(&source, err);
}

/* The next entry and its name: 1; 0 at the end, -1. A name that leads nowhere is "". */
static int next(struct archive *a, struct archive_entry **ret, char name[MEMBERS_PATH], struct fcm_error *err)
{
	int r = archive_read_next_header(a, ret);

	if (r == ARCHIVE_EOF)
		return 0;
	if (r != ARCHIVE_OK && r != ARCHIVE_WARN)
		return source_fail(a, err);
	const char *path = archive_entry_pathname(*ret);
	if (!member_path("", path ? path : "", name))
		name[0] = '\0';
	return 1;
}

int members_kind(int fd, enum members_kind *ret, struct fcm_error *err)
{
	_cleanup_(source_closep) struct archive *a = begin(fd, err);
	bool layout = false, index = false, manifest = false;
	char name[MEMBERS_PATH];
	struct archive_entry *e;
	int r = a == NULL ? -1 : 1;

	for (int i = 0; i < MEMBERS_MAX && r > 0 && !(layout && index); i++) {
		r = next(a, &e, name, err);
		if (r <= 0)
			break;
		layout = layout || strcmp(name, "oci-layout") == 0;
		index = index || strcmp(name, "index.json") == 0;
		manifest = manifest || strcmp(name, "manifest.json") == 0;
	}
	*ret = layout && index ? MEMBERS_OCI : manifest ? MEMBERS_DOCKER : MEMBERS_TREE;
	return r < 0 ? -1 : 0;
}

/* Where a link of the archive leads: 1, with the name of that. 0: it is no link. */
static int follow(struct archive_entry *e, char name[MEMBERS_PATH], struct fcm_error *err)
{
	const char *hard = archive_entry_hardlink(e), *target = hard ? hard : archive_entry_symlink(e);
	char to[MEMBERS_PATH];

	if (target == NULL)
		return S_ISREG(archive_entry_filetype(e)) ? 0 : fail_member(name, "is no file", err);
	if (!member_path(hard ? "" : name, target, to))
		return fail_member(name, "leads out of the archive", err);
	memcpy(name, to, sizeof to);
	return 1;
}

/* Stand at the first entry of that name: 1, or 0 when there is none. */
static int stand_at(struct archive *a, const char *name, struct archive_entry **ret, struct fcm_error *err)
{
	char have[MEMBERS_PATH];

	for (int i = 0; i < MEMBERS_MAX; i++) {
		int r = next(a, ret, have, err);
		if (r <= 0 || strcmp(have, name) == 0)
			return r;
	}
	return 0;
}

/* Its data can be read then. NULL. */
static struct archive *open_member(int fd, const char *wanted, uint64_t max, struct fcm_error *err)
{
	char name[MEMBERS_PATH];
	struct archive_entry *e;

	if (!member_path("", wanted, name)) {
		fail_member(wanted, "leads out of the archive", err);
		return NULL;
	}
	for (int links = 0; links <= MEMBERS_LINKS; links++) {
		_cleanup_(source_closep) struct archive *a = begin(fd, err);
		int r = a == NULL ? -1 : stand_at(a, name, &e, err);
		if (r == 0)
			fail_member(name, "isn't in the archive", err);
		r = r <= 0 ? -1 : follow(e, name, err);
		if (r < 0)
			return NULL;
		if (r > 0)
			continue;
		if (archive_entry_size(e) >= 0 && (uint64_t)archive_entry_size(e) <= max)
			return STEAL(a);
		fcm_fail(err, FCM_TOO_LARGE, "'%.100s' is larger than %llu bytes", wanted,
			(unsigned long long)max);
		return NULL;
	}
	fail_member(wanted, "is a link to a link to a link", err);
	return NULL;
}

/* Its next bytes, never more than `max` in all. 0 at its end. */
static la_ssize_t take(
	struct archive *a, void *p, size_t n, uint64_t *done, uint64_t max, struct fcm_error *err)
{
	la_ssize_t got = archive_read_data(a, p, n);

	if (got < 0)
		return source_fail(a, err);
	if ((uint64_t)got > max - *done)
		return fcm_fail(err, FCM_TOO_LARGE, "a file of the archive is larger than it says");
	*done += (uint64_t)got;
	return got;
}

static char block[SOURCE_BLOCK];

int member_text(int fd, const char *name, size_t max, struct buf *ret, struct fcm_error *err)
{
	_cleanup_(source_closep) struct archive *a = open_member(fd, name, max, err);
	uint64_t done = 0;
	la_ssize_t n;

	if (a == NULL)
		return -1;
	while ((n = take(a, block, sizeof block, &done, max, err)) > 0)
		buf_add(ret, block, (size_t)n);
	return n < 0 ? -1 : 0;
}

int member_copy(int fd, const char *name, uint64_t max, int out_fd, uint64_t *ret_n, char ret_sum[65],
	struct fcm_error *err)
{
	_cleanup_(source_hash_freep) EVP_MD_CTX *hash = source_hash(err);
	_cleanup_(source_closep) struct archive *a = hash ? open_member(fd, name, max, err) : NULL;
	la_ssize_t n;

	*ret_n = 0;
	if (a == NULL)
		return -1;
	while ((n = take(a, block, sizeof block, ret_n, max, err)) > 0) {
		EVP_DigestUpdate(hash, block, (size_t)n);
		if (fd_write_all(out_fd, block, (size_t)n) < 0)
			return fcm_fail_errno(err, "write '%.40s'", name);
	}
	sum_end(hash, ret_sum);
	return n < 0 ? -1 : 0;
}
