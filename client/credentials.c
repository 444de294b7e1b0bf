#include "client/credentials.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "client/capture.h"
#include "client/where.h"
#include "common/core/fileio.h"

enum { FILE_BYTES = 1 << 20, ANSWER_BYTES = 64 << 10 };

/* ---- helpers: docker-credential-NAME store|get|erase, JSON at stdin and stdout (docker-credential-helpers, README) ---- */

/* FCM_NOT_FOUND: it has none. */
static int run_helper(
	const char *name, const char *action, const char *input, struct buf *ret, struct fcm_error *err)
{
	static const char none[] =
		"credentials not found"; /* in native keychain: docker-credential-helpers */
	auto_free char *program = xprintf("docker-credential-%s", name);
	int status;

	if (capture((const char *[]){program, action, NULL}, input, ANSWER_BYTES, ret, &status, err) < 0)
		return -1;
	const char *answer = ret->n ? ret->p : "";
	if (status != 0 && strncmp(answer, none, sizeof none - 1) == 0)
		return fcm_fail(err, FCM_NOT_FOUND, "%s has none", program);
	if (status != 0)
		return fcm_fail(err, FCM_HOST, "%s %s: %.*s", program, action, (int)strcspn(answer, "\n"),
			*answer ? answer : "failed");
	return 0;
}

/* The registry as helpers call it. */
static const char *server_of(const char *registry)
{
	return strcmp(registry, REF_HUB) == 0 ? AUTH_HUB : registry;
}

/* 1 with *ret, or 0. */
static int ask_helper(const char *name, const char *registry, struct credentials *ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf answer = {0};

	if (run_helper(name, "get", server_of(registry), &answer, err) < 0)
		return err->code == FCM_NOT_FOUND ? 0 : -1;
	auto_json field_json *v = fj_parse(answer.p ? answer.p : "", answer.n, err);
	const char *user = v ? fj_get_str(v, "Username") : "";
	if (v == NULL || *user == '\0')
		return fcm_fail(err, FCM_INVALID, "docker-credential-%s says no Username", name);
	*ret = (struct credentials){xstrdup(user), xstrdup(fj_get_str(v, "Secret"))};
	return 1;
}

static int tell_helper(
	const char *name, const char *registry, const struct credentials *c, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf ignored = {0};
	auto_json field_json *v = fj_object();

	if (c == NULL)
		return run_helper(name, "erase", server_of(registry), &ignored, err);
	fj_set_str(v, "ServerURL", server_of(registry));
	fj_set(v, "Username", fj_exact(c->user, strlen(c->user)));
	fj_set(v, "Secret", fj_exact(c->password, strlen(c->password)));
	auto_free char *text = fj_print(v, false);
	return run_helper(name, "store", text, &ignored, err);
}

/* ---- files ---- */

static const char *set(const char *name)
{
	const char *value = getenv(name);

	return value && *value ? value : NULL;
}

static void find_paths(struct strv *ret)
{
	const char *file = set("REGISTRY_AUTH_FILE"), *runtime = set("XDG_RUNTIME_DIR");
	const char *config = set("XDG_CONFIG_HOME"), *docker = set("DOCKER_CONFIG");

	if (file) {
		strv_add(ret, file);
		return;
	}
	if (runtime)
		strv_addf(ret, "%s/containers/auth.json", runtime);
	else
		strv_addf(ret, "/run/containers/%u/auth.json", geteuid());
	if (config)
		strv_addf(ret, "%s/containers/auth.json", config);
	else
		strv_addf(ret, "%s/.config/containers/auth.json", home_dir());
	if (docker)
		strv_addf(ret, "%s/config.json", docker);
	else
		strv_addf(ret, "%s/.docker/config.json", home_dir());
}

/* Its JSON; an empty object where there is no file, or nothing in it. A user may keep a link there. */
static field_json *load(const char *path, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	auto_free char *real = realpath(path, NULL);

	if (real == NULL && errno != ENOENT && errno != EACCES) {
		fcm_fail_errno(err, "open %s", path);
		return NULL;
	}
	if (real == NULL)
		return fj_object();
	if (file_read(AT_FDCWD, real, FILE_BYTES, &text, err) < 0)
		return NULL;
	if (text.n == 0)
		return fj_object();
	field_json *v = fj_parse(text.p, text.n, err);
	if (v == NULL)
		fcm_wrap(err, "%s", path);
	return v;
}

static int save(const char *path, const field_json *file, struct fcm_error *err)
{
	auto_free char *real = realpath(path, NULL);
	auto_free char *text = fj_print(file, true);
	auto_free char *all = xprintf("%s\n", text);

	return file_write_atomic(AT_FDCWD, real ? real : path, 0600, all, strlen(all), err);
}

/* May a file be made there? Directories that are missing are. */
static bool has_place(const char *path)
{
	const char *slash = strrchr(path, '/');
	auto_free char *folder = xprintf("%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
	struct fcm_error ignored;

	return access(folder, W_OK | X_OK) == 0 || (errno == ENOENT && dir_make(folder, 0700, &ignored) == 0);
}

/* Put them into that file, or (NULL) take them away: 1 when something was there before, else 0. */
static int change(const char *path, const char *key, const struct credentials *c, struct fcm_error *err)
{
	auto_free char *registry = xprintf("%.*s", (int)strcspn(key, "/"), key);
	auto_json field_json *file = load(path, err);

	if (file == NULL)
		return -1;
	if (!fj_is_object(file))
		return fcm_fail(err, FCM_INVALID, "%s is no JSON object", path);
	const char *helper = auth_helper(file, registry);
	bool had = auth_set(file, key, helper ? NULL : c);
	if ((had || (c && helper == NULL)) && save(path, file, err) < 0)
		return -1;
	if (helper && tell_helper(helper, registry, c, err) == 0)
		return 1;
	return helper && err->code != FCM_NOT_FOUND ? fcm_wrap(err, "%s", path) : had;
}

/* ---- the interface ---- */

static int find_in(const char *path, const struct ref *ref, struct credentials *ret, struct fcm_error *err)
{
	auto_json field_json *file = load(path, err);
	struct auth_entry e;

	if (file == NULL)
		return -1;
	if (auth_look(file, ref, &e, err) < 0)
		return fcm_wrap(err, "%s", path);
	if (e.kind == AUTH_HELPER) {
		int r = ask_helper(e.helper, ref->domain, ret, err);
		return r < 0 ? fcm_wrap(err, "%s", path) : r;
	}
	*ret = e.plain;
	return e.kind == AUTH_PLAIN;
}

int credentials_find(const struct ref *ref, struct credentials *ret, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv paths = {0};
	int r = 0;

	find_paths(&paths);
	for (size_t i = 0; i < paths.n && r == 0; i++)
		r = find_in(paths.v[i], ref, ret, err);
	return r;
}

int credentials_put(const struct credentials *c, field_json *body, struct fcm_error *err)
{
	field_json *user = fj_exact(c->user, strlen(c->user));
	field_json *password = fj_exact(c->password, strlen(c->password));

	if (user && password) {
		fj_set(body, "user", user);
		fj_set(body, "password", password);
		return 0;
	}
	fj_free(user);
	fj_free(password);
	return fcm_fail(err, FCM_INVALID, "user and password must be UTF-8");
}

int credentials_store(const char *key, const struct credentials *c, char **ret_file, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv paths = {0};

	find_paths(&paths);
	for (size_t i = 0; i < paths.n; i++) {
		if (!has_place(paths.v[i]))
			continue;
		*ret_file = xstrdup(paths.v[i]);
		return change(paths.v[i], key, c, err) < 0 ? -1 : 0;
	}
	fcm_fail(err, FCM_HOST, "%s can't be written", paths.v[0]);
	return fcm_hint(err, "name another file: REGISTRY_AUTH_FILE=FILE");
}

int credentials_erase(const char *key, struct strv *ret_files, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv paths = {0};
	int all = 0;

	find_paths(&paths);
	for (size_t i = 0; i < paths.n; i++) {
		int r = change(paths.v[i], key, NULL, err);
		if (r > 0)
			strv_add(ret_files, paths.v[i]);
		all = MIN(all, r);
	}
	return all;
}
