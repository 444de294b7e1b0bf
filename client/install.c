/*
 * Theory of operation. The archive is whole and its digest right, yet it is the work of others: tar(1), as nobody and
 * with the archive as its only file, writes one member to a pipe at a time, and we write what comes, bounded, into a file
 * of our own. So no path, link, mode or owner of the archive ever reaches the file system. Files are made in ".new",
 * which then becomes the version's directory in one rename.
 */
#include "client/install.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/core/fileio.h"

enum {
	PROGRAM_MAX = 64 << 20, /* bytes; 1.12.1's has 3 MB */
	SUMS_MAX = 4096,	/* bytes of SHA256SUMS */
	VERSIONS_MAX = 256,	/* that are listed */
	CHUNK = 64 << 10,
	NOBODY = 65534, /* uid and gid: Debian Policy, section 9.2.2 */
};

#define SUMS "SHA256SUMS"
#define STAGING ".new"

static const char *const programs[] = {"firecracker", "jailer"};

/* ---- unpacking ---- */

/* Start tar as nobody, without our environment: TAR_OPTIONS could make it do anything. */
static int spawn_tar(
	const char *member, int archive_fd, int out, int complaints, pid_t *ret, struct fcm_error *err)
{
	const char *const argv[] = {"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
		"--no-new-privs", "tar", "--extract", "--gzip", "--to-stdout", "--no-recursion", "--file=-",
		"--", member, NULL};
	const char *const env[] = {"PATH=/usr/bin:/bin", "LC_ALL=C", NULL};
	posix_spawn_file_actions_t actions;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, archive_fd, STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&actions, complaints, STDERR_FILENO);
	errno = posix_spawnp(ret, argv[0], &actions, NULL, (char *const *)argv, (char *const *)env);
	posix_spawn_file_actions_destroy(&actions);
	return errno ? fcm_fail_errno(err, "run setpriv") : 0;
}

/* Copy what tar writes; more than a program can have is an error. */
static int copy_member(int from, int to, const char *member, size_t *ret_total, struct fcm_error *err)
{
	auto_free char *chunk = xalloc(CHUNK);
	size_t total = 0;
	ssize_t n;

	while ((n = read(from, chunk, CHUNK)) > 0) {
		total += (size_t)n;
		if (total > PROGRAM_MAX)
			return fcm_fail(err, FCM_HOST, "%s in the archive is larger than %d MiB", member,
				PROGRAM_MAX >> 20);
		if (fd_write_all(to, chunk, (size_t)n) < 0)
			return fcm_fail_errno(err, "write %s", member);
	}
	if (n < 0)
		return fcm_fail_errno(err, "read what tar unpacks");
	*ret_total = total;
	return 0;
}

/* tar's first complaint, or that it left us nothing. */
static int fail_tar(int complaints, const char *member, struct fcm_error *err)
{
	char text[160];
	ssize_t n = pread(complaints, text, sizeof text - 1, 0);

	text[MAX(n, 0)] = '\0';
	char *line = text + strspn(text, "\n"); /* with which gzip(1) begins */
	line[strcspn(line, "\n")] = '\0';
	return *line ? fcm_fail(err, FCM_HOST, "unpack %s: %s", member, line)
		     : fcm_fail(err, FCM_HOST, "%s in the archive isn't a file with something in it", member);
}

static int unpack(int archive_fd, const char *member, int to, struct fcm_error *err)
{
	auto_close int complaints = memfd_create("tar", MFD_CLOEXEC);
	auto_close int in = -1;
	int ends[2], status;
	size_t total = 0;
	pid_t pid;

	if (complaints < 0 || lseek(archive_fd, 0, SEEK_SET) < 0 || pipe2(ends, O_CLOEXEC) < 0)
		return fcm_fail_errno(err, "prepare for tar");
	in = ends[0];
	int r = spawn_tar(member, archive_fd, ends[1], complaints, &pid, err);
	close(ends[1]);
	if (r < 0)
		return -1;
	r = copy_member(in, to, member, &total, err);
	close(STEAL_FD(in)); /* tar ends when it still has something to say */
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return fcm_fail_errno(err, "wait for tar");
	if (r == 0 && (status != 0 || total == 0))
		return fail_tar(complaints, member, err);
	return r;
}

/* ---- installing ---- */

static int install_program(int dirfd, const struct release *r, const char *program, int archive_fd,
	struct buf *sums, struct fcm_error *err)
{
	auto_close int fd = openat(dirfd, program, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	auto_free char *member = xprintf("%s/%s-v%s-x86_64", r->dir, program, r->version);
	char digest[65];

	if (fd < 0)
		return fcm_fail_errno(err, "make %s", program);
	if (unpack(archive_fd, member, fd, err) < 0)
		return fcm_hint(err, "nothing was installed; is it the project's archive of %s for x86-64?",
			r->version);
	if (digest_of(fd, digest, err) < 0)
		return -1;
	if (fchmod(fd, 0755) < 0 || fsync(fd) < 0)
		return fcm_fail_errno(err, "write %s", program);
	buf_printf(sums, "%s  %s\n", digest, program);
	return 0;
}

static int fill(int dirfd, const struct release *r, int archive_fd, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf sums = {0};
	auto_close int fd = dir_open(dirfd, STAGING, err);

	if (fd < 0)
		return -1;
	for (size_t i = 0; i < ARRAY_SIZE(programs); i++)
		if (install_program(fd, r, programs[i], archive_fd, &sums, err) < 0)
			return -1;
	if (file_write_atomic(fd, SUMS, 0644, sums.p, sums.n, err) < 0)
		return -1;
	return fchmod(fd, 0755) < 0 || fsync(fd) < 0 ? fcm_fail_errno(err, "write " STAGING) : 0;
}

/* The new directory takes the version's name; one that had it goes. */
static int publish(int dirfd, const char *version, struct fcm_error *err)
{
	if (renameat2(dirfd, STAGING, dirfd, version, RENAME_EXCHANGE) < 0 &&
		(errno != ENOENT || renameat(dirfd, STAGING, dirfd, version) < 0))
		return fcm_fail_errno(err, "install %s", version);
	if (fsync(dirfd) < 0)
		return fcm_fail_errno(err, "install %s", version);
	return dir_remove(dirfd, STAGING, NULL, err);
}

int install_choose(int dirfd, const struct release *r, struct fcm_error *err)
{
	static const char link[] = ".current";

	if (unlinkat(dirfd, link, 0) < 0 && errno != ENOENT)
		return fcm_fail_errno(err, "remove %s", link);
	if (symlinkat(r->version, dirfd, link) < 0 || renameat(dirfd, link, dirfd, "current") < 0 ||
		fsync(dirfd) < 0)
		return fcm_fail_errno(err, "let current lead to %s", r->version);
	return 0;
}

int install_release(int dirfd, const struct release *r, int archive_fd, struct fcm_error *err)
{
	struct fcm_error ignored;

	if (dir_remove(dirfd, STAGING, NULL, err) < 0)
		return -1;
	if (mkdirat(dirfd, STAGING, 0755) < 0)
		return fcm_fail_errno(err, "make " STAGING);
	if (fill(dirfd, r, archive_fd, err) < 0 || publish(dirfd, r->version, err) < 0) {
		(void)!dir_remove(dirfd, STAGING, NULL, &ignored);
		return -1;
	}
	return install_choose(dirfd, r, err);
}

/* ---- looking ---- */

/* The digest of `program` in a SHA256SUMS. */
static bool find_sum(const char *sums, const char *program, char ret[65])
{
	for (const char *line = sums; *line; line += strcspn(line, "\n"), line += *line == '\n') {
		auto_free char *one = xprintf("%.*s", (int)strcspn(line, "\n"), line);
		if (strlen(one) > 64 && digest_parse(one, program, ret))
			return true;
	}
	return false;
}

static const char *status_of(int dirfd, const char *program, const char *sums)
{
	auto_close int fd = openat(dirfd, program, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	char recorded[65], found[65];
	struct fcm_error ignored;
	struct stat st;

	if (fd < 0)
		return errno == ENOENT ? "missing" : "changed";
	bool good = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && find_sum(sums, program, recorded) &&
		    digest_of(fd, found, &ignored) == 0 && strcmp(found, recorded) == 0;
	return good ? "ok" : "changed";
}

static bool add_status(field_json *rows, const char *version, const char *file, const char *status)
{
	field_json *row = fj_object();

	fj_set_str(row, "file", file);
	fj_set_str(row, "version", version);
	fj_set_str(row, "status", status);
	fj_append(rows, row);
	return strcmp(status, "ok") == 0;
}

bool install_verify(int dirfd, const char *version, field_json *rows)
{
	_cleanup_(buf_done) struct buf sums = {0};
	struct fcm_error ignored;
	bool good = true;
	auto_close int fd = openat(dirfd, version, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 || file_read(fd, SUMS, SUMS_MAX, &sums, &ignored) < 0)
		good = add_status(rows, version, SUMS, "missing");
	for (size_t i = 0; i < ARRAY_SIZE(programs); i++)
		good &= add_status(
			rows, version, programs[i], status_of(fd, programs[i], sums.n ? sums.p : ""));
	return good;
}

static int by_version(const void *a_, const void *b_)
{
	const struct release *a = a_, *b = b_;

	for (int i = 0; i < 3; i++)
		if (a->number[i] != b->number[i])
			return a->number[i] < b->number[i] ? -1 : 1;
	return 0;
}

static size_t read_versions(int dirfd, struct release *ret)
{
	int own = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = own < 0 ? NULL : fdopendir(own);
	struct fcm_error ignored;
	struct dirent *e;
	size_t n = 0;

	if (d == NULL) {
		fcm_closep(&own);
		return 0;
	}
	while (n < VERSIONS_MAX && (e = readdir(d)))
		if (e->d_name[0] != 'v' && release_parse(e->d_name, &ret[n], &ignored) == 0)
			n++;
	closedir(d);
	qsort(ret, n, sizeof *ret, by_version);
	return n;
}

static field_json *describe(int dirfd, const char *version, const char *current)
{
	_cleanup_(buf_done) struct buf sums = {0};
	auto_free char *path = xprintf("%s/" SUMS, version);
	struct fcm_error ignored;
	char digest[65] = "";
	field_json *row = fj_object();

	if (file_read(dirfd, path, SUMS_MAX, &sums, &ignored) == 0)
		(void)find_sum(sums.p, programs[0], digest);
	fj_set_str(row, "version", version);
	fj_set_str(row, "name", programs[0]);
	fj_set_bool(row, "current", strcmp(version, current) == 0);
	fj_set_str(row, "sha256", *digest ? digest : NULL);
	return row;
}

field_json *install_list(int dirfd)
{
	auto_free struct release *versions = xalloc(VERSIONS_MAX * sizeof *versions);
	field_json *rows = fj_array();
	char current[64] = "";
	ssize_t n = readlinkat(dirfd, "current", current, sizeof current - 1);

	current[MAX(n, 0)] = '\0';
	size_t count = read_versions(dirfd, versions);
	for (size_t i = 0; i < count; i++)
		fj_append(rows, describe(dirfd, versions[i].version, current));
	return rows;
}
