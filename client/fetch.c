#include "client/fetch.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <time.h>

#include "client/out.h"
#include "client/term.h"
#include "common/core/fileio.h"
#include "common/crypt.h"
#include "common/httpc.h"

enum {
	ARCHIVE_MAX = 256 << 20, /* bytes; 1.12.1 has some 20 MB, most of it debug symbols */
	DIGEST_MAX = 4096,	 /* bytes of a .sha256.txt */
	TRIES = 5,		 /* at one mirror, each going on where the last one broke */
	PAUSE_MS = 500,		 /* before the second try; doubled each time */
	CHUNK = 64 << 10,
};

/* ---- names and digests ---- */

int release_parse(const char *version, struct release *ret, struct fcm_error *err)
{
	const char *s = version + (*version == 'v');
	struct release r = {.version = ""};
	int end = -1;

	if (sscanf(s, "%3u.%3u.%3u%n", &r.number[0], &r.number[1], &r.number[2], &end) == 3 && end > 0)
		fcm_format(r.version, sizeof r.version, "%u.%u.%u", r.number[0], r.number[1], r.number[2]);
	if (*r.version == '\0' || strcmp(r.version, s) != 0) {
		fcm_fail(err, FCM_USAGE, "'%.40s' is no version of Firecracker", version);
		return fcm_hint(err,
			"write it like " FIRECRACKER_VERSION "; they are listed at " FIRECRACKER_RELEASES);
	}
	if (r.number[0] != 1 || r.number[1] < 8) { /* daemon/vmm/firecracker.c knows these */
		fcm_fail(err, FCM_USAGE, "fcm can't drive Firecracker %s, only 1.8 and later 1.x", r.version);
		return fcm_hint(err, "fcm was tested with " FIRECRACKER_VERSION);
	}
	fcm_format(r.archive, sizeof r.archive, "firecracker-v%s-x86_64.tgz", r.version);
	fcm_format(r.dir, sizeof r.dir, "release-v%s-x86_64", r.version);
	*ret = r;
	return 0;
}

bool release_of_file(const char *path, struct release *ret)
{
	static const char front[] = "firecracker-v";
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	char version[sizeof ret->version];
	struct fcm_error ignored;

	if (strncmp(name, front, sizeof front - 1) != 0)
		return false;
	name += sizeof front - 1;
	fcm_format(version, sizeof version, "%.*s", (int)strcspn(name, "-"), name);
	return release_parse(version, ret, &ignored) == 0;
}

bool digest_parse(const char *text, const char *name, char ret[65])
{
	size_t n = strspn(text, "0123456789abcdefABCDEF");
	char digest[65];

	if (n != 64)
		return false;
	for (size_t i = 0; i < n; i++)
		digest[i] = (char)tolower((unsigned char)text[i]);
	digest[n] = '\0';
	text += n;
	if (text[0] == ' ' && (text[1] == ' ' || text[1] == '*')) { /* sha256sum(1): text or binary */
		text += 2;
		if (strncmp(text, name, strlen(name)) != 0)
			return false;
		text += strlen(name);
	}
	if (text[strspn(text, "\r\n")] != '\0')
		return false;
	memcpy(ret, digest, sizeof digest);
	return true;
}

int digest_of(int fd, char ret[65], struct fcm_error *err)
{
	struct crypt_sha256 *hash = crypt_sha256_new();
	auto_free char *chunk = xalloc(CHUNK);
	off_t at = 0;
	ssize_t n;

	while ((n = pread(fd, chunk, CHUNK, at)) > 0) {
		crypt_sha256_add(hash, chunk, (size_t)n);
		at += n;
	}
	int sys = errno;
	crypt_sha256_hex(hash, ret);
	errno = sys;
	return n < 0 ? fcm_fail_errno(err, "read what came") : 0;
}

static int check_digest(const struct fetch *f, int fd, const char *digest, struct fcm_error *err)
{
	char found[65];

	if (digest_of(fd, found, err) < 0)
		return -1;
	if (strcmp(found, digest) == 0)
		return 0;
	fcm_fail(err, FCM_HOST, "%s isn't what was published: its sha256 is %s, not %s", f->release->archive,
		found, digest);
	return fcm_hint(err, "nothing was installed; try again or elsewhere (assets_mirror in the config)");
}

/* ---- the part ---- */

static char *part_name(const struct fetch *f)
{
	return xprintf("%s.part", f->release->archive);
}

static int open_part(const struct fetch *f, struct fcm_error *err)
{
	auto_free char *name = part_name(f);
	int fd = openat(f->dirfd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= ARCHIVE_MAX)
		return fd;
	if (fd < 0)
		fcm_fail_errno(err, "open assets/%s in the state directory", name);
	else
		fcm_fail(err, FCM_HOST, "assets/%s in the state directory is no part of an archive", name);
	if (fd >= 0)
		close(fd);
	return fcm_hint(err, "remove it and try again");
}

void fetch_done(const struct fetch *f)
{
	auto_free char *name = part_name(f);

	unlinkat(f->dirfd, name, 0);
}

/* ---- from a mirror ---- */

static void show(void *arg, uint64_t now, uint64_t total)
{
	const struct fetch *f = arg;
	auto_free char *what = xprintf("download firecracker %s", f->release->version);

	out_progress(what, now, total);
	term_progress_note("what came is kept: the same command goes on from there\n");
}

static int get_digest(const char *url, const char *archive, char ret[65], struct fcm_error *err)
{
	auto_close int fd = memfd_create("sha256", MFD_CLOEXEC);
	auto_free char *from = xprintf("%s.sha256.txt", url);
	struct httpc_download d = {.url = from, .fd = fd, .max = DIGEST_MAX};
	char text[DIGEST_MAX + 1];

	if (fd < 0)
		return fcm_fail_errno(err, "memfd_create");
	if (httpc_download(&d, err) < 0)
		return -1;
	ssize_t n = pread(fd, text, DIGEST_MAX, 0);
	text[MAX(n, 0)] = '\0';
	if (!digest_parse(text, archive, ret))
		return fcm_fail(err, FCM_HOST, "%s: holds no sha256 of %s", from, archive);
	return 0;
}

static void pause_before(int try)
{
	long ms = PAUSE_MS << try;
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&t, NULL);
}

/* Bring the rest, in spite of connections that break. */
static int get_rest(const struct fetch *f, const char *url, int fd, struct fcm_error *err)
{
	struct httpc_download d = {.url = url, .fd = fd, .max = ARCHIVE_MAX, .got = show, .arg = (void *)f};
	int r, try = 0;

	while ((r = httpc_download(&d, err)) < 0 && err->code == FCM_UNAVAILABLE && ++try < TRIES)
		pause_before(try - 1);
	term_progress_end();
	if (r < 0 && err->code == FCM_TOO_LARGE)
		(void)!ftruncate(fd, 0);
	return r;
}

/* All of it from one mirror. A part that was there before may be of another file: then once more from the beginning. */
static int get_archive(
	const struct fetch *f, const char *url, const char *digest, int fd, struct fcm_error *err)
{
	for (;;) {
		off_t had = lseek(fd, 0, SEEK_END);
		if (get_rest(f, url, fd, err) < 0)
			return -1;
		if (check_digest(f, fd, digest, err) == 0)
			return 0;
		if (ftruncate(fd, 0) < 0)
			return fcm_fail_errno(err, "empty the part that came");
		if (had <= 0)
			return -1;
	}
}

static char *url_of(const struct release *r, const char *mirror)
{
	size_t n = strlen(mirror);

	while (n && mirror[n - 1] == '/')
		n--;
	return xprintf("%.*s/v%s/%s", (int)n, mirror, r->version, r->archive);
}

static int get_from(const struct fetch *f, const char *mirror, int fd, struct fcm_error *err)
{
	auto_free char *url = url_of(f->release, mirror);
	char digest[65] = "", found[65];

	if (f->digest)
		fcm_copy(digest, sizeof digest, f->digest);
	else if (get_digest(url, f->release->archive, digest, err) < 0)
		return -1;
	if (digest_of(fd, found, err) < 0)
		return -1;
	return strcmp(found, digest) == 0 ? 0 : get_archive(f, url, digest, fd, err);
}

/* Say what is missing and how to do without a network. */
static int fail_download(const struct fetch *f, struct fcm_error *err)
{
	bool hinted = strcmp(err->hint, fcm_code_info(err->code)->hint) != 0;

	fcm_wrap(err, "cannot download firecracker %s", f->release->version);
	if (err->code == FCM_NOT_FOUND)
		return fcm_hint(err, "versions are listed at " FIRECRACKER_RELEASES);
	/* what these mean elsewhere, no daemon and a wrong argument, isn't so here */
	if (err->code == FCM_UNAVAILABLE || err->code == FCM_TOO_LARGE)
		err->code = FCM_HOST;
	if (hinted || err->code != FCM_HOST)
		return -1;
	return fcm_hint(err,
		"or get %s and its .sha256.txt on another machine, then: fcm assets download --file FILE",
		f->release->archive);
}

int fetch_download(const struct fetch *f, struct fcm_error *err)
{
	auto_close int fd = open_part(f, err);

	if (fd < 0)
		return -1;
	for (size_t i = 0; i < f->mirrors->n; i++) {
		if (get_from(f, f->mirrors->v[i], fd, err) == 0)
			return STEAL_FD(fd);
		if (i + 1 < f->mirrors->n)
			fprintf(stderr, "fcm: %s\n     trying the next mirror\n", err->msg);
	}
	if (f->mirrors->n == 0)
		fcm_fail(err, FCM_CONFIG, "assets_mirror in the config is empty");
	return fail_download(f, err);
}

/* ---- from a file ---- */

static int read_digest(const struct fetch *f, const char *file, char ret[65], struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	auto_free char *beside = xprintf("%s.sha256.txt", file);

	if (file_read(AT_FDCWD, beside, DIGEST_MAX, &text, err) < 0) {
		err->code = FCM_HOST;
		return fcm_hint(err, "it is published beside the archive; bring it too, or say --sha256 HEX");
	}
	if (digest_parse(text.p, f->release->archive, ret))
		return 0;
	fcm_fail(err, FCM_HOST, "%s: holds no sha256 of %s", beside, f->release->archive);
	return fcm_hint(err, "bring the one that is published, or say --sha256 HEX");
}

static int fail_large(const char *file, struct fcm_error *err)
{
	fcm_fail(err, FCM_TOO_LARGE, "%s is larger than %d MiB", file, ARCHIVE_MAX >> 20);
	return fcm_hint(err, "is it the archive of a release?");
}

/* A copy, so that who owns the file can't change it between the check and the unpacking. */
static int copy_file(int from, int to, const char *file, struct fcm_error *err)
{
	auto_free char *chunk = xalloc(CHUNK);
	size_t total = 0;
	ssize_t n;

	if (ftruncate(to, 0) < 0 || lseek(to, 0, SEEK_SET) < 0)
		return fcm_fail_errno(err, "empty the part");
	while ((n = read(from, chunk, CHUNK)) > 0) {
		total += (size_t)n;
		if (total > ARCHIVE_MAX)
			return fail_large(file, err);
		if (fd_write_all(to, chunk, (size_t)n) < 0)
			return fcm_fail_errno(err, "copy %s", file);
	}
	return n < 0 ? fcm_fail_errno(err, "read %s", file) : 0;
}

int fetch_file(const struct fetch *f, const char *file, struct fcm_error *err)
{
	auto_close int from = open(file, O_RDONLY | O_CLOEXEC);
	char digest[65] = "";

	if (from < 0) {
		fcm_fail_errno(err, "open %s", file);
		return fcm_hint(err, "FILE is an archive from " FIRECRACKER_RELEASES);
	}
	if (f->digest)
		fcm_copy(digest, sizeof digest, f->digest);
	else if (read_digest(f, file, digest, err) < 0)
		return -1;
	auto_close int fd = open_part(f, err);
	if (fd < 0)
		return -1;
	if (copy_file(from, fd, file, err) < 0 || check_digest(f, fd, digest, err) < 0) {
		fetch_done(f);
		return -1;
	}
	return STEAL_FD(fd);
}
