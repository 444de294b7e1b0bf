/*
 * An archive that is read from a descriptor by libarchive: the only user of that in fcm-oci, with those who walk what it opens.
 */
#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum { SOURCE_BLOCK = 256 << 10, SOURCE_SHA256 = 32 };

/* Where it comes from; large, so not for the stack. Must live as long as the archive. */
struct source {
	int fd;
	EVP_MD_CTX *
		hash; /* or NULL: of all bytes that are read; what isn't needed is read all the same then, else skipped */
	uint64_t done;				    /* bytes so far */
	void (*progress)(void *arg, uint64_t done); /* or NULL */
	void *arg;
	char block[SOURCE_BLOCK];
};

/* Begin to read a plain tar (ustar, pax, GNU) of a file, from where fd stands. NULL when it isn't one. */
struct archive *source_tar(struct source *s, struct fcm_error *err);

/* Begin to read a tar, plain or compressed by gzip or zstd, of whatever fd is. */
struct archive *source_packed_tar(struct source *s, struct fcm_error *err);

/* Begin to read one stream of bytes, plain or compressed (gzip, zstd, xz, bzip2), of whatever fd is; its only entry is
 * opened. */
struct archive *source_stream(struct source *s, struct fcm_error *err);

/* What libarchive says, made printable: FCM_INVALID. Returns -1. */
int source_fail(struct archive *a, struct fcm_error *err);

/* The next bytes as they are, for what is behind an archive's end. As archive_read_callback. */
la_ssize_t source_read(struct archive *a, void *source, const void **ret);

/* For _cleanup_(). */
void source_closep(struct archive **a);
void source_hash_freep(EVP_MD_CTX **h);

/* A new sha256. NULL with FCM_UNAVAILABLE. */
EVP_MD_CTX *source_hash(struct fcm_error *err);

/* A sha256 in hex: of its bytes, of what was hashed, of n bytes. */
void sum_hex(const unsigned char *sum, char ret[65]);
void sum_end(EVP_MD_CTX *hash, char ret[65]);
void sha256_hex(const void *p, size_t n, char ret[65]);
