#include "daemon/image/make.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/crypt.h"
#include "common/field.h"
#include "daemon/image/config.h"
#include "daemon/image/store.h"

#define JOB "job"
#define FS "image.ext4"
#define CONFIG "config.json"
#define FACTS "image.json"

enum { CONFIG_MAX = 8 << 20 };

/* While an image is made its layers belong to none yet, so nothing is swept. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned in_progress;

int image_layers_fd(void)
{
	return image_store.layers_fd;
}

int image_layer_size(const char *diff_id, uint64_t *ret, struct fcm_error *err)
{
	auto_free char *name = xprintf("%s.tar", diff_id);
	struct stat st;

	if (fstatat(image_store.layers_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return fcm_fail_errno(err, "look at layer %.12s", diff_id);
	*ret = (uint64_t)st.st_size;
	return 0;
}

static int make_places(struct image_making *m, uid_t uid, struct fcm_error *err)
{
	if (image_job_dirs(false, &m->temp, JOB, uid, &m->dir_fd, &m->job_fd, err) < 0)
		return -1;
	m->out_fd = openat(m->dir_fd, FS, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
	return m->out_fd < 0 ? fcm_fail_errno(err, "make the image's file") : 0;
}

int image_make_begin(uid_t uid, struct image_making *ret, struct fcm_error *err)
{
	if (image_has_place(err) < 0)
		return -1;
	*ret = (struct image_making){.begun = true, .temp = image_temp_name(), .out_fd = -1};
	pthread_mutex_lock(&lock);
	in_progress++;
	pthread_mutex_unlock(&lock);
	if (make_places(ret, uid, err) == 0)
		return 0;
	image_make_done(ret);
	return -1;
}

static int take_layer(struct image_making *m, const char *diff_id, struct fcm_error *err)
{
	auto_free char *name = xprintf("%s.tar", diff_id);
	struct stat st;

	if (fstatat(image_store.layers_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	auto_close int fd = file_take_over(m->job_fd, name, &st, err);
	if (fd < 0)
		return fcm_wrap(err, "layer");
	if (fsync(fd) < 0 || renameat(m->job_fd, name, image_store.layers_fd, name) < 0)
		return fcm_fail_errno(err, "take layer %.12s", diff_id);
	return 0;
}

int image_make_layers(struct image_making *m, struct fcm_error *err)
{
	for (size_t i = 0; i < m->layers.n; i++)
		if (take_layer(m, m->layers.v[i], err) < 0)
			return -1;
	return fsync(image_store.layers_fd) < 0 ? fcm_fail_errno(err, "store the layers") : 0;
}

static int read_config(struct image_making *m, struct buf *ret, struct fcm_error *err)
{
	struct crypt_sha256 *h = crypt_sha256_new();
	char hex[65];

	int r = file_read(m->job_fd, CONFIG, CONFIG_MAX, ret, err);
	if (r == 0)
		crypt_sha256_add(h, ret->p, ret->n);
	crypt_sha256_hex(h, hex);
	if (r == 0 && strcmp(hex, m->id.s) != 0)
		r = fcm_fail(err, FCM_INVALID, "the image's config has another digest than its name");
	return r;
}

static int take_config(struct image_making *m, struct image_facts *facts, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	_cleanup_(image_config_done) struct image_config config = {0};

	if (read_config(m, &text, err) < 0 || image_config_parse(text.p, text.n, &config, err) < 0)
		return -1;
	image_config_version(text.p, text.n, facts->tag, sizeof facts->tag);
	return file_write_atomic(m->dir_fd, CONFIG, 0444, text.p, text.n, err);
}

static int write_facts(struct image_making *m, struct fcm_error *err)
{
	struct image_facts facts = {.created = clock_wall(), .layers = m->layers};
	struct stat st;

	if (m->layers.n > 0 && take_config(m, &facts, err) < 0)
		return -1;
	if (fstat(m->out_fd, &st) < 0 || fsync(m->out_fd) < 0)
		return fcm_fail_errno(err, "store the image");
	facts.size = st.st_size;
	auto_free char *json = image_facts_print(&facts);
	return file_write_atomic(m->dir_fd, FACTS, 0444, json, strlen(json), err);
}

/* One with this id may be there already: it is the same. */
static int publish(struct image_making *m, struct fcm_error *err)
{
	int images = image_dir(false);

	if (dir_remove(m->dir_fd, JOB, NULL, err) < 0)
		return -1;
	if (fchmod(m->dir_fd, 0755) < 0 || fsync(m->dir_fd) < 0)
		return fcm_fail_errno(err, "store the image");
	if (renameat2(images, m->temp.s, images, m->id.s, RENAME_NOREPLACE) == 0)
		m->temp.s[0] = '\0';
	else if (errno != EEXIST)
		return fcm_fail_errno(err, "put the image into its place");
	return fsync(images) < 0 ? fcm_fail_errno(err, "store the image") : 0;
}

int image_make_commit(
	struct image_making *m, const struct strv *names, struct image_info *ret, struct fcm_error *err)
{
	struct ref_text name;

	if (write_facts(m, err) < 0 || publish(m, err) < 0)
		return -1;
	for (size_t i = 0; i < names->n; i++)
		if (image_tag(&m->id, names->v[i], &name, err) < 0)
			return -1;
	return image_find(&m->id, ret, err);
}

void image_make_done(struct image_making *m)
{
	struct fcm_error ignored;

	if (!m->begun)
		return;
	m->begun = false;
	pthread_mutex_lock(&lock);
	in_progress--;
	pthread_mutex_unlock(&lock);
	fcm_closep(&m->out_fd);
	fcm_closep(&m->job_fd);
	fcm_closep(&m->dir_fd);
	strv_done(&m->layers);
	if (m->temp.s[0])
		(void)!dir_remove(image_dir(false), m->temp.s, NULL, &ignored);
}

/* ---- layers that nobody has ---- */

static int used_layers(struct strv *ret, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv ids = {0};

	if (image_ids(&ids, err) < 0)
		return -1;
	for (size_t i = 0; i < ids.n; i++) {
		_cleanup_(strv_done) struct strv layers = {0};
		if (image_read_layers(ids.v[i], &layers, err) < 0)
			return fcm_wrap(err, "no layer is removed");
		for (size_t k = 0; k < layers.n; k++)
			strv_addf(ret, "%s.tar", layers.v[k]);
	}
	return 0;
}

static int sweep(struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv used = {0}, there = {0};
	int fd = image_store.layers_fd;

	if (used_layers(&used, err) < 0 || image_entries(fd, &there, err) < 0)
		return -1;
	for (size_t i = 0; i < there.n; i++)
		if (!strv_has(&used, there.v[i]) && unlinkat(fd, there.v[i], 0) < 0)
			return fcm_fail_errno(err, "remove a layer");
	return 0;
}

int image_layers_sweep(struct fcm_error *err)
{
	pthread_mutex_lock(&lock);
	int r = in_progress ? 0 : sweep(err);
	pthread_mutex_unlock(&lock);
	return r;
}
