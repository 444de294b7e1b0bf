#include "common/config.h"

#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <string.h>

#include "common/config_internal.h"
#include "common/core/fileio.h"

enum {
	FILE_MAX = 64 << 10, /* bytes */
	NESTED = 16,	     /* bytes of "defaults." and more */
};

const struct field config_fields[] = {
#define X(key, member, type, text, doc_, ...)                                                                \
	FK(#key, struct fcmd_config, member, type, .doc = doc_, __VA_ARGS__),
#include "common/conf.def"
#undef X
	F(struct fcmd_config, defaults, FIELD_OBJECT, .sub = vm_defaults_fields,
		.doc = "what a create that doesn't say gets"),
	FIELD_END,
};

static const struct {
	const char *key, *text;
} builtin[] = {
#define X(key, member, type, text, ...) {#key, text},
#include "common/conf.def"
#undef X
	{"defaults.cpus", "1"},
	{"defaults.memory", "512"},
	{"defaults.disk", "8192"},
	{"defaults.image", "base"},
	{"defaults.kernel", "default"},
	{"defaults.restart", "unless-stopped"},
};

/* One leaf: a key of the top level, or one of [defaults]. */
struct leaf {
	const struct field *field;
	char key[FIELD_PATH];
	size_t index;
};

/* The leaves in order: begins with a zeroed *l; false at the end. */
static bool next_leaf(struct leaf *l)
{
	size_t wanted = l->field ? l->index + 1 : 0, i = 0;

	for (const struct field *f = config_fields; f->key; f++) {
		const struct field *sub = f->type == FIELD_OBJECT ? f->sub : f;
		do {
			if (i++ != wanted)
				continue;
			*l = (struct leaf){.field = sub, .index = wanted};
			field_path(l->key, sub == f ? "" : f->key, sub->key);
			return true;
		} while (f->type == FIELD_OBJECT && (++sub)->key);
	}
	return false;
}

static bool find_leaf(const char *key, struct leaf *ret)
{
	*ret = (struct leaf){0};
	while (next_leaf(ret))
		if (strcmp(ret->key, key) == 0)
			return true;
	return false;
}

static int unknown_key(const char *key, struct fcm_error *err)
{
	const char *dot = strchr(key, '.');
	bool nested = dot && strncmp(key, "defaults.", (size_t)(dot - key) + 1) == 0;
	const char *near = field_near(nested ? vm_defaults_fields : config_fields, nested ? dot + 1 : key);

	fcm_fail_field(err, FCM_CONFIG, field_clip(key).s, "%s: unknown key", field_clip(key).s);
	return near ? fcm_hint(err, "did you mean %s?", near) : -1;
}

/* Set a list from its entries, separated by commas or spaces. */
static int set_list(struct fcmd_config *c, const char *key, const char *text, struct fcm_error *err)
{
	auto_free char *copy = xstrdup(text);
	char *rest = copy;
	void *in;
	const struct field *f = field_find(config_fields, c, key, &in);

	strv_done((struct strv *)((char *)in + f->off));
	for (char *word; (word = strsep(&rest, ", \t"));)
		if (*word && field_set_text(config_fields, c, key, word, err) < 0)
			return -1;
	return 0;
}

static int set_key(struct fcmd_config *c, const char *key, const char *text, struct config_origin origin,
	struct fcm_error *err)
{
	struct leaf leaf;

	if (!find_leaf(key, &leaf))
		return unknown_key(key, err);
	struct config_origin *was = &c->origin[leaf.index];
	if (origin.source == CONFIG_FROM_FILE && was->source == CONFIG_FROM_FILE)
		return fcm_fail_field(err, FCM_CONFIG, key, "%s: is set on line %u already", key, was->line);
	int r = leaf.field->type == FIELD_STRV ? set_list(c, key, text, err)
					       : field_set_text(config_fields, c, key, text, err);
	if (r < 0) {
		err->code = FCM_CONFIG;
		return -1;
	}
	*was = origin;
	return 0;
}

void config_init(struct fcmd_config *ret)
{
	struct fcm_error err;

	*ret = (struct fcmd_config){0};
	for (size_t i = 0; i < ARRAY_SIZE(builtin); i++)
		if (*builtin[i].text && set_key(ret, builtin[i].key, builtin[i].text,
						(struct config_origin){CONFIG_BUILTIN, 0}, &err) < 0)
			abort(); /* conf.def contradicts itself: the unit test sees it */
}

void config_done(struct fcmd_config *c)
{
	field_done(config_fields, c);
	*c = (struct fcmd_config){0};
}

/* libinih tells its handler no line numbers, so we hand it the lines one by one and count. */
struct reading {
	struct fcmd_config *c;
	const char *path, *rest;
	unsigned line;
	struct fcm_error *err;
	bool failed;
};

static char *next_line(char *line, int room, void *arg)
{
	struct reading *r = arg;
	size_t n = strcspn(r->rest, "\n");

	if (r->failed || *r->rest == '\0')
		return NULL;
	r->line++;
	if (n + 2 > (size_t)room) {
		fcm_fail(r->err, FCM_CONFIG, "the line is longer than %d bytes", room - 2);
		r->failed = true;
		return NULL;
	}
	fcm_format(line, (size_t)room, "%.*s\n", (int)n, r->rest);
	r->rest += n + (r->rest[n] == '\n');
	return line;
}

static int on_pair(void *arg, const char *section, const char *name, const char *value)
{
	struct reading *r = arg;
	char key[FIELD_PATH + NESTED];

	if (r->failed)
		return 0;
	if (*section && strcmp(section, "defaults") != 0) {
		fcm_fail(r->err, FCM_CONFIG, "[%s]: unknown section (there is only [defaults])",
			field_clip(section).s);
		r->failed = true;
	} else {
		fcm_format(key, sizeof key, "%s%s%s", section, *section ? "." : "", name);
		struct config_origin origin = {CONFIG_FROM_FILE, r->line};
		r->failed = set_key(r->c, key, value, origin, r->err) < 0;
	}
	return !r->failed;
}

int config_parse(struct fcmd_config *c, const char *path, const char *text, size_t n, struct fcm_error *err)
{
	auto_free char *copy = xalloc(n + 1);
	struct reading r = {.c = c, .path = path, .rest = copy, .err = err};

	memcpy(copy, text, n);
	fcm_copy(c->file, sizeof c->file, path);
	if (strlen(copy) != n)
		return fcm_fail(err, FCM_CONFIG, "%s: is no text", path);
	ini_allow_multiline = false; /* an indented line is a line like all others */
	int line = ini_parse_stream(next_line, &r, on_pair, &r);
	if (line != 0 && !r.failed) {
		fcm_fail(err, FCM_CONFIG, "neither 'key = value' nor '[section]'");
		r.failed = true;
		r.line = (unsigned)MAX(line, 0);
	}
	return r.failed ? fcm_wrap(err, "%s:%u", path, r.line) : 0;
}

int config_load(struct fcmd_config *c, const char *path, bool must_exist, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	auto_free char *real = realpath(path, NULL); /* root may well keep a link there */

	if (real == NULL && errno == ENOENT && !must_exist)
		return 0;
	if (real == NULL)
		return fcm_fail_errno(err, "open %s", path);
	if (file_read(AT_FDCWD, real, FILE_MAX, &text, err) < 0)
		return -1;
	return config_parse(c, path, text.p, text.n, err);
}

int config_set(struct fcmd_config *c, const char *assignment, struct fcm_error *err)
{
	auto_free char *key = xstrdup(assignment);
	char *value = strchr(key, '=');

	if (value == NULL)
		return fcm_fail(err, FCM_USAGE, "--set %s: write it as key=value", field_clip(assignment).s);
	*value++ = '\0';
	if (set_key(c, key, value, (struct config_origin){CONFIG_FROM_OPTION, 0}, err) == 0)
		return 0;
	err->code = FCM_USAGE;
	return fcm_wrap(err, "--set");
}

enum log_level config_log_level(const struct fcmd_config *c)
{
	switch (c->log_level) {
	case CONFIG_LOG_ERROR:
		return LOG_LEVEL_ERROR;
	case CONFIG_LOG_WARN:
		return LOG_LEVEL_WARN;
	case CONFIG_LOG_INFO:
		return LOG_LEVEL_INFO;
	case CONFIG_LOG_DEBUG:
		return LOG_LEVEL_DEBUG;
	}
	return LOG_LEVEL_INFO;
}

static void print_origin(const struct fcmd_config *c, struct config_origin origin, struct buf *ret)
{
	switch (origin.source) {
	case CONFIG_BUILTIN:
		buf_str(ret, "built-in");
		return;
	case CONFIG_FROM_FILE:
		buf_printf(ret, "%s:%u", c->file, origin.line);
		return;
	case CONFIG_FROM_OPTION:
		buf_str(ret, "--set");
		return;
	}
}

void config_print(const struct fcmd_config *c, struct buf *ret)
{
	for (struct leaf l = {0}; next_leaf(&l);) {
		auto_free char *value = field_get_text(config_fields, c, l.key);
		auto_free char *pair = xprintf("%s = %s", l.key, value);
		buf_printf(ret, "%-56s ; ", pair);
		print_origin(c, c->origin[l.index], ret);
		buf_str(ret, "\n");
	}
}

void config_document(struct buf *ret)
{
	struct fcmd_config c;
	bool in_section = false;

	config_init(&c);
	buf_str(ret, "# " CONFIG_FILE ": each line shows a key and its default.\n");
	for (struct leaf l = {0}; next_leaf(&l);) {
		const char *dot = strchr(l.key, '.');
		auto_free char *value = field_get_text(config_fields, &c, l.key);
		if (dot && !in_section)
			buf_str(ret, "\n#[defaults]\n");
		in_section = dot;
		buf_printf(ret, "\n# %s\n#%s =%s%s\n", l.field->doc, dot ? dot + 1 : l.key, *value ? " " : "",
			value);
	}
	config_done(&c);
}

uint16_t config_api_port(const struct fcmd_config *c)
{
	const char *colon = strrchr(c->listen, ':');
	int64_t port = 0;

	return colon && fcm_parse_i64(colon + 1, 1, 65535, &port) ? (uint16_t)port : 0;
}
