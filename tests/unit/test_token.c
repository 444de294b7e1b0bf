/* Tokens: made once, kept as hashes, and every doubtful file refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "common/crypt.h"
#include "daemon/store/token.h"

static char top[] = "/tmp/fcm-token-XXXXXX";
static int dirfd;
static const struct token_request anna = {.name = "anna", .scope = SCOPE_FULL};

static int set_up(void **state)
{
	struct fcm_error err;

	(void)state;
	if (mkdtemp(top) == NULL || (dirfd = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		return -1;
	return token_init(dirfd, &err);
}

static int tear_down(void **state)
{
	struct fcm_error err;

	(void)state;
	token_done();
	close(dirfd);
	int r = dir_remove(AT_FDCWD, top, NULL, &err);
	strcpy(top + sizeof top - 7, "XXXXXX");
	return r;
}

static char *first(void)
{
	struct buf b = {0};
	struct fcm_error err;

	assert_int_equal(file_read(dirfd, ".token", 256, &b, &err), 0);
	b.p[strcspn(b.p, "\n")] = '\0';
	return b.p;
}

static bool valid(const char *secret)
{
	struct token_info info;

	return token_check(secret, strlen(secret), &info);
}

static int restart(struct fcm_error *err)
{
	*err = (struct fcm_error){0};
	token_done();
	return token_init(dirfd, err);
}

static void refused(const char *msg)
{
	struct fcm_error err;

	if (restart(&err) == 0)
		fail_msg("started, in spite of: %s", msg);
	if (err.code != FCM_CONFIG || strstr(err.msg, msg) == NULL)
		fail_msg("%s (code %d)", err.msg, err.code);
	assert_false(valid("")); /* and a refused start lets nobody in */
}

static void put(const char *name, const char *text, size_t n)
{
	struct fcm_error err;

	assert_int_equal(file_write_atomic(dirfd, name, 0600, text, n, &err), 0);
}

static void test_first_run(void **state)
{
	struct stat st;
	struct token_info info;
	struct fcm_error err;
	auto_free char *secret = first();

	(void)state;
	assert_int_equal(strlen(secret), 56);
	assert_memory_equal(secret, "fcm_", 4);
	assert_true(secret[12] == '_');
	assert_true(token_check(secret, strlen(secret), &info));
	assert_string_equal(info.name, "root");
	assert_memory_equal(info.id, secret + 4, 8);
	assert_int_equal(fstatat(dirfd, ".token", &st, 0), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0600);
	assert_int_equal(fstatat(dirfd, "tokens.json", &st, 0), 0);
	assert_int_equal(st.st_mode, S_IFREG | 0600);
	_cleanup_(buf_done) struct buf b = {0};
	assert_int_equal(file_read(dirfd, "tokens.json", 65536, &b, &err), 0);
	assert_null(strstr(b.p, secret + 13)); /* only its hash */
}

static void test_restart(void **state)
{
	struct fcm_error err;
	struct token_info info;
	char *second;
	auto_free char *secret = first();

	(void)state;
	assert_int_equal(token_create(&anna, &info, &second, &err), 0);
	assert_int_equal(restart(&err), 0);
	assert_true(valid(secret));
	memset(&info, 0, sizeof info);
	assert_true(token_check(second, strlen(second), &info));
	assert_string_equal(info.name, "anna");
	assert_true(info.created > 1700000000);
	free(second);
}

static void test_wrong(void **state)
{
	struct token_info info = {.name = "before"};
	auto_free char *secret = first();
	size_t n = strlen(secret);

	(void)state;
	assert_false(token_check("", 0, &info));
	assert_false(token_check(secret, 0, &info));
	assert_false(token_check(secret, n - 1, &info));
	for (size_t i = 0; i < n; i++) {
		secret[i] ^= 1;
		assert_false(token_check(secret, n, &info));
		secret[i] ^= 1;
	}
	auto_free char *longer = xprintf("%s ", secret);
	assert_false(token_check(longer, n + 1, &info));
	auto_free char *huge = xprintf("%s%0100000d", secret, 0);
	assert_false(token_check(huge, strlen(huge), &info));
	assert_string_equal(info.name, "before");
	assert_true(valid(secret));
}

static void test_first_is_broken(void **state)
{
	auto_free char *secret = first();

	(void)state;
	put(".token", "", 0);
	refused(".token in the state directory is empty");
	put(".token", "\n", 1);
	refused("is empty");
	put(".token", secret, 30);
	refused("is no whole token");
	secret[20] ^= 1;
	put(".token", secret, strlen(secret));
	refused("not a token of tokens.json");
}

static void test_tokens_are_broken(void **state)
{
	_cleanup_(buf_done) struct buf good = {0};
	struct fcm_error err;

	(void)state;
	assert_int_equal(file_read(dirfd, "tokens.json", 65536, &good, &err), 0);
	for (size_t n = 0; n + 1 < good.n; n += 5) {
		put("tokens.json", good.p, n);
		refused("tokens.json: ");
	}
	static const char *const bad[] = {"{}", "{\"schema\":1}", "{\"schema\":1,\"key\":\"\"}", "[]",
		"{\"schema\":1,\"key\":"
		"\"zz00000000000000000000000000000000000000000000000000000000000000\"}"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		put("tokens.json", bad[i], strlen(bad[i]));
		refused("tokens.json: ");
	}
	/* no entry, or an empty hash: the first token isn't there, and an empty one doesn't get in */
	auto_free char *empty = xprintf("{\"schema\":1,\"key\":\"%064d\",\"tokens\":[]}", 0);
	put("tokens.json", empty, strlen(empty));
	refused("not a token of tokens.json");
	auto_free char *nohash = xprintf(
		"{\"schema\":1,\"key\":\"%064d\",\"tokens\":[{\"id\":\"\",\"name\":\"\",\"hash\":\"\"}]}", 0);
	put("tokens.json", nohash, strlen(nohash));
	refused("hash");
	assert_int_equal(unlinkat(dirfd, "tokens.json", 0), 0);
	refused("not a token of tokens.json");
}

/* Even an entry that is the hash of nothing lets nobody in. */
static void test_empty_never(void **state)
{
	uint8_t key[CRYPT_KEY] = {0}, hash[CRYPT_HASH];
	char hex[2 * CRYPT_HASH + 1];
	struct token_info info;
	struct fcm_error err;

	(void)state;
	crypt_hash(key, "", 0, hash);
	crypt_hex(hash, sizeof hash, hex);
	auto_free char *text = xprintf(
		"{\"schema\":1,\"key\":\"%064d\",\"tokens\":[{\"id\":\"x\",\"name\":\"x\",\"hash\":\"%s\"}]}",
		0, hex);
	put("tokens.json", text, strlen(text));
	assert_int_equal(unlinkat(dirfd, ".token", 0), 0);
	assert_int_equal(restart(&err), 0);
	assert_false(token_check("", 0, &info));
}

static void test_modes_and_links(void **state)
{
	static const char *const files[] = {".token", "tokens.json"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		struct fcm_error err;
		assert_int_equal(fchmodat(dirfd, files[i], 0644, 0), 0);
		refused("is open to others");
		assert_int_equal(fchmodat(dirfd, files[i], 0620, 0), 0);
		refused("is open to others");
		assert_int_equal(fchmodat(dirfd, files[i], 0600, 0), 0);
		if (geteuid() == 0) {
			assert_int_equal(fchownat(dirfd, files[i], 64123, 0, 0), 0);
			refused("is open to others (uid 64123");
			assert_int_equal(fchownat(dirfd, files[i], 0, 0, 0), 0);
		}
		assert_int_equal(restart(&err), 0);
		assert_int_equal(renameat(dirfd, files[i], dirfd, "moved"), 0);
		assert_int_equal(symlinkat("moved", dirfd, files[i]), 0);
		refused("is no regular file");
		assert_int_equal(unlinkat(dirfd, files[i], 0), 0);
		assert_int_equal(mkfifoat(dirfd, files[i], 0600), 0);
		refused("is no regular file");
		assert_int_equal(renameat(dirfd, "moved", dirfd, files[i]), 0);
	}
}

/* The way out that the hint names: remove .token. The old one is void then, others stay. */
static void test_first_is_removed(void **state)
{
	struct token_info info;
	struct fcm_error err;
	char *other;
	auto_free char *old = first();

	(void)state;
	assert_int_equal(token_create(&anna, &info, &other, &err), 0);
	assert_int_equal(unlinkat(dirfd, ".token", 0), 0);
	assert_int_equal(restart(&err), 0);
	auto_free char *new = first();
	assert_string_not_equal(old, new);
	assert_true(valid(new) && valid(other));
	assert_false(valid(old));
	free(other);
}

/* Scope, label and end are kept, over a restart as well; a revoked one is unknown from then on, to the disk too. */
static void test_limits_and_revocation(void **state)
{
	const struct token_request rq = {
		.name = "ci", .scope = SCOPE_READ, .vms = "team=red", .expires_in = 3600};
	struct token_info info, shown;
	auto_free struct token_info *all = NULL;
	struct fcm_error err = {0};
	auto_free char *secret = NULL;

	(void)state;
	assert_int_equal(token_create(&rq, &info, &secret, &err), 0);
	assert_int_equal(restart(&err), 0);
	assert_true(token_check(secret, strlen(secret), &shown) && token_known(info.id));
	assert_int_equal(shown.scope, SCOPE_READ);
	assert_string_equal(shown.vms, "team=red");
	assert_int_equal(shown.expires, shown.created + 3600);
	assert_false(token_expired(&shown, shown.expires - 1));
	assert_true(token_expired(&shown, shown.expires));
	assert_int_equal(token_list(&all), 2);
	assert_string_equal(all[1].id, info.id);
	assert_int_equal(token_revoke(info.id, &shown, &err), 0);
	assert_string_equal(shown.name, "ci");
	assert_false(valid(secret) || token_known(info.id));
	assert_int_equal(token_revoke(info.id, &shown, &err), -1);
	assert_int_equal(err.code, FCM_NOT_FOUND);
	assert_int_equal(restart(&err), 0);
	assert_false(valid(secret));
}

static void test_first_is_not_revoked(void **state)
{
	struct token_info info;
	struct fcm_error err = {0};
	auto_free char *secret = first();

	(void)state;
	assert_true(token_check(secret, strlen(secret), &info));
	assert_int_equal(token_revoke(info.id, &info, &err), -1);
	assert_int_equal(err.code, FCM_WRONG_STATE);
	assert_true(valid(secret));
}

/* Those that ended long ago make room. */
static void test_ended_are_forgotten(void **state)
{
	const struct token_request rq = {.name = "old", .scope = SCOPE_FULL, .expires_in = 1};
	struct token_info old, info;
	struct fcm_error err;
	auto_free char *secret = NULL, *another = NULL;
	_cleanup_(buf_done) struct buf b = {0};

	(void)state;
	assert_int_equal(token_create(&rq, &old, &secret, &err), 0);
	assert_int_equal(file_read(dirfd, "tokens.json", 65536, &b, &err), 0);
	char *at = strstr(b.p, "\"expires\": \"2");
	assert_non_null(at);
	memcpy(at + strlen("\"expires\": \""), "2001", 4);
	put("tokens.json", b.p, b.n);
	assert_int_equal(restart(&err), 0);
	assert_true(token_known(old.id));
	assert_int_equal(token_create(&anna, &info, &another, &err), 0);
	assert_false(token_known(old.id));
	assert_true(valid(another));
}

/* Files of schema 1 know no scope: their tokens are full ones. In newer ones it is the least that is taken for granted, and a
 * schema from the future is refused. */
static void test_schemas(void **state)
{
	static const char *const schemas[] = {"1", "2"};
	_cleanup_(buf_done) struct buf b = {0};
	struct fcm_error err;
	struct token_info info;
	auto_free char *secret = first();

	(void)state;
	assert_int_equal(file_read(dirfd, "tokens.json", 65536, &b, &err), 0);
	char *schema = strstr(b.p, "\"schema\": 2"), *scope = strstr(b.p, "\"scope\": \"full\"");
	assert_true(schema && scope);
	memcpy(scope + 1, "epocs", 5); /* an unknown field */
	for (size_t i = 0; i < ARRAY_SIZE(schemas); i++) {
		schema[10] = *schemas[i];
		put("tokens.json", b.p, b.n);
		assert_int_equal(restart(&err), 0);
		assert_true(token_check(secret, strlen(secret), &info));
		assert_int_equal(info.scope, i == 0 ? SCOPE_FULL : SCOPE_READ);
		assert_string_equal(info.vms, "");
		assert_int_equal(info.expires, 0);
	}
	schema[10] = '3';
	put("tokens.json", b.p, b.n);
	refused("schema");
}

enum { THREADS = 8, EACH = 20 };

static void *creator(void *arg)
{
	struct fcm_error err;

	for (int i = 0; i < EACH; i++) {
		struct token_info info;
		char *secret;
		if (token_create(&anna, &info, &secret, &err) < 0 || !valid(secret))
			return arg; /* failed */
		((char **)arg)[i] = secret;
	}
	return NULL;
}

static void test_concurrent(void **state)
{
	pthread_t threads[THREADS];
	char *secrets[THREADS][EACH];
	struct fcm_error err;
	void *r;

	(void)state;
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, creator, secrets[i]), 0);
	for (size_t i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &r);
		assert_null(r);
	}
	assert_int_equal(restart(&err), 0); /* none was lost on the disk */
	for (size_t i = 0; i < THREADS * EACH; i++) {
		assert_true(valid(secrets[i / EACH][i % EACH]));
		free(secrets[i / EACH][i % EACH]);
	}
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(test_first_run),
		T(test_restart),
		T(test_wrong),
		T(test_first_is_broken),
		T(test_tokens_are_broken),
		T(test_empty_never),
		T(test_modes_and_links),
		T(test_first_is_removed),
		T(test_limits_and_revocation),
		T(test_first_is_not_revoked),
		T(test_ended_are_forgotten),
		T(test_schemas),
		T(test_concurrent),
	};
	crypt_init();
	return cmocka_run_group_tests_name("token", tests, NULL, NULL);
}
