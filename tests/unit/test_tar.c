/* Tar archives and trees: what is written is read again, also by GNU tar, and what is hostile gets nowhere. Needs root. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/tar.h"
#include "common/core/tree.h"

enum { KEEP = TREE_OWNERS | TREE_SETID | TREE_DEVICES };

static char dir[] = "/tmp/fcm-test-tar-XXXXXX";

/* ---- tools ---- */

static int sh(const char *script)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		if (chdir(dir) == 0)
			execl("/bin/bash", "bash", "-ec", script, (char *)NULL);
		_exit(99);
	}
	waitpid(pid, &status, 0);
	return WEXITSTATUS(status);
}

static int setup(void **state)
{
	(void)state;
	return chmod(dir, 0700) < 0 || chdir(dir) < 0 || sh("rm -rf ./*; mkdir out") ? -1 : 0;
}

static int make_dir(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	struct fcm_error err;

	(void)state;
	return chdir("/") < 0 ? -1 : dir_remove(AT_FDCWD, dir, NULL, &err);
}

static int archive_new(void)
{
	int fd = memfd_create("archive", MFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static int pack(const char *path, unsigned flags, struct fcm_error *err)
{
	struct tree_count n;
	int fd = archive_new();
	int r = tree_pack(fd, path, flags, &n, err);

	lseek(fd, 0, SEEK_SET);
	if (r < 0)
		close(fd);
	return r < 0 ? -1 : fd;
}

/* Unpack and close. */
static int unpack(int fd, const char *target, unsigned flags, struct fcm_error *err)
{
	struct tree_count n;
	int r;

	lseek(fd, 0, SEEK_SET);
	r = tree_unpack(fd, target, flags, &n, err);
	close(fd);
	return r;
}

static void copy(const char *from, const char *to)
{
	struct fcm_error err = {0};
	int fd = pack(from, TREE_OWNERS, &err);

	assert_true(fd >= 0);
	if (unpack(fd, to, KEEP | TREE_PLACE, &err) < 0)
		fail_msg("%s", err.msg);
}

static void save(int fd, const char *name)
{
	char bytes[65536];
	int to = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ssize_t n;

	lseek(fd, 0, SEEK_SET);
	while ((n = read(fd, bytes, sizeof bytes)) > 0)
		assert_int_equal(fd_write_all(to, bytes, (size_t)n), 0);
	close(to);
	close(fd);
}

/* A listing of everything that should be kept, two trees of which are the same. */
#define LIST                                                                                                 \
	"list() { (cd $1; find . -printf '%p %y %m %U %G %T@ %l ' -type f -exec sha256sum {} \\; -o "        \
	"-printf '\\n' | sed 's/\\.0*[0-9]* / /2' | sort); }; "

static const char make_tree[] =
	"mkdir -p in/a/b in/empty 'in/sp ace'; echo one >in/a/one; printf '\\0\\1' >in/a/b/bin; : "
	">in/nothing; ln -s one in/a/link;"
	"ln -s /nowhere in/dangling; mkfifo in/fifo; mknod in/null c 1 3; chmod 4711 in/a/one; chmod 1777 "
	"in/a; chmod 500 in/a/b;"
	"chown -h 12:34 in/a/link; chown 3000000:4000000 in/nothing; touch -d @1234567890 in/nothing in/a;"
	"n=$(printf 'x%.0s' $(seq 200)); mkdir -p in/$n/$n; echo deep >in/$n/$n/$n; ln -s $n/$n in/long; "
	"printf 'u\\xff' >$'in/\\xff\\xfe'";

/* ---- trees ---- */

static void test_round_trip(void **state)
{
	(void)state;
	assert_int_equal(sh(make_tree), 0);
	copy("in", "copy");
	assert_int_equal(sh(LIST "find in copy -exec touch -hd @5 {} +; diff <(list in) <(list copy)"), 0);
}

static void test_times(void **state)
{
	(void)state;
	assert_int_equal(sh(make_tree), 0);
	copy("in", "copy");
	assert_int_equal(
		sh("for i in nothing a a/b; do test $(stat -c %Y in/$i) = $(stat -c %Y copy/$i); done"), 0);
}

/* GNU tar reads what we write ... */
static void test_to_gnu_tar(void **state)
{
	struct fcm_error err = {0};

	(void)state;
	assert_int_equal(sh(make_tree), 0);
	assert_int_equal(sh("truncate -s 8M in/sparse; for i in 1 4 7; do echo data | dd of=in/sparse "
			    "bs=1M seek=$i conv=notrunc status=none; done"),
		0);
	save(pack("in", TREE_OWNERS, &err), "a.tar");
	assert_int_equal(
		sh("test $(stat -c %s a.tar) -lt 1000000; tar xpf a.tar -C out --numeric-owner 2>&1;" LIST
		   "find in out -exec touch -hd @5 {} +; diff <(list in) <(list out/in)"),
		0);
	assert_int_equal(sh("test $(du -k out/in/sparse | cut -f1) -lt 1000"), 0);
}

/* ... and we what it writes, in its own format, POSIX's and ustar. */
static void test_from_gnu_tar(void **state)
{
	struct fcm_error err = {0};
	static const char *const formats[] = {"gnu", "posix", "posix -S"};

	(void)state;
	assert_int_equal(sh(make_tree), 0);
	assert_int_equal(sh("truncate -s 8M in/sparse; echo data | dd of=in/sparse bs=1M seek=5 "
			    "conv=notrunc status=none"),
		0);
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		auto_free char *script =
			xprintf("rm -rf out; mkdir out; tar cf a.tar --format=%s in", formats[i]);
		assert_int_equal(sh(script), 0);
		if (unpack(open("a.tar", O_RDONLY | O_CLOEXEC), "out", KEEP, &err) < 0)
			fail_msg("%s: %s", formats[i], err.msg);
		assert_int_equal(
			sh(LIST "find in out -exec touch -hd @5 {} +; diff <(list in) <(list out/in)"), 0);
	}
}

/* ---- any tree ---- */

static uint64_t seed;

/* xorshift64 (Marsaglia, 2003): 0..n-1, the same in each run. */
static unsigned draw(unsigned n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (unsigned)((seed >> 16) % n);
}

/* Any bytes but those that can't be; mostly short, sometimes as long as may be. */
static void draw_name(char name[static NAME_MAX + 1])
{
	unsigned n = draw(8) ? 1 + draw(12) : 90 + draw(NAME_MAX - 90 + 1);

	for (unsigned i = 0; i < n; i++)
		name[i] = (char)(1 + draw(255));
	for (unsigned i = 0; i < n; i++)
		if (name[i] == '/')
			name[i] = '\\';
	name[n] = '\0';
	if (strspn(name, ".") == n)
		name[0] = 'x';
}

static void draw_file(int fd)
{
	char bytes[3000];

	for (unsigned pieces = draw(4); pieces > 0; pieces--) {
		size_t n = draw(sizeof bytes);
		memset(bytes, (int)draw(256), n);
		lseek(fd, draw(3) ? 0 : (off_t)draw(1 << 22), SEEK_CUR);
		assert_int_equal(fd_write_all(fd, bytes, n), 0);
	}
	assert_int_equal(ftruncate(fd, lseek(fd, 0, SEEK_CUR) + (draw(4) ? 0 : (off_t)draw(1 << 20))), 0);
	assert_int_equal(fchown(fd, draw(1 << 22), draw(1 << 22)), 0);
	assert_int_equal(fchmod(fd, draw(010000)), 0);
}

static void draw_tree(int dirfd, unsigned depth)
{
	char name[NAME_MAX + 1], link[NAME_MAX + 1];

	for (unsigned n = draw(6) + (depth == 0); n > 0; n--) {
		draw_name(name);
		unsigned kind = draw(depth < 6 ? 5 : 3);
		if (kind == 0) {
			draw_name(link);
			(void)!symlinkat(link, dirfd, name);
			continue;
		}
		bool is_dir = kind > 2;
		if (is_dir && mkdirat(dirfd, name, 0700) < 0)
			continue;
		auto_close int fd = openat(dirfd, name,
			(is_dir ? O_RDONLY | O_DIRECTORY : O_RDWR | O_CREAT | O_EXCL) | O_CLOEXEC, 0600);
		if (fd < 0)
			continue;
		if (!is_dir) {
			draw_file(fd);
			continue;
		}
		draw_tree(fd, depth + 1);
		assert_int_equal(fchmod(fd, draw(010000)), 0);
	}
}

#define SAME LIST "find in out -exec touch -hd @5 {} +; diff <(list in) <(list out/in)"

/* What we write GNU tar reads, what it writes we do, and so do we ourselves. */
static void test_any_tree(void **state)
{
	static const char *const formats[] = {"gnu", "posix", "posix -S", "posix --hole-detection=raw -S"};
	struct fcm_error err = {0};

	(void)state;
	for (unsigned i = 1; i <= 12; i++) {
		seed = i * 0x9e3779b97f4a7c15u;
		assert_int_equal(sh("rm -rf ./*; mkdir in out"), 0);
		auto_close int in = open("in", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		draw_tree(in, 0);
		save(pack("in", TREE_OWNERS, &err), "a.tar");
		assert_int_equal(unpack(open("a.tar", O_RDONLY | O_CLOEXEC), "out", KEEP, &err), 0);
		if (sh(SAME) != 0 || sh("rm -rf out; mkdir out; tar xpf a.tar -C out --numeric-owner "
					"2>/dev/null; " SAME) != 0)
			fail_msg("tree %u, written by us", i);
		auto_free char *script = xprintf("rm -rf out; mkdir out; tar cf a.tar --format=%s in",
			formats[i % ARRAY_SIZE(formats)]);
		assert_int_equal(sh(script), 0);
		if (unpack(open("a.tar", O_RDONLY | O_CLOEXEC), "out", KEEP, &err) < 0 || sh(SAME) != 0)
			fail_msg("tree %u, written by GNU tar: %s", i, err.msg);
	}
}

static void test_hard_links(void **state)
{
	struct fcm_error err = {0};

	(void)state;
	assert_int_equal(sh("mkdir in; echo x >in/a; ln in/a in/b; tar cf a.tar in"), 0);
	assert_int_equal(unpack(open("a.tar", O_RDONLY | O_CLOEXEC), "as", KEEP | TREE_PLACE, &err), 0);
	assert_int_equal(sh("test $(stat -c %i as/a) = $(stat -c %i as/b)"), 0);
}

static void test_places(void **state)
{
	static const struct {
		const char *before, *from, *to, *after;
	} rows[] = {
		{"echo x >f", "f", "g", "test $(cat g) = x"},
		{"echo x >f; echo yy >g", "f", "g", "test $(cat g) = x"},
		{"echo x >f; mkdir d", "f", "d", "test $(cat d/f) = x"},
		{"echo x >f; mkdir d", "f", "d/", "test $(cat d/f) = x"},
		{"mkdir s d; echo x >s/f", "s", "d", "test $(cat d/s/f) = x"},
		{"mkdir s d; echo x >s/f", "s/.", "d", "test $(cat d/f) = x; test ! -e d/s"},
		{"mkdir s; echo x >s/f", "s", "d", "test $(cat d/f) = x"},
		{"mkdir s; echo x >s/f", "s/", "d/", "test $(cat d/f) = x"},
		{"mkdir -m 751 s; echo x >s/f", "s/.", "d",
			"test $(cat d/f) = x; test $(stat -c %a d) = 751"},
		{"echo x >f; echo y >t; ln -s t l", "f", "l",
			"test $(cat t) = y; test ! -L l; test $(cat l) = x"},
		{"echo x >f; mkdir t; ln -s t l", "f", "l", "test $(cat t/f) = x; test -L l"},
		{"echo x >f; ln -s f l", "l", "m", "test $(readlink m) = f"},
		{"mkdir s d; chmod 700 d; chmod 755 s", "s/.", "d", "test $(stat -c %a d) = 700"},
		{"mkdir -p s/e d/s/e; chmod 700 d/s/e; echo x >s/e/f", "s", "d",
			"test $(stat -c %a d/s/e) = 700; test $(cat d/s/e/f) = x"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(sh("rm -rf ./*"), 0);
		assert_int_equal(sh(rows[i].before), 0);
		copy(rows[i].from, rows[i].to);
		if (sh(rows[i].after) != 0)
			fail_msg("row %zu", i);
	}
}

static void test_wrong_places(void **state)
{
	static const struct {
		const char *before, *from, *to;
		enum fcm_code code;
		const char *after;
	} rows[] = {
		{"true", "f", "g", FCM_NOT_FOUND, "true"},
		{"echo x >f", "f/", "g", FCM_NOT_FOUND, "true"},
		{"echo x >f", "f", "d/", FCM_NOT_FOUND, "test ! -e d"},
		{"echo x >f", "f", "d/e", FCM_NOT_FOUND, "test ! -e d"},
		{"mkdir s", "s", "d/e", FCM_NOT_FOUND, "test ! -e d"},
		{"mkdir s; echo x >f", "s", "f", FCM_INVALID, "test $(cat f) = x"},
		{"mkdir s; echo x >f", "s/.", "f", FCM_INVALID, "test $(cat f) = x"},
		{"echo x >f; mkdir -p d/f", "f", "d", FCM_INVALID, "test -d d/f"},
		{"mkdir -p s d; echo x >d/s", "s", "d", FCM_INVALID, "test $(cat d/s) = x"},
		{"echo x >f; mkfifo p", "f", "p", FCM_INVALID, "test -p p"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct fcm_error err = {0};
		assert_int_equal(sh("rm -rf ./*"), 0);
		assert_int_equal(sh(rows[i].before), 0);
		int fd = pack(rows[i].from, 0, &err);
		assert_true(fd < 0 || unpack(fd, rows[i].to, TREE_PLACE, &err) < 0);
		if (err.code != rows[i].code || sh(rows[i].after) != 0 || sh("! ls -A . d | grep fcm-") != 0)
			fail_msg("row %zu: %s", i, err.msg);
		assert_string_equal(err.field, "path");
	}
}

/* ---- hostile archives ---- */

struct member {
	enum tar_type type;
	const char *path, *link;
};

static int make(const struct member *m, size_t n)
{
	auto_free struct tar_entry *e = xalloc(sizeof *e);
	_cleanup_(buf_done) struct buf b = {0};
	int fd = archive_new();

	for (size_t i = 0; i < n; i++) {
		*e = (struct tar_entry){.type = m[i].type, .mode = 06777, .uid = 1, .gid = 1};
		fcm_copy(e->path, sizeof e->path, m[i].path);
		fcm_copy(e->link, sizeof e->link, m[i].link ? m[i].link : "");
		e->size = e->type == TAR_FILE ? 4 : 0;
		tar_add(&b, e);
		buf_add(&b, "evil", e->size);
		tar_pad(&b, e->size);
	}
	tar_add_end(&b);
	assert_int_equal(fd_write_all(fd, b.p, b.n), 0);
	return fd;
}

/* A second name for a file that has it already. */
static void test_a_link_to_itself(void **state)
{
	static const struct member members[] = {{TAR_HARDLINK, "b", "a"}};
	struct fcm_error err = {0};

	(void)state;
	assert_int_equal(sh("echo x >out/a; ln out/a out/b"), 0);
	assert_int_equal(unpack(make(members, 1), "out", KEEP, &err), 0);
	assert_int_equal(sh("test $(stat -c %h out/a) = 2; test $(ls -A out | wc -l) = 2"), 0);
}

/* Each tries to write or to change something beside `out`: "victim" is a file with "good" in it, "vdir" a directory. */
static void test_nothing_lands_outside(void **state)
{
	static const struct member rows[][4] = {
		{{TAR_FILE, "../victim", NULL}},
		{{TAR_FILE, "a/../../victim", NULL}},
		{{TAR_FILE, "/tmp/fcm-evil", NULL}},
		{{TAR_SYMLINK, "l", ".."}, {TAR_FILE, "l/victim", NULL}},
		{{TAR_SYMLINK, "l", "../vdir"}, {TAR_DIR, "l", NULL}, {TAR_FILE, "l/evil", NULL}},
		{{TAR_SYMLINK, "l", "../vdir"}, {TAR_DIR, "l/sub", NULL}},
		{{TAR_DIR, "d", NULL}, {TAR_SYMLINK, "d/l", "../../vdir"}, {TAR_FILE, "d/l/evil", NULL}},
		{{TAR_SYMLINK, "l", "../victim"}, {TAR_FILE, "l", NULL}},
		{{TAR_HARDLINK, "h", "../victim"}, {TAR_FILE, "h", NULL}},
		{{TAR_SYMLINK, "l", ".."}, {TAR_HARDLINK, "h", "l/victim"}, {TAR_FILE, "h", NULL}},
		{{TAR_HARDLINK, "h", "/etc/passwd"}},
		{{TAR_FILE, "planted/evil", NULL}},
		{{TAR_FILE, "planted", NULL}},
		{{TAR_DIR, "planted", NULL}},
		{{TAR_FILE, "..", NULL}},
		{{TAR_DIR, "..", NULL}},
	};

	(void)state;
	for (unsigned flags = 0; flags < 2; flags++) {
		for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
			struct fcm_error err = {0};
			size_t n = 0;
			assert_int_equal(sh("rm -rf ./*; mkdir out vdir; chmod 751 vdir . ; echo good "
					    ">victim; chmod 640 victim; ln -s ../vdir out/planted"),
				0);
			while (n < 4 && rows[i][n].path)
				n++;
			(void)!unpack(make(rows[i], n), "out", flags ? KEEP | TREE_PLACE : 0, &err);
			if (sh("test $(cat victim) = good; test $(stat -c %a victim) = 640; test $(stat -c "
			       "%h victim) = 1; test $(stat -c %a vdir) = 751; test $(stat -c %a .) = 751;"
			       "test -z \"$(ls -A vdir)\"; test ! -e /tmp/fcm-evil; test $(ls | wc -l) = 3; "
			       "! ls -A out | grep fcm-") != 0)
				fail_msg("row %zu, flags %u: %s", i, flags, err.msg);
		}
	}
}

/* A directory turns into a link and back while we unpack into it. */
static void test_a_race(void **state)
{
	static const struct member members[] = {{TAR_DIR, "t", NULL}, {TAR_FILE, "t/a/f", NULL},
		{TAR_FILE, "t/b/f", NULL}, {TAR_DIR, "t/a", NULL}};
	struct fcm_error err;

	(void)state;
	assert_int_equal(sh("mkdir -p vdir out/t/a out/t/b; chmod 751 vdir; ln -s ../../vdir out/t/l"), 0);
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			(void)!renameat2(AT_FDCWD, "out/t/a", AT_FDCWD, "out/t/l", RENAME_EXCHANGE);
	}
	unsigned taken = 0, refused = 0;
	for (int64_t end = clock_in(10000); (taken < 100 || refused < 100) && clock_ms() < end;)
		*(unpack(make(members, 4), "out", KEEP, &err) < 0 ? &refused : &taken) += 1;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_true(taken > 0 && refused > 0);
	assert_int_equal(sh("test -z \"$(ls -A vdir)\"; test $(stat -c %a vdir) = 751"), 0);
}

/* Of an archive that is to be one tree, nothing lands beside its name. */
static void test_one_name(void **state)
{
	static const struct member rows[][2] = {
		{{TAR_FILE, "a", NULL}, {TAR_FILE, "b", NULL}},
		{{TAR_DIR, "a", NULL}, {TAR_FILE, "ab", NULL}},
		{{TAR_DIR, "a", NULL}, {TAR_HARDLINK, "a/h", "b"}},
	};
	struct fcm_error err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(sh("rm -rf out; mkdir out; echo x >out/b"), 0);
		assert_int_equal(unpack(make(rows[i], 2), "out", TREE_PLACE, &err), -1);
		assert_int_equal(err.code, FCM_INVALID);
		assert_int_equal(
			sh("test $(cat out/b) = x; test $(stat -c %h out/b) = 1; test ! -e out/ab"), 0);
	}
}

/* What is asked for by a path comes under the name that tree_pack() gives it, or isn't taken. */
static void test_asked_name(void **state)
{
	static const struct {
		struct member first;
		const char *path;
		bool taken;
	} rows[] = {
		{{TAR_FILE, "a", NULL}, "/x/a", true},
		{{TAR_FILE, "./a", NULL}, "a", true},
		{{TAR_DIR, "a/", NULL}, "/x/a//", true},
		{{TAR_FILE, "a/b", NULL}, "/x/a", true},
		{{TAR_DIR, ".", NULL}, "/", true},
		{{TAR_FILE, "b", NULL}, "/x/.", true},
		{{TAR_FILE, "b", NULL}, "x/..", true},
		{{TAR_FILE, ".bashrc", NULL}, "/x/a", false},
		{{TAR_FILE, "ab", NULL}, "/x/a", false},
		{{TAR_FILE, "b/a", NULL}, "/x/a", false},
		{{TAR_DIR, ".", NULL}, "/x/a", false},
		{{TAR_DIR, "x/a", NULL}, "/x/a", false},
		{{TAR_FILE, "../a", NULL}, "/x/a", false},
		{{TAR_FILE, "/a", NULL}, "/x/a", false},
	};
	char bytes[4096];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct fcm_error err = {0};
		int fd = make(&rows[i].first, 1);
		ssize_t n = pread(fd, bytes, sizeof bytes, 0);
		close(fd);
		int r = tree_check_name(bytes, (size_t)n, rows[i].path, &err);
		if (r != (rows[i].taken ? 0 : -1) || (r < 0 && err.code != FCM_INVALID))
			fail_msg("row %zu: %s", i, err.msg);
		assert_int_equal(tree_check_name(bytes, 100, rows[i].path, &err), -1); /* cut off */
	}
}

static void test_bits_and_devices(void **state)
{
	static const struct member members[] = {{TAR_DIR, "d", NULL}, {TAR_FILE, "d/f", NULL},
		{TAR_CHAR, "d/c", NULL}, {TAR_FIFO, "d/p", NULL}};
	struct tree_count n;
	struct fcm_error err;
	int fd = make(members, 4);

	(void)state;
	lseek(fd, 0, SEEK_SET);
	assert_int_equal(tree_unpack(fd, "out", 0, &n, &err), 0);
	close(fd);
	assert_int_equal(n.skipped, 2);
	assert_int_equal(sh("test $(stat -c %a:%u out/d) = 777:0; test $(stat -c %a:%u out/d/f) = 777:0; "
			    "test $(ls out/d) = f"),
		0);
}

static void test_cut_off(void **state)
{
	struct fcm_error err = {0};
	struct stat st;

	(void)state;
	assert_int_equal(sh("mkdir in; echo old >out/f; head -c 3000 /dev/urandom >in/f"), 0);
	int fd = pack("in/f", 0, &err);
	assert_int_equal(fstat(fd, &st), 0);
	for (off_t size = st.st_size - 1024; size >= 0; size -= 97) {
		int copy_fd = archive_new();
		char bytes[8192];
		assert_int_equal(pread(fd, bytes, sizeof bytes, 0), st.st_size);
		assert_int_equal(fd_write_all(copy_fd, bytes, (size_t)size), 0);
		assert_int_equal(unpack(copy_fd, "out", TREE_PLACE, &err), -1);
		assert_int_equal(err.code, FCM_UNAVAILABLE);
		assert_int_equal(
			sh(size < st.st_size - 1024 ? "test $(cat out/f) = old; test $(ls -A out) = f"
						    : "rm out/f; echo old >out/f"),
			0);
	}
	close(fd);
}

/* Who packs says why it stopped. */
static void test_reason(void **state)
{
	struct fcm_error err = {0};
	struct tree_count n;
	int fd = archive_new();

	(void)state;
	assert_int_equal(sh("mkdir in; d=in; for i in $(seq 300); do d=$d/x; done; mkdir -p $d"), 0);
	assert_int_equal(tree_pack(fd, "in", 0, &n, &err), -1);
	assert_int_equal(unpack(fd, "out", 0, &err), -1);
	assert_int_equal(err.code, FCM_GUEST);
	assert_non_null(strstr(err.msg, "directories deep"));
}

/* A file that is shorter than it says, as those of sysfs are: what it should replace stays. */
static void test_a_file_gets_shorter(void **state)
{
	struct fcm_error err = {0};
	struct tree_count n;
	int fd = archive_new();

	(void)state;
	assert_int_equal(sh("echo old >out/mtu"), 0);
	assert_int_equal(tree_pack(fd, "/sys/class/net/lo/mtu", 0, &n, &err), -1);
	assert_non_null(strstr(err.msg, "shorter"));
	assert_int_equal(unpack(fd, "out", TREE_PLACE, &err), -1);
	assert_int_equal(err.code, FCM_UNAVAILABLE);
	assert_int_equal(sh("test $(cat out/mtu) = old; test $(ls -A out) = mtu"), 0);
}

static void test_not_an_archive(void **state)
{
	static const char *const scripts[] = {
		"head -c 5000 /dev/urandom >a.tar",
		"yes >a.tar & sleep 0.02; kill $!; wait || true",
		"echo x >f; tar cf a.tar f; printf '\\1' | dd of=a.tar bs=1 seek=3 conv=notrunc status=none",
		"truncate -s 1M f; echo x >>f; tar cSf a.tar --format=gnu f",
		"truncate -s 1M f; echo x >>f; tar cSf a.tar --format=posix --sparse-version=0.1 f",
		"head -c 10240 /dev/zero >a.tar",
	};
	struct fcm_error err = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(scripts); i++) {
		assert_int_equal(sh(scripts[i]), 0);
		assert_int_equal(unpack(open("a.tar", O_RDONLY | O_CLOEXEC), "out", 0, &err), -1);
		if (err.code != FCM_INVALID)
			fail_msg("row %zu: %s", i, err.msg);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_round_trip, setup),
		cmocka_unit_test_setup(test_times, setup),
		cmocka_unit_test_setup(test_to_gnu_tar, setup),
		cmocka_unit_test_setup(test_from_gnu_tar, setup),
		cmocka_unit_test_setup(test_any_tree, setup),
		cmocka_unit_test_setup(test_hard_links, setup),
		cmocka_unit_test_setup(test_places, setup),
		cmocka_unit_test_setup(test_wrong_places, setup),
		cmocka_unit_test_setup(test_a_link_to_itself, setup),
		cmocka_unit_test_setup(test_nothing_lands_outside, setup),
		cmocka_unit_test_setup(test_a_race, setup),
		cmocka_unit_test_setup(test_one_name, setup),
		cmocka_unit_test_setup(test_asked_name, setup),
		cmocka_unit_test_setup(test_bits_and_devices, setup),
		cmocka_unit_test_setup(test_cut_off, setup),
		cmocka_unit_test_setup(test_reason, setup),
		cmocka_unit_test_setup(test_a_file_gets_shorter, setup),
		cmocka_unit_test_setup(test_not_an_archive, setup),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
