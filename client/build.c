/*
 * fcm build: an image by a script. The daemon does all of it, in a VM that goes in any case; here its output is shown.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "client/command.h"
#include "client/out.h"
#include "client/paths.h"
#include "client/pull.h"
#include "client/report.h"
#include "client/term.h"
#include "common/crypt.h"
#include "common/model.h"

struct build_options {
	struct image_build rq;
	char *script_path;
};

static const struct field build_fields[] = {
	F(struct build_options, rq, FIELD_OBJECT, .sub = image_build_fields),
	F(struct build_options, script_path, FIELD_STR, .max = 4095),
	FIELD_END,
};

static const struct option_row options[] = {
	{"image-name", 0, "NAME", "rq.name", "the name of the new image"},
	{"script-path", 0, "FILE", "script_path", "the script; - is stdin"},
	{"from", 0, "IMAGE", "rq.from", "the image that it is built on (default base)"},
	{"env", 'e', "K=V", "rq.env", "environment of the script; repeatable"},
	{"cpus", 0, "N", "rq.cpus", "virtual CPUs for it (default 1)"},
	{"mem", 'm', "SIZE", "rq.memory", "memory for it: MiB, or with k, m, g, t (default 512)"},
	{"memory", 0, NULL, NULL, NULL},
	{"disk", 0, "SIZE", "rq.disk", "disk for it: MiB, or with k, m, g, t (default 8g)"},
	{0},
};

/* ---- the script ---- */

static int read_all(int fd, struct buf *ret, struct fcm_error *err)
{
	char piece[65536];
	ssize_t n;

	while ((n = read(fd, piece, sizeof piece)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fcm_fail_errno(err, "read it");
		buf_add(ret, piece, (size_t)n);
		if (ret->n > BUILD_MAX_SCRIPT)
			return fcm_fail(err, FCM_USAGE, "it is longer than %d KiB", BUILD_MAX_SCRIPT >> 10);
	}
	return 0;
}

static int open_script(const char *path, struct fcm_error *err)
{
	if (strcmp(path, "-") == 0 && isatty(STDIN_FILENO))
		return fcm_fail(err, FCM_USAGE, "stdin is a terminal, and - reads a script");
	return strcmp(path, "-") == 0 ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0) : path_open(path, err);
}

/* The text of it, the caller's, or NULL. */
static char *read_script(const char *path, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	auto_close int fd = open_script(path, err);

	if (fd < 0 || read_all(fd, &text, err) < 0)
		return NULL;
	if (text.n == 0) {
		fcm_fail(err, FCM_USAGE, "it is empty");
		return NULL;
	}
	auto_json field_json *exact = fj_exact(text.p, text.n);
	if (exact == NULL) {
		fcm_fail(err, FCM_USAGE, "it isn't text (UTF-8)");
		return NULL;
	}
	return xstrdup(text.p);
}

/* ---- how far it is ---- */

struct view {
	const char *name;
	bool quiet, open_line;
	struct guest_text text[2]; /* of its stdout and stderr, on a terminal */
	const char *step;	   /* what is done, or NULL */
	int64_t exit;		   /* the script's */
};

/* A script's output goes to stderr, for what it makes is the image. */
static void print_output(struct view *v, bool is_stderr, const struct buf *data)
{
	_cleanup_(buf_done) struct buf clean = {0};
	const struct buf *out = data;

	if (v->quiet || data->n == 0)
		return;
	term_progress_end();
	if (isatty(STDERR_FILENO)) {
		guest_text_add(&v->text[is_stderr], data->p, data->n, &clean);
		out = &clean;
	}
	fwrite(out->p ? out->p : "", 1, out->n, stderr);
	fflush(stderr);
	if (out->n)
		v->open_line = out->p[out->n - 1] != '\n';
}

static void on_output(struct view *v, const field_json *line)
{
	_cleanup_(buf_done) struct buf data = {0};
	const char *encoded = fj_get_str(line, "data_base64");

	if (*encoded)
		(void)!crypt_base64_decode(encoded, &data);
	else
		buf_str(&data, fj_get_str(line, "data"));
	print_output(v, strcmp(fj_get_str(line, "stream"), "stderr") == 0, &data);
}

/* A line of ours begins at the left. */
static void end_line(struct view *v)
{
	if (v->open_line && isatty(STDERR_FILENO))
		fputc('\n', stderr);
	v->open_line = false;
}

static const struct step_text steps[] = {
	{"image", "make a VM for it"},
	{"boot", "the VM boots"},
	{"script", NULL},
	{"quiet", "stop the VM"},
	{"pack", "pack what changed"},
	{"merge", "make the image"},
	{0},
};

static void on_event(void *arg, const field_json *line)
{
	const char *event = fj_get_str(line, "event");
	struct view *v = arg;

	if (strcmp(event, "output") == 0) {
		on_output(v, line);
		return;
	}
	end_line(v);
	if (strcmp(event, "exit") == 0)
		v->exit = fj_get_int(line, "exit", 0);
	if (strcmp(event, "step") == 0)
		report_step(steps, fj_get_str(line, "step"), &v->step);
	if (strcmp(event, "note") == 0 && !v->quiet)
		report_note("build", v->name, fj_get_str(line, "message"));
	if (v->step && !v->quiet)
		term_progress("build %s: %s", v->name, v->step);
	else
		term_progress_end();
}

/* ---- the command ---- */

static int build(
	struct cli *cli, const field_json *body, struct view *v, field_json **ret, struct fcm_error *err)
{
	int r = api_watch(cli->api, "/v1/images/build", body, on_event, v, ret, err);

	end_line(v);
	return r;
}

/* An image that isn't here is pulled, as a create does it. */
static int build_or_pull(struct cli *cli, const field_json *body, const char *from, struct view *v,
	field_json **ret, struct fcm_error *err)
{
	auto_json field_json *pulled = NULL;

	int r = build(cli, body, v, ret, err);
	if (r == 0 || err->code != FCM_NO_IMAGE || from[0] == '\0')
		return r;
	return pull_image(cli, from, NULL, &pulled, err) < 0 ? -1 : build(cli, body, v, ret, err);
}

static int check(const struct build_options *o, struct fcm_error *err)
{
	if (o->rq.name[0] && o->script_path)
		return 0;
	fcm_fail(err, FCM_USAGE, "build: %s is missing",
		o->rq.name[0] ? "--script-path FILE" : "--image-name NAME");
	return fcm_hint(
		err, "fcm build --image-name mine --script-path setup.sh; fcm image build makes base");
}

/* A script that failed ends the client as it ended. */
static int fail_script(struct cli *cli, const struct view *v, struct fcm_error *err)
{
	if (err->code != FCM_SCRIPT || v->exit < 1 || v->exit > 255)
		return -1;
	report(err);
	cli->status = (int)v->exit;
	return 0;
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	struct build_options *o = options_;
	auto_json field_json *image = NULL;
	auto_free struct view *v = xalloc(sizeof *v);
	_cleanup_(buf_done) struct buf size = {0};

	if (check(o, err) < 0)
		return -1;
	o->rq.script = read_script(o->script_path, err);
	if (o->rq.script == NULL)
		return fcm_wrap(err, "--script-path");
	auto_json field_json *body = field_encode(image_build_fields, &o->rq, true);
	*v = (struct view){.name = o->rq.name, .quiet = cli->globals.quiet};
	if (build_or_pull(cli, body, o->rq.spec.image, v, &image, err) < 0)
		return fail_script(cli, v, err);
	out_bytes(&size, fj_get_int(image, "on_disk", 0));
	out_result(cli, o->rq.name, image, "%.12s, %s on disk", fj_get_str(image, "digest"), size.p);
	return 0;
}

const struct command cmd_build = {
	.name = "build",
	.args = "--image-name NAME --script-path FILE",
	.summary = "build an image with a script",
	.example = "fcm build --image-name web --script-path setup.sh --from debian",
	.details = "The script runs as root in a VM of its own, which goes in any case; what it\n"
		   "changed there becomes a layer on that image's, and the whole an image as any\n"
		   "other:\n"
		   "  fcm build --image-name web --script-path setup.sh --from debian\n"
		   "  fcm create web\n"
		   "It is run by what its first line says (#!), else by /bin/sh; what it prints goes\n"
		   "to stderr. If it fails, or the build is interrupted, nothing is kept. The exit\n"
		   "status is the script's, 128 + N when signal N ended it, 125 when fcm itself\n"
		   "failed. What a VM has for itself isn't part of an image: host keys, host name,\n"
		   "resolvers, /etc/hosts, machine-id, and --env.",
	.flags = COMMAND_OWN_STATUS,
	.options = options,
	.fields = build_fields,
	.size = sizeof(struct build_options),
	.run = run,
};
