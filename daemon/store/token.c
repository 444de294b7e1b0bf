/*
 * How it works. The tokens are an array in memory, replaced as a whole when one is made: a copy with the new entry is
 * written to the disk first, and only then becomes the array. So what is valid in memory is always on the disk, and the
 * mutex is held for memory alone; `writing` keeps a second writer out meanwhile.
 *
 * tokens.json: {"schema":2,"key":"<64 hex digits>","tokens":[{"id","name","scope","vms","created","expires","hash","first"}]}
 * Schema 1 knew neither scope nor vms nor expires: its tokens are full ones. A daemon of that time refuses schema 2, for it would
 * take a token that may only read for one that may do everything.
 */
#include "daemon/store/token.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/names.h"
#include "common/crypt.h"
#include "common/model.h"
#include "common/model_check.h"

#define FIRST ".token"
#define TOKENS "tokens.json"

enum {
	TOKENS_MAX = 1024,
	FILE_MAX = 1 << 20, /* bytes of tokens.json */
	SECRET_BYTES = 32,
	SECRET_LEN = 4 + 8 + 1 + 43, /* "fcm_", id, "_", 32 bytes as base64url */
	SCHEMA = 2,
	FORGET_SECONDS = 7 * 86400, /* after a token has ended */
};

struct entry {
	struct token_info info;
	char hash[2 * CRYPT_HASH + 1];
};

struct list {
	struct entry *v;
	size_t n;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t written;
	bool writing;
	int dirfd; /* borrowed */
	uint8_t key[CRYPT_KEY];
	struct list list;
} tokens = {.lock = PTHREAD_MUTEX_INITIALIZER, .written = PTHREAD_COND_INITIALIZER, .dirfd = -1};

static int check_hash(const void *value, const char *key, struct fcm_error *err)
{
	const char *s = value;

	if (strlen(s) != 2 * CRYPT_HASH || strspn(s, "0123456789abcdef") != 2 * CRYPT_HASH)
		return fcm_fail_field(err, FCM_CONFIG, key, "%s: not %d hex digits", key, 2 * CRYPT_HASH);
	return 0;
}

static const struct field entry_fields[] = {
	FK("id", struct entry, info.id, FIELD_CHARS, .flags = FIELD_REQUIRED),
	FK("name", struct entry, info.name, FIELD_CHARS, .flags = FIELD_REQUIRED),
	FK("scope", struct entry, info.scope, FIELD_ENUM, .names = token_scope_names),
	FK("vms", struct entry, info.vms, FIELD_CHARS, .check = model_check_selector,
		.flags = FIELD_OMIT_EMPTY),
	FK("created", struct entry, info.created, FIELD_TIME),
	FK("expires", struct entry, info.expires, FIELD_TIME, .flags = FIELD_OMIT_EMPTY),
	F(struct entry, hash, FIELD_CHARS, .check = check_hash, .flags = FIELD_REQUIRED),
	FK("first", struct entry, info.first, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY),
	FIELD_END,
};

struct keyfile {
	uint32_t schema;
	char key[2 * CRYPT_KEY + 1];
};

static const struct field keyfile_fields[] = {
	F(struct keyfile, schema, FIELD_U32, .min = 1, .max = SCHEMA, .flags = FIELD_REQUIRED),
	F(struct keyfile, key, FIELD_CHARS, .check = check_hash, .flags = FIELD_REQUIRED),
	FIELD_END,
};

static void hash_secret(const char *secret, size_t n, char ret[2 * CRYPT_HASH + 1])
{
	uint8_t hash[CRYPT_HASH];

	crypt_hash(tokens.key, secret, n, hash);
	crypt_hex(hash, sizeof hash, ret);
}

static void unhex(const char *s, uint8_t *ret, size_t n)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++)
		ret[i] = (uint8_t)((strchr(digits, s[2 * i]) - digits) << 4 |
				   (strchr(digits, s[2 * i + 1]) - digits));
}

/* A file that only we may read. FCM_NOT_FOUND when there is none, FCM_CONFIG when others could have read or made it. */
static int read_private(const char *name, size_t max, struct buf *ret, struct fcm_error *err)
{
	struct stat st;

	if (fstatat(tokens.dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? fcm_fail(err, FCM_NOT_FOUND, "%s: no such file", name)
				       : fcm_fail_errno(err, "stat %s", name);
	if (!S_ISREG(st.st_mode))
		return fcm_fail(err, FCM_CONFIG, "%s in the state directory is no regular file", name);
	if (st.st_uid != geteuid() || st.st_mode & 077) {
		fcm_fail(err, FCM_CONFIG, "%s in the state directory is open to others (uid %u, mode %04o)",
			name, st.st_uid, st.st_mode & 07777);
		return fcm_hint(err, "if nobody has read it: chown root and chmod 600; else remove it");
	}
	if (file_read(tokens.dirfd, name, max, ret, err) == 0)
		return 0;
	if (err->code == FCM_TOO_LARGE)
		err->code = FCM_CONFIG;
	return -1;
}

/* One that says no scope may read; before there were scopes it may do everything. */
static int decode_entries(
	const field_json *array, enum token_scope otherwise, struct list *ret, struct fcm_error *err)
{
	size_t n = fj_len(array);

	if (n > TOKENS_MAX)
		return fcm_fail(err, FCM_CONFIG, "more than %d tokens", TOKENS_MAX);
	ret->v = xalloc((n + 1) * sizeof *ret->v);
	for (; ret->n < n; ret->n++) {
		ret->v[ret->n].info.scope = otherwise;
		if (field_from_json(entry_fields, fj_at(array, ret->n), FIELD_DISK, &ret->v[ret->n], err) < 0)
			return fcm_wrap(err, "token %zu", ret->n + 1);
	}
	return 0;
}

static int decode(const struct buf *text, struct list *ret, struct fcm_error *err)
{
	struct keyfile file = {0};
	field_json *v = fj_parse(text->p, text->n, err);

	if (v == NULL)
		return -1;
	int r = field_from_json(keyfile_fields, v, FIELD_DISK, &file, err);
	if (r == 0)
		r = decode_entries(fj_get(v, "tokens"), file.schema == 1 ? SCOPE_FULL : SCOPE_READ, ret, err);
	if (r == 0)
		unhex(file.key, tokens.key, sizeof tokens.key);
	fj_free(v);
	return r;
}

static int load(struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct list list = {0};

	if (read_private(TOKENS, FILE_MAX, &text, err) < 0)
		return -1;
	if (decode(&text, &list, err) < 0) {
		free(list.v);
		err->code = FCM_CONFIG;
		fcm_wrap(err, TOKENS);
		return fcm_hint(err, "restore it, or remove it and .token: all tokens are void then");
	}
	tokens.list = list;
	return 0;
}

static int save(const struct list *list, struct fcm_error *err)
{
	struct keyfile file = {.schema = SCHEMA};

	crypt_hex(tokens.key, sizeof tokens.key, file.key);
	field_json *v = field_encode(keyfile_fields, &file, true), *array = fj_array();
	for (size_t i = 0; i < list->n; i++)
		fj_append(array, field_encode(entry_fields, &list->v[i], true));
	fj_set(v, "tokens", array);
	auto_free char *text = fj_print(v, true);
	fj_free(v);
	return file_write_atomic(tokens.dirfd, TOKENS, 0600, text, strlen(text), err);
}

/* Wait for the turn to write and take a copy of the list, with room for one more. */
static struct list begin_write(void)
{
	struct list copy;

	pthread_mutex_lock(&tokens.lock);
	while (tokens.writing)
		pthread_cond_wait(&tokens.written, &tokens.lock);
	tokens.writing = true;
	copy = (struct list){xalloc((tokens.list.n + 1) * sizeof *copy.v), tokens.list.n};
	if (copy.n)
		memcpy(copy.v, tokens.list.v, copy.n * sizeof *copy.v);
	pthread_mutex_unlock(&tokens.lock);
	return copy;
}

/* The copy is on the disk (or not, and then dropped). */
static void end_write(struct list copy, bool saved)
{
	pthread_mutex_lock(&tokens.lock);
	struct list old = saved ? tokens.list : copy;
	if (saved)
		tokens.list = copy;
	tokens.writing = false;
	pthread_cond_broadcast(&tokens.written);
	pthread_mutex_unlock(&tokens.lock);
	free(old.v);
}

/* Drop those that nobody can use any more; with `first` that one, too. */
static void tidy(struct list *l, bool first)
{
	int64_t now = clock_wall();
	size_t n = 0;

	for (size_t i = 0; i < l->n; i++)
		if (!(first && l->v[i].info.first) && !token_expired(&l->v[i].info, now - FORGET_SECONDS))
			l->v[n++] = l->v[i];
	l->n = n;
}

static char *new_secret(struct token_info *info)
{
	uint8_t random[SECRET_BYTES];
	struct vm_id id = vm_id_random();

	crypt_random(random, sizeof random);
	auto_free char *text = crypt_base64url(random, sizeof random);
	fcm_copy(info->id, sizeof info->id, id.s);
	return xprintf("fcm_%s_%s", id.s, text);
}

/* Make a token of *ret; a first one takes the place of an older first one. */
static int add(struct token_info *ret, char **ret_secret, struct fcm_error *err)
{
	struct entry new = {.info = *ret};
	struct list list = begin_write();

	tidy(&list, new.info.first);
	if (list.n >= TOKENS_MAX) {
		end_write(list, false);
		fcm_fail(err, FCM_INSUFFICIENT, "there are %d tokens already", TOKENS_MAX);
		return fcm_hint(err, "fcm token revoke those that nobody needs");
	}
	char *secret = new_secret(&new.info);
	hash_secret(secret, strlen(secret), new.hash);
	list.v[list.n++] = new;
	int r = save(&list, err);
	end_write(list, r == 0);
	if (r < 0) {
		free(secret);
		return -1;
	}
	*ret = new.info;
	*ret_secret = secret;
	return 0;
}

int token_create(
	const struct token_request *rq, struct token_info *ret, char **ret_secret, struct fcm_error *err)
{
	struct token_info info = {.scope = rq->scope, .created = clock_wall()};

	fcm_copy(info.name, sizeof info.name, rq->name);
	fcm_copy(info.vms, sizeof info.vms, rq->vms);
	info.expires = rq->expires_in ? info.created + rq->expires_in : 0;
	if (add(&info, ret_secret, err) < 0)
		return -1;
	*ret = info;
	return 0;
}

size_t token_list(struct token_info **ret)
{
	pthread_mutex_lock(&tokens.lock);
	size_t n = tokens.list.n;
	*ret = xalloc((n + 1) * sizeof **ret);
	for (size_t i = 0; i < n; i++)
		(*ret)[i] = tokens.list.v[i].info;
	pthread_mutex_unlock(&tokens.lock);
	return n;
}

static size_t find(const struct list *l, const char *id)
{
	size_t i = 0;

	while (i < l->n && strcmp(l->v[i].info.id, id) != 0)
		i++;
	return i;
}

/* Take it out of the copy. */
static int take_out(struct list *l, const char *id, struct token_info *ret, struct fcm_error *err)
{
	size_t i = find(l, id);

	if (i == l->n) {
		fcm_fail(err, FCM_NOT_FOUND, "there is no token with the id '%.64s'", id);
		return fcm_hint(err, "fcm token ls shows what there is");
	}
	if (l->v[i].info.first) {
		fcm_fail(err, FCM_WRONG_STATE, "this is the token in %s of the state directory", FIRST);
		return fcm_hint(err, "remove that file, and the daemon makes a new one when it starts");
	}
	*ret = l->v[i].info;
	memmove(&l->v[i], &l->v[i + 1], (l->n - i - 1) * sizeof *l->v);
	l->n--;
	return 0;
}

int token_revoke(const char *id, struct token_info *ret, struct fcm_error *err)
{
	struct list list = begin_write();
	int r = take_out(&list, id, ret, err);

	if (r == 0)
		r = save(&list, err);
	end_write(list, r == 0);
	return r;
}

bool token_known(const char *id)
{
	pthread_mutex_lock(&tokens.lock);
	bool known = find(&tokens.list, id) < tokens.list.n;
	pthread_mutex_unlock(&tokens.lock);
	return known;
}

/* Make .token, and with it tokens.json on the first run. Killed in between, the next start comes here again. */
static int make_first(struct fcm_error *err)
{
	struct token_info info = {
		.name = "root", .scope = SCOPE_FULL, .first = true, .created = clock_wall()};
	auto_free char *secret = NULL;

	if (add(&info, &secret, err) < 0)
		return -1;
	auto_free char *line = xprintf("%s\n", secret);
	return file_write_atomic(tokens.dirfd, FIRST, 0600, line, strlen(line), err);
}

static int check_first(const struct buf *text, struct fcm_error *err)
{
	struct token_info info;
	bool line = text->n > 0 && text->p[text->n - 1] == '\n';
	size_t n = text->n - line;

	if (n == SECRET_LEN && token_check(text->p, n, &info))
		return 0;
	fcm_fail(err, FCM_CONFIG, "%s in the state directory is %s", FIRST,
		n == 0		  ? "empty"
		: n == SECRET_LEN ? "not a token of tokens.json"
				  : "no whole token");
	return fcm_hint(err, "remove it, and the daemon makes a new one when it starts");
}

static int load_or_make(struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error why;

	if (load(&why) < 0) {
		if (why.code != FCM_NOT_FOUND) {
			*err = why;
			return -1;
		}
		crypt_random(tokens.key, sizeof tokens.key);
	}
	if (read_private(FIRST, 256, &text, &why) == 0)
		return check_first(&text, err);
	if (why.code != FCM_NOT_FOUND) {
		*err = why;
		return -1;
	}
	return make_first(err);
}

int token_init(int state_dirfd, struct fcm_error *err)
{
	tokens.dirfd = state_dirfd;
	if (load_or_make(err) == 0)
		return 0;
	token_done();
	return -1;
}

void token_done(void)
{
	free(tokens.list.v);
	tokens.list = (struct list){0};
	explicit_bzero(tokens.key, sizeof tokens.key);
	tokens.dirfd = -1;
}

bool token_check(const char *secret, size_t n, struct token_info *ret)
{
	char hash[2 * CRYPT_HASH + 1];
	size_t found = SIZE_MAX;

	if (n == 0 || n > SECRET_LEN)
		return false;
	hash_secret(secret, n, hash);
	pthread_mutex_lock(&tokens.lock);
	for (size_t i = 0; i < tokens.list.n; i++)
		found = crypt_equal(hash, tokens.list.v[i].hash, sizeof hash) ? i : found;
	if (found != SIZE_MAX)
		*ret = tokens.list.v[found].info;
	pthread_mutex_unlock(&tokens.lock);
	return found != SIZE_MAX;
}
