/*
 * How it works. A change is made in a copy, which is written to the disk and only then becomes the list: what is true in
 * memory is always on the disk. The mutex is held for memory alone; `writing` keeps a second writer out meanwhile.
 */
#include "daemon/image/tags.h"

#include <pthread.h>
#include <string.h>

#include "common/core/fileio.h"
#include "common/field.h"

#define TAGS "tags.json"

enum { SCHEMA = 1, FILE_MAX = TAGS_MAX * (REF_TEXT + 100) };

static struct {
	pthread_mutex_t lock;
	pthread_cond_t written;
	bool writing;
	int dirfd; /* borrowed */
	struct strv list;
} tags = {.lock = PTHREAD_MUTEX_INITIALIZER, .written = PTHREAD_COND_INITIALIZER, .dirfd = -1};

struct file {
	uint32_t schema;
	struct strv tags;
};

static int check_tags(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *list = value;

	for (size_t i = 0; i < list->n; i++) {
		struct tag t = tag_of(list->v[i]);
		struct ref ref;
		if (ref_parse(t.name.s, key, &ref, err) < 0)
			return -1;
		if (!ref_digest_valid(t.id.s, false) || strcmp(ref_full(&ref).s, t.name.s) != 0)
			return fcm_fail_field(
				err, FCM_INVALID, key, "%s: '%s' is no whole name of an id", key, t.name.s);
	}
	return 0;
}

static const struct field file_fields[] = {
	F(struct file, schema, FIELD_U32, .min = SCHEMA, .max = SCHEMA, .flags = FIELD_REQUIRED),
	F(struct file, tags, FIELD_MAP, .max = TAGS_MAX, .check = check_tags),
	FIELD_END,
};

struct tag tag_of(const char *entry)
{
	size_t n = strcspn(entry, "=");
	struct tag t = {0};

	(void)fcm_format(t.name.s, sizeof t.name.s, "%.*s", (int)n, entry);
	(void)fcm_copy(t.id.s, sizeof t.id.s, entry[n] ? entry + n + 1 : "");
	return t;
}

int tags_load(int state_fd, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct file file = {0};
	struct fcm_error why;

	strv_done(&tags.list);
	tags.dirfd = state_fd;
	if (file_read(state_fd, TAGS, FILE_MAX, &text, &why) < 0) {
		if (why.code == FCM_NOT_FOUND)
			return 0;
		*err = why;
		return fcm_wrap(err, TAGS);
	}
	if (field_decode(file_fields, text.p, text.n, FIELD_DISK, &file, err) < 0) {
		field_done(file_fields, &file);
		err->code = FCM_CONFIG;
		fcm_wrap(err, TAGS);
		return fcm_hint(err, "restore it, or remove it: the images stay, without their names");
	}
	tags.list = file.tags;
	return 0;
}

static int save(const struct strv *list, struct fcm_error *err)
{
	const struct file file = {.schema = SCHEMA, .tags = *list};
	auto_json field_json *v = field_encode(file_fields, &file, true);
	auto_free char *text = fj_print(v, true);

	return file_write_atomic(tags.dirfd, TAGS, 0600, text, strlen(text), err);
}

/* The entry of that name, or NULL; with the lock, or of a list of one's own. */
static char **find(const struct strv *list, const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < list->n; i++)
		if (strncmp(list->v[i], name, n) == 0 && list->v[i][n] == '=')
			return &list->v[i];
	return NULL;
}

/* Wait for the turn to write, and take a copy. */
static struct strv begin_change(void)
{
	struct strv copy = {0};

	pthread_mutex_lock(&tags.lock);
	while (tags.writing)
		pthread_cond_wait(&tags.written, &tags.lock);
	tags.writing = true;
	strv_copy(&copy, &tags.list);
	pthread_mutex_unlock(&tags.lock);
	return copy;
}

/* Write the copy; it becomes the list, or is dropped. */
static int end_change(struct strv *copy, bool changed, struct fcm_error *err)
{
	int r = changed ? save(copy, err) : 0;

	pthread_mutex_lock(&tags.lock);
	if (changed && r == 0) {
		struct strv old = tags.list;
		tags.list = *copy;
		*copy = old;
	}
	tags.writing = false;
	pthread_cond_broadcast(&tags.written);
	pthread_mutex_unlock(&tags.lock);
	strv_done(copy);
	return r;
}

bool tags_get(const char *name, struct image_id *ret)
{
	pthread_mutex_lock(&tags.lock);
	char **entry = find(&tags.list, name);
	if (entry)
		*ret = tag_of(*entry).id;
	pthread_mutex_unlock(&tags.lock);
	return entry != NULL;
}

void tags_list(const struct image_id *id, struct strv *ret)
{
	pthread_mutex_lock(&tags.lock);
	for (size_t i = 0; i < tags.list.n; i++)
		if (id == NULL || strcmp(strchr(tags.list.v[i], '=') + 1, id->s) == 0)
			strv_add(ret, tags.list.v[i]);
	pthread_mutex_unlock(&tags.lock);
	strv_sort(ret);
}

int tags_set(const char *name, const struct image_id *id, struct fcm_error *err)
{
	struct strv copy = begin_change();
	char **entry = find(&copy, name);

	if (entry == NULL && copy.n >= TAGS_MAX) {
		(void)!end_change(&copy, false, err);
		return fcm_fail(err, FCM_INSUFFICIENT, "there are %d names of images already", TAGS_MAX);
	}
	if (entry) {
		free(*entry);
		*entry = xprintf("%s=%s", name, id->s);
	} else {
		strv_addf(&copy, "%s=%s", name, id->s);
	}
	return end_change(&copy, true, err);
}

int tags_remove(const char *name, const struct image_id *id, struct fcm_error *err)
{
	struct strv copy = begin_change();
	char **entry = find(&copy, name);
	bool is_it = entry && strcmp(tag_of(*entry).id.s, id->s) == 0;

	if (is_it) {
		free(*entry);
		*entry = copy.v[--copy.n];
	}
	return end_change(&copy, is_it, err);
}
