/*
 * Layers of an enemy, two of them, become a tree and a file system. The first bytes say where the second begins; digests are
 * made to fit.
 */
#include <openssl/evp.h>
#include <sys/mman.h>

#include "common/core/fileio.h"
#include "daemon/oci/ext4.h"
#include "daemon/oci/merge.h"
#include "tests/fuzz/mend.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Nobody listens here. */
void oci_progress(const char *what, const char *id, uint64_t current, uint64_t total)
{
	(void)what, (void)id, (void)current, (void)total;
}

enum { SPLIT_BYTES = 2, LAYERS = 2 };

static void add_layer(struct buf *plan, struct oci_job *job, const uint8_t *p, size_t n)
{
	unsigned char sum[32];
	auto_free uint8_t *copy = xalloc(n + 1);
	char hex[2 * sizeof sum + 1];
	int fd = memfd_create("layer", MFD_CLOEXEC);

	memcpy(copy, p, n);
	mend_sums(copy, n);
	if (fd < 0 || fd_write_all(fd, copy, n) < 0 ||
		EVP_Digest(copy, n, sum, NULL, EVP_sha256(), NULL) != 1)
		abort();
	for (size_t i = 0; i < sizeof sum; i++)
		fcm_format(hex + 2 * i, 3, "%02x", sum[i]);
	buf_printf(plan, "layer=%s", hex);
	buf_add(plan, "", 1);
	job->layer_fds[job->layers++] = fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_(buf_done) struct buf plan = {0}, results = {0};
	struct oci_job job = {0};
	struct fcm_error err = {0};

	if (n < SPLIT_BYTES)
		return 0;
	size_t first = MIN((size_t)(data[0] << 8 | data[1]), n - SPLIT_BYTES);
	add_layer(&plan, &job, data + SPLIT_BYTES, first);
	add_layer(&plan, &job, data + SPLIT_BYTES + first, n - SPLIT_BYTES - first);
	job.plan = plan.p;
	job.plan_n = plan.n;
	auto_close int out = memfd_create("out", MFD_CLOEXEC);
	(void)!merge_layers(&job, out, &results, &err);
	for (size_t i = 0; i < job.layers; i++)
		close(job.layer_fds[i]);
	return 0;
}
