/*
 * Bytes as the snapshot.json of a snapshot that comes from elsewhere: what is taken names files of a snapshot alone, each once, and
 * says the same when it is written again.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/core/fileio.h"
#include "common/crypt.h"
#include "daemon/store/snapshot.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static char path[] = "/tmp/fuzz-snapshot-XXXXXX";
static int dir_fd;

static void want(bool fine)
{
	if (!fine)
		abort();
}

static void leave(void)
{
	unlinkat(dir_fd, SNAPSHOT_MANIFEST, 0);
	rmdir(path);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	crypt_init();
	want(mkdtemp(path) != NULL);
	dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	want(dir_fd >= 0 && atexit(leave) == 0);
	return 0;
}

static void put(const void *p, size_t n)
{
	int fd = openat(dir_fd, SNAPSHOT_MANIFEST, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	want(fd >= 0 && fd_write_all(fd, p, n) == 0);
	close(fd);
}

static void check(const struct snapshot *s)
{
	_cleanup_(strv_done) struct strv names = {0};

	snapshot_names(&names);
	want(s->n_files <= SNAPSHOT_FILES && vm_id_valid(s->id) && strchr(s->name, '/') == NULL);
	for (size_t i = 0; i < s->n_files; i++)
		want(strv_has(&names, s->files[i].name) && s->files[i].size >= 0 &&
			strlen(s->files[i].sum) == 64 && snapshot_file(s, s->files[i].name) == &s->files[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct snapshot one, two;
	struct fcm_error err = {0};

	put(data, n);
	if (snapshot_read(dir_fd, &one, &err) < 0) {
		want(err.code != FCM_OK && err.msg[0] && strpbrk(err.msg, "\n\t\x1b") == NULL);
		return 0;
	}
	check(&one);
	auto_json field_json *v = snapshot_json(&one, true);
	auto_free char *text = fj_print(v, false);
	put(text, strlen(text));
	want(snapshot_read(dir_fd, &two, &err) == 0);
	auto_json field_json *w = snapshot_json(&two, true);
	auto_free char *again = fj_print(w, false);
	want(strcmp(text, again) == 0);
	snapshot_done(&one);
	snapshot_done(&two);
	return 0;
}
