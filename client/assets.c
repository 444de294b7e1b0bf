/*
 * fcm assets: the program Firecracker from its project's releases, below the state directory, where the daemon finds it.
 * No API does this: it is root's to say which program runs VMs. Root runs it here, with the daemon's config.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "client/command.h"
#include "client/fetch.h"
#include "client/install.h"
#include "client/out.h"
#include "common/config.h"
#include "common/core/fileio.h"
#include "common/crypt.h"

struct assets_options {
	char *config, *file, *sha256;
};

static const struct field assets_fields[] = {
	F(struct assets_options, config, FIELD_STR, .max = 4095),
	F(struct assets_options, file, FIELD_STR, .max = 4095),
	F(struct assets_options, sha256, FIELD_STR, .max = 64),
	FIELD_END,
};

static const struct option_row options[] = {
	{"file", 0, "FILE", NULL, "the archive is here, beside its FILE.sha256.txt"},
	{"sha256", 0, "HEX", NULL, "the archive's sha256, instead of the published one"},
	{"config", 'c', "FILE", NULL, "the daemon's config (" CONFIG_FILE ")"},
	{0},
};

/* ---- places ---- */

static int load_config(const struct assets_options *o, struct fcmd_config *ret, struct fcm_error *err)
{
	config_init(ret);
	return config_load(ret, o->config ? o->config : CONFIG_FILE, o->config != NULL, err);
}

static int fail_shared(const char *name, struct fcm_error *err)
{
	fcm_fail(err, FCM_HOST, "%s: others than root could change what is in it", name);
	return fcm_hint(err, "chown root: it and chmod go-w it, or set state_dir in the config");
}

/* Open a directory that only we write to, made if it is missing. */
static int open_own(int dirfd, const char *name, struct fcm_error *err)
{
	struct stat st;

	if (mkdirat(dirfd, name, 0755) < 0 && errno != EEXIST)
		return fcm_fail_errno(err, "make %s", name);
	auto_close int fd = dir_open(dirfd, name, err);
	if (fd < 0)
		return -1;
	if (fstat(fd, &st) < 0)
		return fcm_fail_errno(err, "stat %s", name);
	if (st.st_uid != geteuid() || st.st_mode & (S_IWGRP | S_IWOTH))
		return fail_shared(name, err);
	return STEAL_FD(fd);
}

static int open_state(const struct fcmd_config *c, struct fcm_error *err)
{
	if (access(c->state_dir, F_OK) < 0 && errno == ENOENT && dir_make(c->state_dir, 0755, err) < 0)
		return -1;
	return open_own(AT_FDCWD, c->state_dir, err);
}

/* <state>/firecracker, to look. */
static int open_installed(const struct fcmd_config *c, struct fcm_error *err)
{
	auto_free char *path = xprintf("%s/firecracker", c->state_dir);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	if (errno == EACCES) {
		fcm_fail(err, FCM_FORBIDDEN, "only root may look into %s", path);
		return fcm_hint(err, "put sudo before it");
	}
	if (errno != ENOENT)
		return fcm_fail_errno(err, "open %s", path);
	fcm_fail(err, FCM_NOT_FOUND, "no firecracker is installed in %s", path);
	return fcm_hint(err, "get one: sudo fcm assets download firecracker");
}

/* ---- download ---- */

/* The release that the arguments name, else the file, else the one that fcm was tested with. */
static int find_release(
	const struct assets_options *o, const char *version, struct release *ret, struct fcm_error *err)
{
	if (version == NULL && o->file && release_of_file(o->file, ret))
		return 0;
	return release_parse(version ? version : FIRECRACKER_VERSION, ret, err);
}

static int check_options(struct assets_options *o, struct fcm_error *err)
{
	char digest[65];

	if (o->sha256 == NULL)
		return 0;
	if (!digest_parse(o->sha256, "", digest)) {
		fcm_fail(err, FCM_USAGE, "--sha256: '%s' isn't 64 hex digits", o->sha256);
		return fcm_hint(err, "it is the first word of the published .sha256.txt");
	}
	memcpy(o->sha256, digest, sizeof digest);
	return 0;
}

static int bring(const struct fetch *f, const char *file, int installed, struct fcm_error *err)
{
	if (flock(f->dirfd, LOCK_EX | LOCK_NB) < 0) /* until the directory is closed */
		return fcm_fail(err, FCM_BUSY, "another fcm assets download is at work");
	auto_close int archive = file ? fetch_file(f, file, err) : fetch_download(f, err);
	if (archive < 0)
		return -1;
	int r = install_release(installed, f->release, archive, err);
	fetch_done(f);
	return r;
}

static void print_installed(
	const struct cli *cli, const struct fcmd_config *c, const struct release *r, bool had)
{
	auto_free char *path = xprintf("%s/firecracker/%s/firecracker", c->state_dir, r->version);
	auto_free char *name = xprintf("firecracker %s", r->version);
	field_json *v = fj_object();

	fj_set_str(v, "name", "firecracker");
	fj_set_str(v, "version", r->version);
	fj_set_str(v, "path", path);
	out_result(cli, name, v, "%s as %s", had ? "is there already," : "installed", path);
	fj_free(v);
}

static bool is_whole(int installed, const struct release *r)
{
	field_json *rows = fj_array();
	bool whole = install_verify(installed, r->version, rows);

	fj_free(rows);
	return whole;
}

static int download_into(struct cli *cli, const struct fcmd_config *c, const struct assets_options *o,
	const struct release *r, struct fcm_error *err)
{
	auto_close int state = open_state(c, err);
	auto_close int installed = state < 0 ? -1 : open_own(state, "firecracker", err);
	auto_close int parts = installed < 0 ? -1 : open_own(state, "assets", err);
	struct fetch f = {.release = r, .mirrors = &c->assets_mirror, .digest = o->sha256, .dirfd = parts};

	if (parts < 0)
		return -1;
	bool had = o->file == NULL && is_whole(installed, r);
	if (had ? install_choose(installed, r, err) < 0 : bring(&f, o->file, installed, err) < 0)
		return -1;
	print_installed(cli, c, r, had);
	return 0;
}

static int download(struct cli *cli, struct assets_options *o, const char *version, struct fcm_error *err)
{
	struct release r;
	struct fcmd_config c;

	if (find_release(o, version, &r, err) < 0 || check_options(o, err) < 0)
		return -1;
	if (geteuid() != 0) {
		fcm_fail(err, FCM_FORBIDDEN, "only root may install firecracker");
		return fcm_hint(err, "sudo fcm assets download firecracker");
	}
	int result = load_config(o, &c, err);
	if (result == 0)
		result = download_into(cli, &c, o, &r, err);
	config_done(&c);
	return result;
}

/* ---- verify ---- */

static void text_version(const field_json *row, struct buf *b)
{
	out_text(b, fj_get_str(row, "version"));
}

static void text_file(const field_json *row, struct buf *b)
{
	out_text(b, fj_get_str(row, "file"));
}

static void text_status(const field_json *row, struct buf *b)
{
	out_text(b, fj_get_str(row, "status"));
}

static const struct column verify_columns[] = {
	{"file", "FILE", 0, text_file},
	{"version", "VERSION", 0, text_version},
	{"status", "STATUS", 0, text_status},
	{0},
};

/* Is that version among the installed ones? */
static bool has_version(const field_json *list, const char *version)
{
	for (size_t i = 0; i < fj_len(list); i++)
		if (strcmp(fj_get_str(fj_at(list, i), "version"), version) == 0)
			return true;
	return false;
}

static int verify_all(
	struct cli *cli, int installed, const field_json *list, const char *only, struct fcm_error *err)
{
	field_json *rows = fj_array();
	const char *bad = NULL;

	for (size_t i = 0; i < fj_len(list); i++) {
		const char *version = fj_get_str(fj_at(list, i), "version");
		if (only == NULL || strcmp(only, version) == 0)
			bad = install_verify(installed, version, rows) ? bad : version;
	}
	int r = out_list(cli, verify_columns, rows, err);
	fj_free(rows);
	fflush(stdout);
	if (bad) {
		out_hint("mend it: sudo fcm assets download firecracker %s", bad);
		cli->status = 1;
	}
	return r;
}

static int verify(struct cli *cli, const struct fcmd_config *c, const char *version, struct fcm_error *err)
{
	struct release wanted = {.version = ""};

	if (version && release_parse(version, &wanted, err) < 0)
		return -1;
	auto_close int installed = open_installed(c, err);
	if (installed < 0)
		return -1;
	field_json *list = install_list(installed);
	bool found = version ? has_version(list, wanted.version) : fj_len(list) > 0;
	int r = found ? verify_all(cli, installed, list, version ? wanted.version : NULL, err)
		      : fcm_fail(err, FCM_NOT_FOUND, "firecracker %s%sis not installed", wanted.version,
				version ? " " : "");
	fj_free(list);
	return found ? r : fcm_hint(err, "get it: sudo fcm assets download firecracker %s", wanted.version);
}

/* ---- ls ---- */

static void text_current(const field_json *row, struct buf *b)
{
	buf_str(b, fj_get_bool(row, "current") ? "yes" : "-");
}

static void text_sha256(const field_json *row, struct buf *b)
{
	out_text(b, fj_get_str(row, "sha256"));
}

static const struct column list_columns[] = {
	{"version", "VERSION", 0, text_version},
	{"current", "CURRENT", 0, text_current},
	{"sha256", "SHA256", COLUMN_CUT, text_sha256},
	{0},
};

static int list(struct cli *cli, const struct fcmd_config *c, struct fcm_error *err)
{
	auto_close int installed = open_installed(c, err);

	if (installed < 0 && err->code != FCM_NOT_FOUND)
		return -1;
	field_json *rows = installed < 0 ? fj_array() : install_list(installed);
	int r = out_list(cli, list_columns, rows, err);
	fflush(stdout);
	if (r == 0 && fj_len(rows) == 0)
		out_hint("there is none yet: sudo fcm assets download firecracker");
	fj_free(rows);
	return r;
}

/* ---- the command ---- */

static int look(struct cli *cli, const struct assets_options *o, const char *verb, const char *version,
	struct fcm_error *err)
{
	struct fcmd_config c;
	int r = load_config(o, &c, err);

	if (r == 0)
		r = strcmp(verb, "ls") == 0 ? list(cli, &c, err) : verify(cli, &c, version, err);
	config_done(&c);
	return r;
}

/* One of ours, and what stands behind it: firecracker [VERSION], or nothing behind ls. */
static int check_words(const char *verb, int argc, char **argv, struct fcm_error *err)
{
	bool list_them = strcmp(verb, "ls") == 0;

	if (!list_them && strcmp(verb, "download") != 0 && strcmp(verb, "verify") != 0)
		fcm_fail(err, FCM_USAGE, "there is no 'fcm assets %s'", verb);
	else if (argc > (list_them ? 0 : 2))
		fcm_fail(err, FCM_USAGE, "assets %s: '%s' is one argument too many", verb, argv[argc - 1]);
	else if (argc > 0 && strcmp(argv[0], "firecracker") != 0)
		fcm_fail(err, FCM_USAGE, "there is no asset '%s'", argv[0]);
	else
		return 0;
	return fcm_hint(err, "fcm assets download firecracker, verify firecracker, or ls");
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	struct assets_options *o = options_;
	bool alias = strcmp(cli->called, "download-assets") == 0;
	int skip = alias || cli->argc == 0 ? 0 : 1, argc = cli->argc - skip;
	const char *verb = alias ? "download" : skip ? cli->argv[0] : "ls";
	char **argv = cli->argv + skip;

	if (check_words(verb, argc, argv, err) < 0)
		return -1;
	crypt_init();
	if (strcmp(verb, "download") == 0)
		return download(cli, o, argc == 2 ? argv[1] : NULL, err);
	if (o->file == NULL && o->sha256 == NULL)
		return look(cli, o, verb, argc == 2 ? argv[1] : NULL, err);
	fcm_fail(err, FCM_USAGE, "assets %s takes neither --file nor --sha256", verb);
	return fcm_hint(err, "they are for fcm assets download");
}

const struct command cmd_assets = {
	.name = "assets",
	.aliases = "download-assets",
	.args = "download|verify|ls [firecracker [VERSION]]",
	.summary = "install the VMM Firecracker, verify it, list what is there",
	.example = "sudo fcm assets download",
	.details =
		"download gets the project's own release, or that of a mirror (assets_mirror in\n"
		"the config), checks its sha256 and installs it as the one that the daemon runs.\n"
		"It goes on where a broken connection ended. VERSION is " FIRECRACKER_VERSION " by default.\n"
		"Without a network: carry the project's archive here with its .sha256.txt and use\n"
		"--file. Behind a proxy: sudo https_proxy=URL fcm assets download\n"
		"download-assets is assets download. The exit status of verify is 1 when a file\n"
		"has changed or is missing.",
	.max_args = 3,
	.options = options,
	.fields = assets_fields,
	.size = sizeof(struct assets_options),
	.flags = COMMAND_TABLE,
	.run = run,
};
