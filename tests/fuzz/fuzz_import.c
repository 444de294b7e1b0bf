/*
 * An archive of an enemy, in which an image is looked for: what it is, and what its indexes name. Names of members become no names
 * of files, digests must be digests.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/core/fileio.h"
#include "common/core/ref.h"
#include "daemon/oci/manifest.h"
#include "daemon/oci/members.h"
#include "daemon/oci/probe.h"
#include "tests/fuzz/mend.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void want(bool fine)
{
	if (!fine)
		abort();
}

static void try_path(const char *text)
{
	char path[MEMBERS_PATH];

	if (!member_path(text, text, path))
		return;
	want(path[0] != '/' && strstr(path, "//") == NULL && strncmp(path, "../", 3) != 0 &&
		strstr(path, "/../") == NULL && strcmp(path, "..") != 0);
}

static void try_docker(int fd, const char *text, size_t n)
{
	_cleanup_(docker_archive_done) struct docker_archive d = {0};
	struct fcm_error err;

	if (docker_archive_parse(text, n, &d, &err) < 0)
		return;
	want(d.layers.n > 0 && d.layers.n <= OCI_LAYERS_MAX && d.names.n <= MANIFEST_NAMES);
	for (size_t i = 0; i < d.layers.n; i++) {
		_cleanup_(buf_done) struct buf b = {0};
		if (member_text(fd, d.layers.v[i], 1 << 16, &b, &err) == 0)
			want(b.n <= 1 << 16);
	}
}

static void try_layout(const char *text, size_t n)
{
	_cleanup_(strv_done) struct strv names = {0};
	struct descriptor d;
	struct fcm_error err;

	if (layout_parse(text, n, "linux/amd64", &d, &names, &err) == 0)
		want(ref_digest_valid(d.digest, false) && d.size <= MANIFEST_BYTES);
	want(names.n <= MANIFEST_NAMES);
}

static void try_archive(int fd)
{
	_cleanup_(buf_done) struct buf manifest = {0}, index = {0};
	enum members_kind kind;
	struct fcm_error err;

	(void)!members_kind(fd, &kind, &err);
	if (member_text(fd, "manifest.json", MANIFEST_BYTES, &manifest, &err) == 0 && manifest.n)
		try_docker(fd, manifest.p, manifest.n);
	if (member_text(fd, "index.json", MANIFEST_BYTES, &index, &err) == 0 && index.n)
		try_layout(index.p, index.n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	uint8_t *copy = calloc(1, n + 1);
	struct fcm_error err;
	int fd = memfd_create("archive", MFD_CLOEXEC);

	memcpy(copy, data, n);
	try_path((char *)copy);
	try_layout((char *)copy, n);
	(void)!probe_ext4(copy, n, n, &err);
	mend_sums(copy, n);
	want(fd >= 0 && fd_write_all(fd, copy, n) == 0);
	try_archive(fd);
	close(fd);
	free(copy);
	return 0;
}
