/* The crypto that we do ourselves, against published vectors and the real ssh-keygen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "common/core/fileio.h"
#include "common/crypt.h"

static void test_sha256(void **state)
{
	char hex[65];
	struct crypt_sha256 *h = crypt_sha256_new();

	(void)state;
	crypt_sha256_add(h, "a", 1);
	crypt_sha256_add(h, "bc", 2);
	crypt_sha256_hex(h, hex); /* FIPS 180-4, the example "abc" */
	assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void test_hash(void **state)
{
	uint8_t a[CRYPT_HASH], b[CRYPT_HASH], key[CRYPT_KEY] = {0};

	(void)state;
	crypt_hash(key, "x", 1, a);
	crypt_hash(key, "x", 1, b);
	assert_true(crypt_equal(a, b, sizeof a));
	key[0] = 1;
	crypt_hash(key, "x", 1, b);
	assert_false(crypt_equal(a, b, sizeof a));
}

static void test_base64(void **state)
{
	auto_free char *url = crypt_base64url("\xfb\xff\xfe\x01", 4),
		       *plain = crypt_base64("\xfb\xff\xfe\x01", 4);
	char hex[9];

	(void)state;
	assert_string_equal(url, "-__-AQ");
	assert_string_equal(plain, "+//+AQ==");
	crypt_hex("\xfb\xff\xfe\x01", 4, hex);
	assert_string_equal(hex, "fbfffe01");
	_cleanup_(buf_done) struct buf b = {0};
	assert_true(crypt_base64_decode("+//+\nAQ==", &b));
	assert_memory_equal(b.p, "\xfb\xff\xfe\x01", 5);
	assert_true(crypt_base64_decode("", &b));
	assert_int_equal(b.n, 4);
	assert_false(crypt_base64_decode("+//+AQ", &b));
	assert_false(crypt_base64_decode("-__-AQ==", &b));
	assert_false(crypt_base64_decode("AQ==AQ==", &b));
}

static const char pinned[] =
	"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

static void test_public(void **state)
{
	uint8_t key[CRYPT_ED25519];

	(void)state;
	for (size_t i = 0; i < sizeof key; i++)
		key[i] = (uint8_t)(i % 32);
	auto_free char *text = crypt_ssh_public(key);
	assert_string_equal(text, pinned);
}

/* Byte for byte as dropbear's buf_put_priv_key() writes an ed25519 key. */
static void test_dropbear(void **state)
{
	uint8_t key[CRYPT_ED25519];
	_cleanup_(buf_done) struct buf b = {0};

	(void)state;
	crypt_ed25519(key);
	crypt_dropbear_private(key, &b);
	assert_int_equal(b.n, 4 + 11 + 4 + 64);
	assert_memory_equal(b.p, "\0\0\0\x0bssh-ed25519\0\0\0\x40", 19);
	assert_memory_equal(b.p + 19, key, 64);
}

/* The first line that a command prints, the caller's. */
static char *output(const char *cmd)
{
	char line[512] = "";
	FILE *f = popen(cmd, "r");

	assert_non_null(f);
	if (fgets(line, sizeof line, f))
		line[strcspn(line, "\n")] = '\0';
	pclose(f);
	return xstrdup(line);
}

/* `program` finds in our private file the public key that we print. */
static void check_with(
	const char *program, const char *behind, const void *text, size_t n, const char *wanted)
{
	char dir[] = "/tmp/fcm-crypt-XXXXXX";
	struct fcm_error err;

	assert_non_null(mkdtemp(dir));
	auto_free char *path = xprintf("%s/key", dir);
	assert_int_equal(file_write_atomic(AT_FDCWD, path, 0600, text, n, &err), 0);
	auto_free char *line = xprintf("%s %s%s", program, path, behind), *seen = output(line);
	assert_string_equal(seen, wanted);
	assert_int_equal(dir_remove(AT_FDCWD, dir, NULL, &err), 0);
}

static bool have(const char *program)
{
	auto_free char *cmd = xprintf("command -v %s", program), *path = output(cmd);

	return *path != '\0';
}

static void test_openssh(void **state)
{
	(void)state;
	if (!have("ssh-keygen"))
		skip();
	for (int i = 0; i < 3; i++) { /* the comment's length moves the padding */
		uint8_t key[CRYPT_ED25519];
		crypt_ed25519(key);
		auto_free char *comment = xprintf("%.*s", 4 * i, "longer-comment");
		auto_free char *private = crypt_openssh_private(key, comment),
			       *public = crypt_ssh_public(key);
		auto_free char *wanted = xprintf("%s%s%s", public, *comment ? " " : "", comment);
		assert_true(crypt_ssh_public_valid(wanted));
		check_with("ssh-keygen -y -f", " 2>&1", private, strlen(private), wanted);
	}
}

static void test_dropbearkey(void **state)
{
	uint8_t key[CRYPT_ED25519];
	_cleanup_(buf_done) struct buf b = {0};

	(void)state;
	if (!have("dropbearkey"))
		skip();
	crypt_ed25519(key);
	auto_free char *public = crypt_ssh_public(key);
	crypt_dropbear_private(key, &b);
	check_with("dropbearkey -y -f", " | grep ^ssh- | cut -d' ' -f1,2", b.p, b.n, public);
}

static void test_ssh_keygen_keys_are_valid(void **state)
{
	static const char *const types[] = {"ed25519", "rsa -b 2048", "ecdsa -b 256", "ecdsa -b 521"};
	char dir[] = "/tmp/fcm-crypt-XXXXXX";
	struct fcm_error err;

	(void)state;
	if (!have("ssh-keygen"))
		skip();
	assert_non_null(mkdtemp(dir));
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		auto_free char *cmd =
			xprintf("ssh-keygen -q -N '' -C 'a b' -t %s -f %s/k%zu && cat %s/k%zu.pub", types[i],
				dir, i, dir, i);
		auto_free char *line = output(cmd);
		if (!crypt_ssh_public_valid(line))
			fail_msg("%s", line);
	}
	assert_int_equal(dir_remove(AT_FDCWD, dir, NULL, &err), 0);
}

static void test_invalid_keys(void **state)
{
	static const char *const bad[] = {"", " ", "ssh-ed25519", "ssh-ed25519 ", "ssh-ed25519 AAAA",
		"ssh-ed25519  AAAA", "ssh-dss AAAAB3NzaC1kc3MAAAAA",
		"ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4",
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5/////wABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
		"ssh-ed25519 *AAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"};

	(void)state;
	assert_true(crypt_ssh_public_valid(pinned));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (crypt_ssh_public_valid(bad[i]))
			fail_msg("%s", bad[i]);
	static const char *const around[] = {
		"%s\n%s", "command=\"x\" %s", " %s", "%s c\x1b[0m", "%s\t", "#%s", "%s c\r"};
	for (size_t i = 0; i < ARRAY_SIZE(around); i++) {
		_cleanup_(buf_done) struct buf b = {0};
		for (const char *p = around[i]; *p; p += *p == '%' ? 2 : 1)
			buf_add(&b, *p == '%' ? pinned : p, *p == '%' ? sizeof pinned - 1 : 1);
		if (crypt_ssh_public_valid(b.p))
			fail_msg("%s", b.p);
	}
	auto_free char *longer = xprintf("%s %08192d", pinned, 0);
	assert_false(crypt_ssh_public_valid(longer));
	auto_free char *comment = xprintf("%s me@laptop and more", pinned);
	assert_true(crypt_ssh_public_valid(comment));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sha256),
		cmocka_unit_test(test_hash),
		cmocka_unit_test(test_base64),
		cmocka_unit_test(test_public),
		cmocka_unit_test(test_dropbear),
		cmocka_unit_test(test_openssh),
		cmocka_unit_test(test_dropbearkey),
		cmocka_unit_test(test_ssh_keygen_keys_are_valid),
		cmocka_unit_test(test_invalid_keys),
	};
	crypt_init();
	return cmocka_run_group_tests_name("crypt", tests, NULL, NULL);
}
