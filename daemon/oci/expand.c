#include "daemon/oci/expand.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "common/core/fileio.h"

enum { BLOCK = 256 << 10, SHA256 = 32 };

struct blob {
	int fd;
	EVP_MD_CTX *hash;
	char block[BLOCK], out[BLOCK];
};

void sum_hex(const unsigned char *sum, char ret[65])
{
	for (size_t i = 0; i < SHA256; i++)
		(void)fcm_format(ret + 2 * i, 3, "%02x", sum[i]);
}

void sha256_hex(const void *p, size_t n, char ret[65])
{
	unsigned char sum[SHA256] = {0};

	EVP_Digest(p, n, sum, NULL, EVP_sha256(), NULL);
	sum_hex(sum, ret);
}

static void hash_freep(EVP_MD_CTX **h)
{
	EVP_MD_CTX_free(*h); /* NULL-safe */
}

static void closep(struct archive **a)
{
	archive_read_free(*a); /* NULL-safe */
}

static la_ssize_t read_blob(struct archive *a, void *arg, const void **ret)
{
	struct blob *b = arg;
	ssize_t n;

	do
		n = read(b->fd, b->block, sizeof b->block);
	while (n < 0 && errno == EINTR);
	if (n < 0) {
		archive_set_error(a, errno, "read: %s", strerror(errno));
		return ARCHIVE_FATAL;
	}
	EVP_DigestUpdate(b->hash, b->block, (size_t)n);
	*ret = b->block;
	return n;
}

static int check(EVP_MD_CTX *hash, const char *want, const char *what, struct fcm_error *err)
{
	unsigned char sum[SHA256];
	char have[65];

	EVP_DigestFinal_ex(hash, sum, NULL);
	sum_hex(sum, have);
	if (strcmp(have, want) != 0)
		return fcm_fail(
			err, FCM_INVALID, "its %s has the digest %.12s..., not %.12s...", what, have, want);
	return 0;
}

static int open_blob(struct archive *a, struct blob *b, struct fcm_error *err)
{
	struct archive_entry *e;

	archive_read_support_filter_gzip(a);
	archive_read_support_filter_zstd(a);
	archive_read_support_format_raw(a);
	archive_read_support_format_empty(a);
	archive_read_set_callback_data(a, b);
	archive_read_set_read_callback(a, read_blob);
	if (archive_read_open1(a) == ARCHIVE_OK && archive_read_next_header(a, &e) == ARCHIVE_OK)
		return 0;
	return fcm_fail(err, FCM_INVALID, "it can't be unpacked");
}

/* May n more be written behind *ret_n? */
static bool take_room(uint64_t *ret_n, size_t n, atomic_llong *left)
{
	*ret_n += n;
	return *ret_n <= OCI_LAYER_BYTES && atomic_fetch_sub(left, (long long)n) >= (long long)n;
}

static int expand(struct blob *b, int out_fd, EVP_MD_CTX *out, atomic_llong *left, uint64_t *ret_n,
	struct fcm_error *err)
{
	_cleanup_(closep) struct archive *a = archive_read_new();
	const void *rest;
	la_ssize_t n;

	*ret_n = 0;
	if (a == NULL)
		return fcm_fail(err, FCM_UNAVAILABLE, "out of memory");
	if (open_blob(a, b, err) < 0)
		return -1;
	while ((n = archive_read_data(a, b->out, sizeof b->out)) > 0) {
		if (!take_room(ret_n, (size_t)n, left))
			return fcm_fail(
				err, FCM_TOO_LARGE, "it unpacks to more than a layer or an image may have");
		EVP_DigestUpdate(out, b->out, (size_t)n);
		if (fd_write_all(out_fd, b->out, (size_t)n) < 0)
			return fcm_fail_errno(err, "write it");
	}
	if (n < 0)
		return fcm_fail(err, FCM_INVALID, "it can't be unpacked to its end");
	while ((n = read_blob(a, b, &rest)) > 0)
		;
	return n < 0 ? fcm_fail(err, FCM_HOST, "it can't be read") : 0;
}

int layer_expand(int in_fd, const struct descriptor *d, int out_fd, const char *diff_id, atomic_llong *left,
	uint64_t *ret_n, struct fcm_error *err)
{
	auto_free struct blob *b = xalloc(sizeof *b);
	_cleanup_(hash_freep) EVP_MD_CTX *in = EVP_MD_CTX_new();
	_cleanup_(hash_freep) EVP_MD_CTX *out = EVP_MD_CTX_new();

	if (in == NULL || out == NULL || EVP_DigestInit_ex(in, EVP_sha256(), NULL) != 1 ||
		EVP_DigestInit_ex(out, EVP_sha256(), NULL) != 1)
		return fcm_fail(err, FCM_UNAVAILABLE, "out of memory");
	if (lseek(in_fd, 0, SEEK_SET) < 0)
		return fcm_fail_errno(err, "read it");
	b->fd = in_fd, b->hash = in;
	if (expand(b, out_fd, out, left, ret_n, err) < 0 || check(in, d->digest, "blob", err) < 0 ||
		check(out, diff_id, "tar", err) < 0)
		return fcm_wrap(err, "layer %.12s", d->digest);
	return 0;
}
