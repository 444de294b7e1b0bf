/*
 * fcm login, fcm logout: credentials for a registry. The daemon asks the registry whether it takes them and keeps nothing; they are
 * kept where docker's and podman's are, and go with each pull.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "client/command.h"
#include "client/credentials.h"
#include "client/out.h"
#include "client/term.h"

enum { USER_MAX = 255, PASSWORD_MAX = 4095 };

struct login_options {
	char *user;
	bool password_stdin;
};

static const struct field login_fields[] = {
	F(struct login_options, user, FIELD_STR, .max = USER_MAX),
	F(struct login_options, password_stdin, FIELD_BOOL),
	FIELD_END,
};

static const struct option_row options[] = {
	{"username", 'u', "USER", "user", "who you are there; else you are asked"},
	{"password-stdin", 0, NULL, "password_stdin", "read the password, or token, from stdin"},
	{0},
};

/* ---- which registry ---- */

struct place {
	char key[512];	    /* "docker.io", "ghcr.io/owner" */
	char registry[256]; /* without the path */
};

static int fail_place(const char *text, struct fcm_error *err)
{
	fcm_fail(err, FCM_USAGE, "'%.80s' is no registry", text);
	return fcm_hint(err, "write it as HOST, HOST:PORT or HOST/PATH, such as ghcr.io or docker.io");
}

/* As people write it: maybe as a URL, maybe with the begin of a path. */
static int parse_place(const char *text, struct place *ret, struct fcm_error *err)
{
	const char *scheme = strstr(text, "://"), *s = scheme ? scheme + 3 : text;
	auto_free char *image = NULL;
	struct fcm_error ignored;
	struct ref ref;

	if (!fcm_copy(ret->key, sizeof ret->key, s))
		return fail_place(text, err);
	for (size_t n = strlen(ret->key); n && ret->key[n - 1] == '/'; n--)
		ret->key[n - 1] = '\0';
	const char *path = strchrnul(ret->key, '/');
	if (!fcm_format(ret->registry, sizeof ret->registry, "%.*s", (int)(path - ret->key), ret->key) ||
		!ref_registry_valid(ret->registry))
		return fail_place(text, err);
	image = xprintf("%s/x", ret->key); /* what is below a path must be an image's name */
	if (ref_parse(image, "registry", &ref, &ignored) < 0)
		return fail_place(text, err);
	if (auth_key_is(ret->registry, REF_HUB)) {
		auto_free char *rest = xstrdup(path);
		(void)fcm_format(ret->key, sizeof ret->key, REF_HUB "%s", rest);
		(void)fcm_copy(ret->registry, sizeof ret->registry, REF_HUB);
	}
	return 0;
}

/* ---- who ---- */

static int fail_ask(struct fcm_error *err)
{
	if (err->code == FCM_USAGE)
		fcm_hint(err, "fcm login -u USER --password-stdin REGISTRY <FILE");
	return fcm_wrap(err, "login");
}

static int ask(const struct login_options *o, struct credentials *ret, struct fcm_error *err)
{
	char user[USER_MAX + 2], password[PASSWORD_MAX + 2];

	if (o->password_stdin && o->user == NULL)
		return fcm_fail(err, FCM_USAGE, "login: --password-stdin goes with -u");
	if (o->user == NULL && term_ask("Username: ", true, user, sizeof user, err) < 0)
		return fail_ask(err);
	if (o->password_stdin ? term_read("password", password, sizeof password, err) < 0
			      : term_ask("Password: ", false, password, sizeof password, err) < 0)
		return fail_ask(err);
	const char *name = o->user ? o->user : user;
	if (*name == '\0' || strchr(name, ':'))
		return fcm_fail(err, FCM_USAGE, "login: a user's name isn't empty and has no ':'");
	if (*password == '\0')
		return fcm_fail(err, FCM_USAGE, "login: the password is empty");
	*ret = (struct credentials){xstrdup(name), xstrdup(password)};
	return 0;
}

/* ---- login ---- */

static int check(
	struct cli *cli, const struct place *place, const struct credentials *c, struct fcm_error *err)
{
	auto_json field_json *body = fj_object();
	auto_json field_json *answer = NULL;

	fj_set_str(body, "registry", place->registry);
	if (credentials_put(c, body, err) < 0)
		return -1;
	term_progress("ask %s", place->registry);
	int r = api_change(cli->api, "POST", "/v1/registries/check", body, NULL, &answer, err);
	term_progress_end();
	return r;
}

static int run_login(struct cli *cli, void *options_, struct fcm_error *err)
{
	_cleanup_(credentials_done) struct credentials c = {0};
	auto_json field_json *result = fj_object();
	auto_free char *file = NULL;
	struct place place;

	if (parse_place(cli->argv[0], &place, err) < 0 || ask(options_, &c, err) < 0 ||
		check(cli, &place, &c, err) < 0 || credentials_store(place.key, &c, &file, err) < 0)
		return -1;
	fj_set_str(result, "registry", place.key);
	fj_set_str(result, "user", c.user);
	fj_set_str(result, "file", file);
	out_result(cli, place.key, result, "%s is logged in; %s has it", c.user, file);
	return 0;
}

const struct command cmd_login = {
	.name = "login",
	.args = "REGISTRY",
	.summary = "keep credentials for a registry",
	.example = "fcm login ghcr.io -u ada --password-stdin <token",
	.details = "REGISTRY is a host such as docker.io or ghcr.io, also with a port, or with the\n"
		   "begin of a path: ghcr.io/owner. The daemon asks it whether it takes them. They\n"
		   "are kept where podman's and docker's are, and found where those keep theirs:\n"
		   "REGISTRY_AUTH_FILE, else $XDG_RUNTIME_DIR/containers/auth.json, which is gone\n"
		   "after a reboot, ~/.config/containers/auth.json, ~/.docker/config.json; also by\n"
		   "their credential helpers.",
	.min_args = 1,
	.max_args = 1,
	.options = options,
	.fields = login_fields,
	.size = sizeof(struct login_options),
	.run = run_login,
};

/* ---- logout ---- */

static int run_logout(struct cli *cli, void *options_, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv files = {0};
	_cleanup_(buf_done) struct buf names = {0};
	auto_json field_json *result = fj_object();
	field_json *list = fj_array();
	struct place place;

	(void)options_;
	fj_set(result, "files", list);
	if (parse_place(cli->argv[0], &place, err) < 0 || credentials_erase(place.key, &files, err) < 0)
		return -1;
	if (files.n == 0) {
		fcm_fail(err, FCM_NOT_FOUND, "nobody is logged in to %s", place.key);
		return fcm_hint(err, "fcm login %s", place.key);
	}
	for (size_t i = 0; i < files.n; i++) {
		fj_append(list, fj_str(files.v[i]));
		buf_printf(&names, "%s%s", i ? ", " : "", files.v[i]);
	}
	fj_set_str(result, "registry", place.key);
	out_result(cli, place.key, result, "logged out; forgotten in %s", names.p);
	return 0;
}

const struct command cmd_logout = {
	.name = "logout",
	.args = "REGISTRY",
	.summary = "forget the credentials for a registry",
	.example = "fcm logout ghcr.io",
	.details = "In all files that fcm login names, so podman and docker have forgotten them as\n"
		   "well. Those for a path (ghcr.io/owner) are others than those for its registry.",
	.min_args = 1,
	.max_args = 1,
	.run = run_logout,
};
