/*
 * Whatever it is, it goes to the daemon as the body of a request, and the daemon sees from the bytes what it is. A directory becomes an archive
 * on the way. What only docker or podman can read is read by skopeo, as the calling user, into a file that has lost its name before it is sent.
 */
#include "client/import.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "client/child.h"
#include "client/cp.h"
#include "client/out.h"
#include "client/paths.h"
#include "client/term.h"
#include "common/core/ref.h"
#include "common/model.h"

enum { PROGRESS_STEP = 256 << 10 };

/* Stores that skopeo reads for us. */
static const char *const stores[] = {"docker-daemon:", "containers-storage:"};

const struct field import_fields[] = {
	F(struct import_options, name, FIELD_STR, .max = REF_TEXT - 1),
	F(struct import_options, cmd, FIELD_STRV, .max = EXEC_MAX_WORDS),
	F(struct import_options, entrypoint, FIELD_STRV, .max = EXEC_MAX_WORDS),
	F(struct import_options, env, FIELD_STRV, .max = VM_MAX_ENV),
	F(struct import_options, workdir, FIELD_STR, .max = 1023),
	F(struct import_options, user, FIELD_STR, .max = 64),
	FIELD_END,
};

/* ---- the request ---- */

static void set_list(field_json *config, const char *key, const struct strv *l)
{
	field_json *list = fj_array();

	for (size_t i = 0; i < l->n; i++)
		fj_append(list, fj_str(l->v[i]));
	if (l->n)
		fj_set(config, key, list);
	else
		fj_free(list);
}

/* As "config" of an OCI config has it; NULL when nothing was said. */
static char *config_of(const struct import_options *o)
{
	auto_json field_json *config = fj_object();

	set_list(config, "Cmd", &o->cmd);
	set_list(config, "Entrypoint", &o->entrypoint);
	set_list(config, "Env", &o->env);
	if (o->workdir)
		fj_set_str(config, "WorkingDir", o->workdir);
	if (o->user)
		fj_set_str(config, "User", o->user);
	return fj_next_key(config, NULL) ? fj_print(config, false) : NULL;
}

static char *path_of(const struct import_options *o)
{
	auto_free char *config = config_of(o), *name = o->name ? httpc_escape(o->name) : NULL,
		       *runs = config ? httpc_escape(config) : NULL;

	return xprintf("/v1/images/import%s%s%s%s", name ? "?name=" : "", name ? name : "",
		runs ? (name ? "&config=" : "?config=") : "", runs ? runs : "");
}

/* ---- bytes whose number nobody knows ---- */

struct sending {
	int fd;
	const char *what;
	uint64_t moved, shown;
	struct fcm_error err;
};

static ssize_t give(void *arg, char *p, size_t n)
{
	struct sending *s = arg;
	ssize_t got;

	while ((got = read(s->fd, p, n)) < 0 && errno == EINTR)
		;
	if (got < 0)
		return fcm_fail_errno(&s->err, "read it");
	if (got == 0)
		term_progress("%s: the daemon works on it", s->what);
	s->moved += (uint64_t)got;
	if (s->moved - s->shown >= PROGRESS_STEP) {
		s->shown = s->moved;
		out_progress(s->what, s->moved, 0);
	}
	return got;
}

static int send_stream(
	struct cli *cli, const char *path, int fd, const char *what, field_json **ret, struct fcm_error *err)
{
	struct sending s = {.fd = fd, .what = what};

	term_progress("%s", what);
	int r = api_send(cli->api, "POST", path, give, &s, ret, err);
	term_progress_end();
	if (r < 0 && s.err.code != FCM_OK)
		*err = s.err;
	return r;
}

/* ---- where it comes from ---- */

static int send_directory(struct cli *cli, const char *path, const char *dir, const char *what,
	field_json **ret, struct fcm_error *err)
{
	struct packing p;
	struct fcm_error packer;

	if (cp_pack(dir, &p, err) < 0)
		return -1;
	int r = send_stream(cli, path, p.fd, what, ret, err);
	if (cp_pack_end(&p, &packer) == 0 || packer.code == FCM_CANCELLED)
		return r;
	*err = packer;
	return -1;
}

static int send_fd(
	struct cli *cli, const char *path, int fd, const char *what, field_json **ret, struct fcm_error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return fcm_fail_errno(err, "look at it");
	if (S_ISDIR(st.st_mode))
		return fcm_fail(err, FCM_USAGE, "it is a directory");
	if (S_ISREG(st.st_mode) && st.st_size > 0)
		return api_upload(cli->api, "POST", path, fd, (uint64_t)st.st_size, what, ret, err);
	return send_stream(cli, path, fd, what, ret, err);
}

int import_file(struct cli *cli, const char *path, const char *place, field_json **ret, struct fcm_error *err)
{
	auto_free char *what = xprintf("import %s", place);

	if (strcmp(place, "-") == 0)
		return send_stream(cli, path, STDIN_FILENO, what, ret, err);
	auto_close int fd = path_open(place, err);
	return fd < 0 ? -1 : send_fd(cli, path, fd, what, ret, err);
}

static int send_place(struct cli *cli, const char *path, const char *place, const char *what,
	field_json **ret, struct fcm_error *err)
{
	struct stat st;

	if (strcmp(place, "-") == 0 && isatty(STDIN_FILENO)) {
		fcm_fail(err, FCM_USAGE, "image import: stdin is a terminal, and - reads an image");
		return fcm_hint(err, "docker save NAME | fcm image import -");
	}
	if (strcmp(place, "-") == 0)
		return send_stream(cli, path, STDIN_FILENO, what, ret, err);
	auto_close int fd = path_open(place, err);
	if (fd < 0)
		return -1;
	if (fstat(fd, &st) < 0)
		return fcm_fail_errno(err, "look at it");
	return S_ISDIR(st.st_mode) ? send_directory(cli, path, place, what, ret, err)
				   : send_fd(cli, path, fd, what, ret, err);
}

/* ---- docker's and podman's stores ---- */

static const char *store_of(const char *place)
{
	for (size_t i = 0; i < ARRAY_SIZE(stores); i++)
		if (strncmp(place, stores[i], strlen(stores[i])) == 0)
			return stores[i];
	return NULL;
}

static int fail_skopeo(const char *store, struct fcm_error *err)
{
	if (err->code != FCM_NOT_FOUND)
		return -1;
	fcm_fail(err, FCM_HOST, "skopeo isn't installed, which reads '%s'", store);
	return fcm_hint(err, "sudo apt-get install skopeo; or: docker save NAME | fcm image import -");
}

/* A docker archive keeps the image's config as it is, and with it its id. docker wants a whole name, and what isn't one is an id. */
static int run_skopeo(const char *place, const char *store, const char *file, struct fcm_error *err)
{
	const char *name = place + strlen(store);
	struct fcm_error ignored;
	struct ref ref;
	bool named = ref_parse(name, "name", &ref, &ignored) == 0 && ref.digest[0] == '\0';
	auto_free char *from = xprintf("%s%s", store, named && store == stores[0] ? ref_full(&ref).s : name);
	auto_free char *to =
		xprintf("docker-archive:%s%s%s", file, named ? ":" : "", named ? ref_full(&ref).s : "");
	const char *const argv[] = {"skopeo", "copy", "--quiet", from, to, NULL};

	return child_run(argv, err) < 0 ? fail_skopeo(store, err) : 0;
}

static int send_store(struct cli *cli, const char *path, const char *place, const char *store,
	field_json **ret, struct fcm_error *err)
{
	auto_free char *dir = child_directory("fcm-import", err);
	auto_free char *file = dir ? xprintf("%s/image.tar", dir) : NULL;

	if (dir == NULL)
		return -1;
	out_hint("skopeo reads %s", place);
	int r = run_skopeo(place, store, file, err);
	auto_close int fd = r == 0 ? open(file, O_RDONLY | O_CLOEXEC) : -1;
	if (r == 0 && fd < 0)
		r = fcm_fail_errno(err, "open what skopeo wrote");
	unlink(file);
	rmdir(dir);
	return r < 0 ? -1 : send_fd(cli, path, fd, place, ret, err);
}

/* ---- the command ---- */

/* As people write it. */
static struct ref_text short_name(const char *whole)
{
	struct ref_text text = {""};
	struct fcm_error ignored;
	struct ref ref;

	if (ref_parse(whole, "name", &ref, &ignored) == 0)
		return ref_short(&ref);
	(void)fcm_copy(text.s, sizeof text.s, whole);
	return text;
}

static void print_imported(const struct cli *cli, const field_json *image)
{
	_cleanup_(buf_done) struct buf size = {0};
	const field_json *names = fj_get(image, "added");
	const char *digest = fj_get_str(image, "digest");

	out_bytes(&size, fj_get_int(image, "on_disk", 0));
	out_result(cli, fj_len(names) ? short_name(fj_text(fj_at(names, 0))).s : digest, image,
		"%.12s, %s on disk", digest, size.p);
	if (cli->globals.json)
		return;
	for (size_t i = 1; i < fj_len(names); i++)
		out_hint("    also   %s", short_name(fj_text(fj_at(names, i))).s);
	if (fj_len(names) == 0)
		out_hint("    it has no name: fcm image tag %.12s NAME", digest);
}

int image_import(struct cli *cli, const struct import_options *o, const char *place, struct fcm_error *err)
{
	auto_json field_json *before = NULL, *image = NULL;
	auto_free char *path = path_of(o), *what = xprintf("import %s", place);
	const char *store = store_of(place);

	/* ask the daemon first: gigabytes for one that isn't there would be a pity */
	if (api_get(cli->api, "/v1", &before, err) < 0)
		return -1;
	int r = store ? send_store(cli, path, place, store, &image, err)
		      : send_place(cli, path, place, what, &image, err);
	if (r < 0)
		return fcm_wrap(err, "import '%.100s'", place);
	print_imported(cli, image);
	return 0;
}
