#include "client/context.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "client/secret.h"
#include "client/where.h"
#include "common/core/fileio.h"
#include "common/field.h"

enum { CONTEXT_MAX = 4096 }; /* bytes of a file */

static const struct field fields[] = {
	F(struct context, url, FIELD_STR, .max = 255, .flags = FIELD_REQUIRED),
	F(struct context, token, FIELD_STR, .max = 512, .flags = FIELD_SECRET | FIELD_OMIT_EMPTY),
	FIELD_END,
};

void context_done(struct context *c)
{
	field_done(fields, c);
}

int context_name(const char *s, struct asset_name *ret, struct fcm_error *err)
{
	if (strcmp(s, CONTEXT_LOCAL) == 0)
		return fcm_fail(err, FCM_INVALID, "'" CONTEXT_LOCAL "' is the daemon of this host");
	return asset_name_parse(s, "context", ret, err);
}

/* ---- files ---- */

static char *own_dir(void)
{
	const char *xdg = getenv("XDG_CONFIG_HOME"); /* the specification ignores a relative one */

	return xdg && *xdg == '/' ? xprintf("%s/fcm", xdg) : xprintf("%s/.config/fcm", home_dir());
}

static char *path_of(const struct asset_name *name)
{
	auto_free char *dir = own_dir();

	return xprintf("%s/contexts/%s.json", dir, name->s);
}

/* Open own_dir()<below>, made if need be; it may be a link of the user's. */
static int open_dir(const char *below, struct fcm_error *err)
{
	auto_free char *dir = own_dir(), *path = xprintf("%s%s", dir, below);

	if (access(path, F_OK) < 0 && dir_make(path, 0700, err) < 0)
		return -1;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? fcm_fail_errno(err, "open %s", path) : fd;
}

static int fail_missing(const char *name, struct fcm_error *err)
{
	fcm_fail(err, FCM_NOT_FOUND, "there is no context '%s'", name);
	return fcm_hint(err, "fcm context ls lists them; make one: fcm connect URL --name %s", name);
}

int context_load(const struct asset_name *name, struct context *ret, struct fcm_error *err)
{
	_cleanup_(context_done) struct context c = {0};
	_cleanup_(buf_done) struct buf text = {0};
	auto_free char *path = path_of(name);

	if (secret_read(path, CONTEXT_MAX, &text, err) < 0)
		return err->code == FCM_NOT_FOUND ? fail_missing(name->s, err) : -1;
	if (field_decode(fields, text.p, text.n, FIELD_DISK, &c, err) < 0)
		return fcm_wrap(err, "%s", path);
	*ret = c;
	c = (struct context){0};
	return 0;
}

int context_save(const struct asset_name *name, const struct context *c, struct fcm_error *err)
{
	auto_json field_json *v = field_encode(fields, c, true);
	auto_free char *text = fj_print(v, true), *all = xprintf("%s\n", text),
		       *file = xprintf("%s.json", name->s);
	auto_close int dir = open_dir("/contexts", err);

	return dir < 0 ? -1 : file_write_atomic(dir, file, 0600, all, strlen(all), err);
}

int context_remove(const struct asset_name *name, struct fcm_error *err)
{
	auto_free char *path = path_of(name);

	if (unlink(path) == 0)
		return 0;
	return errno == ENOENT ? fail_missing(name->s, err) : fcm_fail_errno(err, "remove %s", path);
}

/* The names of the files alone: one that can't be read is a context all the same. */
int context_list(struct strv *ret, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv files = {0};
	auto_free char *dir = own_dir(), *path = xprintf("%s/contexts", dir);
	auto_close int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct asset_name name;
	struct fcm_error ignored;

	if (fd < 0)
		return errno == ENOENT ? 0 : fcm_fail_errno(err, "open %s", path);
	if (dir_names(fd, &files, err) < 0)
		return -1;
	for (size_t i = 0; i < files.n; i++) {
		char *end = strrchr(files.v[i], '.');
		if (end == NULL || strcmp(end, ".json") != 0)
			continue;
		*end = '\0';
		if (context_name(files.v[i], &name, &ignored) == 0)
			strv_add(ret, name.s);
	}
	strv_sort(ret);
	return 0;
}

/* ---- which one ---- */

int context_current(struct asset_name *ret, struct fcm_error *err)
{
	auto_free char *dir = own_dir(), *path = xprintf("%s/context", dir);
	_cleanup_(buf_done) struct buf text = {0};

	*ret = (struct asset_name){""};
	if (file_read(AT_FDCWD, path, CONTEXT_MAX, &text, err) < 0)
		return err->code == FCM_NOT_FOUND ? 0 : -1;
	if (text.n)
		text.p[strcspn(text.p, "\n")] = '\0';
	if (text.n && context_name(text.p, ret, err) == 0)
		return 0;
	fcm_fail(err, FCM_INVALID, "%s names no context", path);
	return fcm_hint(err, "fcm context use " CONTEXT_LOCAL ", or another one");
}

int context_use(const struct asset_name *name, struct fcm_error *err)
{
	auto_close int dir = open_dir("", err);
	auto_free char *line = xprintf("%s\n", name ? name->s : "");

	if (dir < 0)
		return -1;
	if (name)
		return file_write_atomic(dir, "context", 0600, line, strlen(line), err);
	return unlinkat(dir, "context", 0) == 0 || errno == ENOENT
		       ? 0
		       : fcm_fail_errno(err, "forget the context in use");
}

char *context_token_for(const char *url)
{
	_cleanup_(strv_done) struct strv names = {0};
	struct fcm_error ignored;
	struct asset_name name;
	char *token = NULL;

	if (context_list(&names, &ignored) < 0)
		return NULL;
	for (size_t i = 0; i < names.n && token == NULL; i++) {
		_cleanup_(context_done) struct context c = {0};
		if (context_name(names.v[i], &name, &ignored) == 0 &&
			context_load(&name, &c, &ignored) == 0 && c.url && strcmp(c.url, url) == 0)
			token = STEAL(c.token);
	}
	return token;
}
