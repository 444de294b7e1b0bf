#include "daemon/oci/expand.h"

#include <string.h>

#include "common/core/fileio.h"
#include "daemon/oci/source.h"

static int check(EVP_MD_CTX *hash, const char *want, const char *what, struct fcm_error *err)
{
	char have[65];

	sum_end(hash, have);
	if (strcmp(have, want) != 0)
		return fcm_fail(
			err, FCM_INVALID, "its %s has the digest %.12s..., not %.12s...", what, have, want);
	return 0;
}

/* What is behind the compressed stream belongs to the blob. */
static int read_rest(struct archive *a, struct source *s, struct fcm_error *err)
{
	const void *rest;
	la_ssize_t n;

	while ((n = source_read(a, s, &rest)) > 0)
		;
	return n < 0 ? fcm_fail(err, FCM_HOST, "it can't be read") : 0;
}

/* May n more be written behind *ret_n? */
static bool take_room(uint64_t *ret_n, size_t n, atomic_llong *left)
{
	*ret_n += n;
	return *ret_n <= OCI_LAYER_BYTES && atomic_fetch_sub(left, (long long)n) >= (long long)n;
}

static int expand(struct source *s, int out_fd, EVP_MD_CTX *out, atomic_llong *left, uint64_t *ret_n,
	struct fcm_error *err)
{
	_cleanup_(source_closep) struct archive *a = source_stream(s, err);
	auto_free char *block = xalloc(SOURCE_BLOCK);
	la_ssize_t n;

	*ret_n = 0;
	if (a == NULL)
		return -1;
	while ((n = archive_read_data(a, block, SOURCE_BLOCK)) > 0) {
		if (!take_room(ret_n, (size_t)n, left))
			return fcm_fail(
				err, FCM_TOO_LARGE, "it unpacks to more than a layer or an image may have");
		EVP_DigestUpdate(out, block, (size_t)n);
		if (fd_write_all(out_fd, block, (size_t)n) < 0)
			return fcm_fail_errno(err, "write it");
	}
	return n < 0 ? source_fail(a, err) : read_rest(a, s, err);
}

int layer_expand(int in_fd, const struct descriptor *d, int out_fd, const char *diff_id, atomic_llong *left,
	uint64_t *ret_n, struct fcm_error *err)
{
	auto_free struct source *s = xalloc(sizeof *s);
	_cleanup_(source_hash_freep) EVP_MD_CTX *in = source_hash(err);
	_cleanup_(source_hash_freep) EVP_MD_CTX *out = source_hash(err);

	if (in == NULL || out == NULL)
		return -1;
	if (lseek(in_fd, 0, SEEK_SET) < 0)
		return fcm_fail_errno(err, "read it");
	s->fd = in_fd, s->hash = in;
	if (expand(s, out_fd, out, left, ret_n, err) < 0 || check(in, d->digest, "blob", err) < 0 ||
		check(out, diff_id, "tar", err) < 0)
		return fcm_wrap(err, "layer %.12s", d->digest);
	return 0;
}
