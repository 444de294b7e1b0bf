#include "common/crypt.h"

#include <sodium.h>
#include <string.h>

_Static_assert(CRYPT_HASH == crypto_generichash_BYTES, "BLAKE2b's usual size");
_Static_assert(CRYPT_KEY == crypto_generichash_KEYBYTES, "BLAKE2b's usual key");
_Static_assert(CRYPT_ED25519 == crypto_sign_SECRETKEYBYTES, "seed and public key");

enum {
	PART = 32,	    /* bytes of an ed25519 seed or public key: RFC 8032, section 5.1.5 */
	PEM_COLUMNS = 70,   /* as ssh-keygen writes them */
	CIPHER_BLOCK = 8,   /* what the private section is padded to without a cipher: PROTOCOL.key */
	KEY_LINE_MAX = 8192 /* bytes; RSA of 16384 bits takes 2,900 */
};

static const char ed25519_type[] = "ssh-ed25519";

struct crypt_sha256 {
	crypto_hash_sha256_state state;
};

struct crypt_blake2b {
	crypto_generichash_state state; /* aligned to 64 bytes: malloc(3) doesn't do that */
};

void crypt_init(void)
{
	if (sodium_init() < 0)
		abort();
}

void crypt_random(void *p, size_t n)
{
	randombytes_buf(p, n);
}

void crypt_hash(const uint8_t key[CRYPT_KEY], const void *p, size_t n, uint8_t ret[CRYPT_HASH])
{
	crypto_generichash(ret, CRYPT_HASH, p, n, key, CRYPT_KEY);
}

struct crypt_sha256 *crypt_sha256_new(void)
{
	struct crypt_sha256 *h = xalloc(sizeof *h);

	crypto_hash_sha256_init(&h->state);
	return h;
}

void crypt_sha256_add(struct crypt_sha256 *h, const void *p, size_t n)
{
	crypto_hash_sha256_update(&h->state, p, n);
}

void crypt_sha256_hex(struct crypt_sha256 *h, char ret[65])
{
	uint8_t sum[crypto_hash_sha256_BYTES];

	crypto_hash_sha256_final(&h->state, sum);
	crypt_hex(sum, sizeof sum, ret);
	free(h);
}

struct crypt_blake2b *crypt_blake2b_new(void)
{
	struct crypt_blake2b *h = aligned_alloc(_Alignof(struct crypt_blake2b), sizeof *h);

	if (h == NULL)
		abort();
	crypto_generichash_init(&h->state, NULL, 0, CRYPT_HASH);
	return h;
}

void crypt_blake2b_add(struct crypt_blake2b *h, const void *p, size_t n)
{
	crypto_generichash_update(&h->state, p, n);
}

void crypt_blake2b_hex(struct crypt_blake2b *h, char ret[65])
{
	uint8_t sum[CRYPT_HASH];

	crypto_generichash_final(&h->state, sum, sizeof sum);
	crypt_hex(sum, sizeof sum, ret);
	free(h);
}

bool crypt_equal(const void *a, const void *b, size_t n)
{
	return sodium_memcmp(a, b, n) == 0;
}

void crypt_hex(const void *p, size_t n, char *ret)
{
	sodium_bin2hex(ret, 2 * n + 1, p, n);
}

static char *base64(const void *p, size_t n, int variant)
{
	size_t room = sodium_base64_encoded_len(n, variant);

	return sodium_bin2base64(xalloc(room), room, p, n, variant);
}

char *crypt_base64url(const void *p, size_t n)
{
	return base64(p, n, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
}

char *crypt_base64(const void *p, size_t n)
{
	return base64(p, n, sodium_base64_VARIANT_ORIGINAL);
}

bool crypt_base64_decode(const char *text, struct buf *ret)
{
	size_t room = strlen(text), n;
	auto_free char *p = xalloc(room + 1);

	if (sodium_base642bin((unsigned char *)p, room, text, room, "\r\n", &n, NULL,
		    sodium_base64_VARIANT_ORIGINAL) < 0)
		return false;
	buf_add(ret, p, n);
	return true;
}

void crypt_ed25519(uint8_t ret[CRYPT_ED25519])
{
	uint8_t public[crypto_sign_PUBLICKEYBYTES];

	crypto_sign_keypair(public, ret); /* libsodium's secret key is seed and public key */
}

/* uint32 and string of RFC 4251, section 5. */
static void put_u32(struct buf *b, uint32_t v)
{
	const uint8_t p[] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};

	buf_add(b, p, sizeof p);
}

static void put_string(struct buf *b, const void *p, size_t n)
{
	put_u32(b, (uint32_t)n);
	buf_add(b, p, n);
}

static void put_text(struct buf *b, const char *s)
{
	put_string(b, s, strlen(s));
}

/* Forget what was secret before the memory is given back. */
static void wipe(struct buf *b)
{
	if (b->p)
		sodium_memzero(b->p, b->n);
	buf_done(b);
}

static void put_public(struct buf *b, const uint8_t key[CRYPT_ED25519])
{
	put_text(b, ed25519_type);
	put_string(b, key + PART, PART);
}

/* The section that would be encrypted: PROTOCOL.key, section 3. */
static void put_private(struct buf *b, const uint8_t key[CRYPT_ED25519], const char *comment)
{
	uint32_t check = randombytes_random();

	put_u32(b, check);
	put_u32(b, check);
	put_public(b, key);
	put_string(b, key, CRYPT_ED25519);
	put_text(b, comment);
	for (uint8_t pad = 1; b->n % CIPHER_BLOCK; pad++)
		buf_add(b, &pad, 1);
}

char *crypt_openssh_private(const uint8_t key[CRYPT_ED25519], const char *comment)
{
	_cleanup_(wipe) struct buf blob = {0}, private = {0};
	_cleanup_(buf_done) struct buf public = {0};
	struct buf pem = {0};

	put_public(&public, key);
	put_private(&private, key, comment);
	buf_add(&blob, "openssh-key-v1", sizeof "openssh-key-v1"); /* with its NUL */
	put_text(&blob, "none");				   /* cipher */
	put_text(&blob, "none");				   /* key derivation */
	put_text(&blob, "");					   /* and its options */
	put_u32(&blob, 1);
	put_string(&blob, public.p, public.n);
	put_string(&blob, private.p, private.n);

	char *text = crypt_base64(blob.p, blob.n);
	buf_str(&pem, "-----BEGIN OPENSSH PRIVATE KEY-----\n");
	for (size_t i = 0; text[i]; i += MIN(strlen(text + i), (size_t)PEM_COLUMNS))
		buf_printf(&pem, "%.*s\n", PEM_COLUMNS, text + i);
	buf_str(&pem, "-----END OPENSSH PRIVATE KEY-----\n");
	sodium_memzero(text, strlen(text));
	free(text);
	return pem.p;
}

void crypt_dropbear_private(const uint8_t key[CRYPT_ED25519], struct buf *ret)
{
	/* buf_put_ed25519_priv_key() of dropbear's ed25519.c */
	put_text(ret, ed25519_type);
	put_string(ret, key, CRYPT_ED25519);
}

char *crypt_ssh_public(const uint8_t key[CRYPT_ED25519])
{
	_cleanup_(buf_done) struct buf blob = {0};

	put_public(&blob, key);
	auto_free char *text = crypt_base64(blob.p, blob.n);
	return xprintf("%s %s", ed25519_type, text);
}

/* The key types that OpenSSH 9 takes by default (sshd_config(5), PubkeyAcceptedAlgorithms), but for
 * certificates. */
static bool key_type_known(const char *s, size_t n)
{
	static const char *const types[] = {ed25519_type, "ssh-rsa", "ecdsa-sha2-nistp256",
		"ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "sk-ssh-ed25519@openssh.com",
		"sk-ecdsa-sha2-nistp256@openssh.com"};

	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (strlen(types[i]) == n && memcmp(types[i], s, n) == 0)
			return true;
	return false;
}

/* Is the blob a list of whole strings, of which the first is the type and others follow (RFC 4253,
 * section 6.6)? */
static bool blob_valid(const uint8_t *p, size_t n, const char *type, size_t type_n)
{
	size_t strings = 0;

	while (n > 0) {
		if (n < 4)
			return false;
		size_t len = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
		if (len > n - 4)
			return false;
		if (strings++ == 0 && (len != type_n || memcmp(p + 4, type, type_n) != 0))
			return false;
		p += 4 + len;
		n -= 4 + len;
	}
	return strings >= 2;
}

static bool has_control(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			return true;
	return false;
}

bool crypt_ssh_public_valid(const char *line)
{
	size_t n = strnlen(line, KEY_LINE_MAX + 1), type_n = strcspn(line, " ");

	if (n > KEY_LINE_MAX || line[type_n] == '\0' || !key_type_known(line, type_n) || has_control(line))
		return false;
	const char *text = line + type_n + 1;
	size_t text_n = strcspn(text, " "), blob_n;
	auto_free uint8_t *blob = xalloc(text_n);
	if (sodium_base642bin(
		    blob, text_n, text, text_n, NULL, &blob_n, NULL, sodium_base64_VARIANT_ORIGINAL) < 0)
		return false;
	return blob_valid(blob, blob_n, line, type_n);
}
