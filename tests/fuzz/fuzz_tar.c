/*
 * What becomes of an enemy's archive: it is unpacked into a directory, beside which nothing may change. The first byte chooses
 * the flags.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "common/core/tar.h"
#include "common/core/tree.h"
#include "tests/fuzz/mend.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static char dir[] = "/tmp/fcm-fuzz-tar-XXXXXX";

static void remove_dir(void)
{
	struct fcm_error err;

	if (dir_remove(AT_FDCWD, dir, NULL, &err) < 0)
		fprintf(stderr, "%s\n", err.msg);
}

static void begin(void)
{
	static bool begun;
	struct fcm_error err;

	if (!begun && (mkdtemp(dir) == NULL || chdir(dir) < 0 || atexit(remove_dir) != 0))
		abort();
	begun = true;
	if (dir_remove(AT_FDCWD, "out", NULL, &err) < 0 || mkdir("out", 0700) < 0 ||
		mkdir("out/there", 0700) < 0 || symlink("../victim", "out/link") < 0 ||
		symlink("..", "out/up") < 0 ||
		file_write_atomic(AT_FDCWD, "victim", 0640, "good", 4, &err) < 0)
		abort();
}

static void check(void)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error err;
	struct stat st;
	unsigned n = 0;

	if (file_read(AT_FDCWD, "victim", 16, &text, &err) < 0 || text.n != 4 ||
		memcmp(text.p, "good", 4) != 0 || stat("victim", &st) < 0 || st.st_nlink != 1 ||
		(st.st_mode & 07777) != 0640)
		abort();
	DIR *d = opendir(".");
	while (d && readdir(d))
		n++;
	closedir(d);
	if (n != 4) /* with . and .. */
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const char zeros[2 * TAR_BLOCK];
	struct tree_count count;
	struct fcm_error err = {0};

	if (n < 1)
		return 0;
	begin();
	unsigned flags = data[0] & (TREE_PLACE | TREE_OWNERS | TREE_SETID | TREE_DEVICES);
	auto_free uint8_t *copy = xalloc(n);
	memcpy(copy, data + 1, n - 1);
	mend_sums(copy, n - 1);
	auto_close int fd = memfd_create("archive", MFD_CLOEXEC);
	if (fd_write_all(fd, copy, n - 1) < 0 || fd_write_all(fd, zeros, sizeof zeros) < 0 ||
		lseek(fd, 0, SEEK_SET) < 0)
		abort();
	(void)!tree_unpack(fd, data[0] & 16 ? "out/new" : "out", flags, &count, &err);
	check();
	return 0;
}
