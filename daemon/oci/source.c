#include "daemon/oci/source.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

void sum_hex(const unsigned char *sum, char ret[65])
{
	for (size_t i = 0; i < SOURCE_SHA256; i++)
		(void)fcm_format(ret + 2 * i, 3, "%02x", sum[i]);
}

void sum_end(EVP_MD_CTX *hash, char ret[65])
{
	unsigned char sum[SOURCE_SHA256] = {0};

	EVP_DigestFinal_ex(hash, sum, NULL);
	sum_hex(sum, ret);
}

void sha256_hex(const void *p, size_t n, char ret[65])
{
	unsigned char sum[SOURCE_SHA256] = {0};

	EVP_Digest(p, n, sum, NULL, EVP_sha256(), NULL);
	sum_hex(sum, ret);
}

void source_closep(struct archive **a)
{
	archive_read_free(*a); /* NULL-safe */
}

void source_hash_freep(EVP_MD_CTX **h)
{
	EVP_MD_CTX_free(*h); /* NULL-safe */
}

EVP_MD_CTX *source_hash(struct fcm_error *err)
{
	EVP_MD_CTX *hash = EVP_MD_CTX_new();

	if (hash && EVP_DigestInit_ex(hash, EVP_sha256(), NULL) == 1)
		return hash;
	source_hash_freep(&hash);
	fcm_fail(err, FCM_UNAVAILABLE, "out of memory");
	return NULL;
}

la_ssize_t source_read(struct archive *a, void *source, const void **ret)
{
	struct source *s = source;
	ssize_t n;

	do
		n = read(s->fd, s->block, sizeof s->block);
	while (n < 0 && errno == EINTR);
	if (n < 0) {
		archive_set_error(a, errno, "read: %s", strerror(errno));
		return ARCHIVE_FATAL;
	}
	if (s->hash)
		EVP_DigestUpdate(s->hash, s->block, (size_t)n);
	s->done += (uint64_t)n;
	if (s->progress)
		s->progress(s->arg, s->done);
	*ret = s->block;
	return n;
}

/* Only where no sum is wanted, and not beyond the end, which shall be noticed. libarchive is told how far it went. */
static la_int64_t skip(struct archive *a, void *arg, la_int64_t n)
{
	struct source *s = arg;
	struct stat st;

	(void)a;
	off_t at = s->hash ? -1 : lseek(s->fd, 0, SEEK_CUR);
	if (at < 0 || fstat(s->fd, &st) < 0 || n > st.st_size - at)
		return 0;
	return lseek(s->fd, n, SEEK_CUR) >= 0 ? n : 0;
}

int source_fail(struct archive *a, struct fcm_error *err)
{
	const char *s = archive_error_string(a);
	char why[160];

	(void)fcm_quote(why, sizeof why, s ? s : "it is empty");
	return fcm_fail(err, FCM_INVALID, "not a good archive: %s", why);
}

static struct archive *make(struct fcm_error *err)
{
	struct archive *a = archive_read_new();

	if (a == NULL)
		fcm_fail(err, FCM_UNAVAILABLE, "out of memory");
	return a;
}

static int begin(struct archive *a, struct source *s, struct fcm_error *err)
{
	archive_read_set_callback_data(a, s);
	archive_read_set_read_callback(a, source_read);
	return archive_read_open1(a) == ARCHIVE_OK ? 0 : source_fail(a, err);
}

struct archive *source_tar(struct source *s, struct fcm_error *err)
{
	_cleanup_(source_closep) struct archive *a = make(err);

	if (a == NULL)
		return NULL;
	archive_read_support_format_tar(a);
	archive_read_support_format_empty(a);
	archive_read_set_options(a, "tar:hdrcharset=BINARY");
	archive_read_set_skip_callback(a, skip);
	return begin(a, s, err) < 0 ? NULL : STEAL(a);
}

struct archive *source_packed_tar(struct source *s, struct fcm_error *err)
{
	_cleanup_(source_closep) struct archive *a = make(err);

	if (a == NULL)
		return NULL;
	if (archive_read_support_filter_zstd(a) != ARCHIVE_OK) { /* it would run a program */
		fcm_fail(err, FCM_HOST, "libarchive has no zstd here");
		return NULL;
	}
	archive_read_support_filter_gzip(a);
	archive_read_support_format_tar(a);
	archive_read_set_options(a, "tar:hdrcharset=BINARY");
	return begin(a, s, err) < 0 ? NULL : STEAL(a);
}

struct archive *source_stream(struct source *s, struct fcm_error *err)
{
	_cleanup_(source_closep) struct archive *a = make(err);
	struct archive_entry *e;

	if (a == NULL)
		return NULL;
	archive_read_support_filter_gzip(a);
	archive_read_support_filter_zstd(a);
	archive_read_support_filter_xz(a);
	archive_read_support_filter_bzip2(a);
	archive_read_support_format_raw(a);
	archive_read_support_format_empty(a);
	if (begin(a, s, err) < 0)
		return NULL;
	if (archive_read_next_header(a, &e) == ARCHIVE_OK)
		return STEAL(a);
	source_fail(a, err);
	return NULL;
}
