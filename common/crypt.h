/*
 * All cryptography that we do ourselves, on libsodium: random bytes, keyed hashes, the guest's ssh host key.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum { CRYPT_HASH = 32, CRYPT_KEY = 32, CRYPT_ED25519 = 64 };

/* Once, before anything else; aborts when libsodium can't start. */
void crypt_init(void);

/* Fill in n random bytes. */
void crypt_random(void *p, size_t n);

/* Keyed BLAKE2b (crypto_generichash). */
void crypt_hash(const uint8_t key[CRYPT_KEY], const void *p, size_t n, uint8_t ret[CRYPT_HASH]);

/* SHA-256 over pieces, as hex. */
struct crypt_sha256;
struct crypt_sha256 *crypt_sha256_new(void);
void crypt_sha256_add(struct crypt_sha256 *h, const void *p, size_t n);
void crypt_sha256_hex(struct crypt_sha256 *h, char ret[65]); /* also frees h */

/* BLAKE2b-256 over pieces, as hex: five times as fast. */
struct crypt_blake2b;
struct crypt_blake2b *crypt_blake2b_new(void);
void crypt_blake2b_add(struct crypt_blake2b *h, const void *p, size_t n);
void crypt_blake2b_hex(struct crypt_blake2b *h, char ret[65]); /* also frees h */

/* Constant-time comparison. */
bool crypt_equal(const void *a, const void *b, size_t n);

void crypt_hex(const void *p, size_t n, char *ret); /* 2 n + 1 bytes */
/* base64url without padding, and standard base64 with it; the caller's. */
char *crypt_base64url(const void *p, size_t n);
char *crypt_base64(const void *p, size_t n);

/* Append what standard base64 (with padding; lines may be broken) stands for; false when it isn't that. */
bool crypt_base64_decode(const char *text, struct buf *ret);

/* An ed25519 key: seed and public key, 32 bytes each. */
void crypt_ed25519(uint8_t ret[CRYPT_ED25519]);

/* Its forms (the caller's strings): the private file of OpenSSH (PROTOCOL.key), the binary host key file of dropbear
 * (into *ret), and "ssh-ed25519 AAAA..." for known_hosts and authorized_keys (RFC 8709, section 4). */
char *crypt_openssh_private(const uint8_t key[CRYPT_ED25519], const char *comment);
void crypt_dropbear_private(const uint8_t key[CRYPT_ED25519], struct buf *ret);
char *crypt_ssh_public(const uint8_t key[CRYPT_ED25519]);

/* Is this one line of an authorized_keys file that holds a public key (type, base64 that decodes and repeats the type,
 * comment; no options, no control characters)? */
bool crypt_ssh_public_valid(const char *line);
