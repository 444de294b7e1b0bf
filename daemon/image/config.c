#include "daemon/image/config.h"

#include <string.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/field.h"
#include "common/model.h"
#include "daemon/image/store.h"

enum { CONFIG_MAX = 8 << 20, PORTS_MAX = 256, VOLUMES_MAX = 64 };

struct oci_config {
	char architecture[32], os[32];
	struct image_config config;
};

static const struct field healthcheck_fields[] = {
	FK("Test", struct image_health, test, FIELD_STRV, .max = EXEC_MAX_WORDS),
	FK("Interval", struct image_health, interval, FIELD_I64),
	FK("Timeout", struct image_health, timeout, FIELD_I64),
	FK("StartPeriod", struct image_health, start_period, FIELD_I64),
	FK("Retries", struct image_health, retries, FIELD_I64),
	FIELD_END,
};

static const struct field config_fields[] = {
	FK("Entrypoint", struct image_config, entrypoint, FIELD_STRV, .max = EXEC_MAX_WORDS),
	FK("Cmd", struct image_config, cmd, FIELD_STRV, .max = EXEC_MAX_WORDS),
	FK("Env", struct image_config, env, FIELD_STRV, .max = VM_MAX_ENV),
	FK("WorkingDir", struct image_config, dir, FIELD_STR, .max = 1023),
	FK("User", struct image_config, user, FIELD_STR, .max = 64),
	FK("StopSignal", struct image_config, stop_signal, FIELD_STR, .max = 16),
	FK("ExposedPorts", struct image_config, ports, FIELD_KEYS, .max = PORTS_MAX),
	FK("Volumes", struct image_config, volumes, FIELD_KEYS, .max = VOLUMES_MAX),
	FK("Healthcheck", struct image_config, health, FIELD_OBJECT, .sub = healthcheck_fields),
	FIELD_END,
};

static const struct field oci_fields[] = {
	F(struct oci_config, architecture, FIELD_CHARS),
	F(struct oci_config, os, FIELD_CHARS),
	F(struct oci_config, config, FIELD_OBJECT, .sub = config_fields),
	FIELD_END,
};

void image_config_done(struct image_config *c)
{
	field_done(config_fields, c);
}

int image_config_parse(const char *text, size_t n, struct image_config *ret, struct fcm_error *err)
{
	struct oci_config c = {0};

	if (field_decode(oci_fields, text, n, FIELD_DISK, &c, err) < 0) {
		field_done(oci_fields, &c);
		err->code = FCM_INVALID;
		return fcm_wrap(err, "the image's config");
	}
	if (strcmp(c.os, "linux") != 0 || strcmp(c.architecture, "amd64") != 0) {
		fcm_fail(err, FCM_INVALID, "the image is for %s/%s, and VMs are linux/amd64", c.os,
			c.architecture);
		field_done(oci_fields, &c);
		return -1;
	}
	*ret = c.config;
	return 0;
}

void image_config_version(const char *text, size_t n, char *ret, size_t size)
{
	struct fcm_error ignored;
	auto_json field_json *v = fj_parse(text, n, &ignored);
	const field_json *labels = fj_get(fj_get(v, "config"), "Labels");

	(void)fcm_copy(ret, size, fj_get_str(labels, "org.opencontainers.image.version"));
	fcm_make_printable(ret);
}

/* Steps that made a layer (image-spec, config.md, history). */
static size_t count_steps(const field_json *history)
{
	size_t n = 0;

	for (size_t i = 0; i < fj_len(history); i++)
		n += !fj_get_bool(fj_at(history, i), "empty_layer");
	return n;
}

/* A step for each layer: those of which nothing is told get an empty one, so that the new one tells of the new layer. */
static void add_step(field_json *config, size_t below, const char *by, const char *created)
{
	field_json *history = fj_get(config, "history"), *step = fj_object();

	if (fj_len(history) == 0) { /* also what is no list */
		history = fj_array();
		fj_set(config, "history", history);
	}
	for (size_t n = count_steps(history); n < below; n++)
		fj_append(history, fj_object());
	fj_set_str(step, "created", created);
	fj_set_str(step, "created_by", by);
	fj_append(history, step);
}

char *image_config_extend(const char *text, size_t n, const char *diff_id, const char *by, int64_t created,
	struct fcm_error *err)
{
	auto_json field_json *config = fj_parse(text, n, err);
	field_json *diff_ids = fj_get(fj_get(config, "rootfs"), "diff_ids");
	auto_free char *digest = xprintf("sha256:%s", diff_id);
	const struct clock_text now = clock_rfc3339(created);

	if (config == NULL)
		return NULL;
	size_t below = fj_len(diff_ids);
	if (below == 0) {
		fcm_fail(err, FCM_INVALID, "the image's config names no layers");
		return NULL;
	}
	fj_append(diff_ids, fj_str(digest));
	fj_set_str(config, "created", now.s);
	add_step(config, below, by, now.s);
	return fj_print(config, false);
}

char *image_config_check(const char *text, struct fcm_error *err)
{
	_cleanup_(image_config_done) struct image_config c = {0};

	if (field_decode(config_fields, text, strlen(text), FIELD_WIRE, &c, err) < 0)
		return NULL;
	auto_json field_json *v = fj_parse(text, strlen(text), err);
	return v ? fj_print(v, false) : NULL;
}

int image_config_text(const struct image_id *id, struct buf *ret, struct fcm_error *err)
{
	auto_free char *path = xprintf("%s/config.json", id->s);

	return file_read(image_store.images_fd, path, CONFIG_MAX, ret, err);
}

int image_config_load(const struct image_id *id, struct image_config *ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};

	*ret = (struct image_config){0};
	if (image_config_text(id, &text, err) < 0)
		return err->code == FCM_NOT_FOUND ? 0 : -1;
	return image_config_parse(text.p, text.n, ret, err);
}
