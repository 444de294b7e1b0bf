#include "client/create.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "client/clone.h"
#include "client/cp.h"
#include "client/imageverb.h"
#include "client/out.h"
#include "client/pull.h"
#include "client/sshkey.h"
#include "client/term.h"
#include "client/vmtext.h"
#include "common/core/clock.h"
#include "common/core/fileio.h"

#define VM_KEY "vm."
#define MAIN_KEY "vm.main."
#define HEALTH_KEY "health."

static const char *const pull_names[] = {"missing", "always", "never", NULL};

const struct field create_fields[] = {
	F(struct create_options, vm, FIELD_OBJECT, .sub = vm_create_fields),
	F(struct create_options, key_files, FIELD_STRV, .max = VM_MAX_KEYS),
	F(struct create_options, maps, FIELD_STRV, .max = VM_MAX_VOLUMES),
	F(struct create_options, env, FIELD_STRV, .max = VM_MAX_ENV),
	F(struct create_options, env_files, FIELD_STRV, .max = VM_MAX_ENV),
	F(struct create_options, ready, FIELD_OBJECT, .sub = ready_options_fields),
	F(struct create_options, health, FIELD_OBJECT, .sub = health_fields),
	F(struct create_options, detach, FIELD_BOOL),
	F(struct create_options, snapshot, FIELD_CHARS),
	F(struct create_options, pull, FIELD_ENUM, .names = pull_names),
	FIELD_END,
};

#define RESTART_DOC "no, on-failure, always or unless-stopped (the default)"

static const struct option_row options[] = {
	CREATE_OPTIONS,
	{0},
};

/* The lines of a public key file. The daemon checks each key; the usual mistake is caught here, before the private
 * half leaves the machine. */
static int add_key_file(field_json *keys, const char *path, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	char *rest, *line;

	if (file_read(AT_FDCWD, path, 65536, &text, err) < 0) {
		err->code = FCM_USAGE;
		fcm_hint(err, "name a public key, like ~/.ssh/id_ed25519.pub");
		return fcm_wrap(err, "--ssh-key");
	}
	if (text.n && strstr(text.p, "PRIVATE KEY")) {
		fcm_fail(err, FCM_USAGE, "--ssh-key: %s is a private key", path);
		return fcm_hint(err, "name its public half: %s.pub", path);
	}
	for (rest = text.n ? text.p : NULL; (line = strsep(&rest, "\n")) != NULL;) {
		for (size_t n = strlen(line); n && isspace((unsigned char)line[n - 1]); n--)
			line[n - 1] = '\0';
		if (*line && *line != '#')
			fj_append(keys, fj_str(line));
	}
	return 0;
}

/* The files that were named, and the key that fcm ssh uses: then the first boot knows it already. */
static int collect_keys(const struct create_options *o, field_json *keys, struct fcm_error *err)
{
	auto_free char *own = sshkey_public_if_any();

	for (size_t i = 0; i < o->key_files.n; i++)
		if (add_key_file(keys, o->key_files.v[i], err) < 0)
			return -1;
	if (own)
		fj_append(keys, fj_str(own));
	return 0;
}

/* As docker has it: K=V, or K alone for a variable of our own, which may be unset. */
static int add_env(struct cli *cli, struct create_options *o, const char *text, struct fcm_error *err)
{
	const char *value = strchr(text, '=') ? NULL : getenv(text);
	auto_free char *entry = value ? xprintf("%s=%s", text, value) : xstrdup(text);

	if (strchr(entry, '=') == NULL)
		return 0;
	if (!strv_has(&cli->given, "vm.env"))
		strv_add(&cli->given, "vm.env");
	return field_set_text(vm_create_fields, &o->vm, "env", entry, err);
}

/* One a line; # begins a comment. */
static int add_env_file(struct cli *cli, struct create_options *o, const char *path, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	char *rest, *line;

	if (file_read(AT_FDCWD, path, 1 << 20, &text, err) < 0) {
		err->code = FCM_USAGE;
		return fcm_wrap(err, "--env-file");
	}
	for (rest = text.n ? text.p : NULL; (line = strsep(&rest, "\n")) != NULL;) {
		line += strspn(line, " \t");
		line[strcspn(line, "\r")] = '\0';
		if (*line && *line != '#' && add_env(cli, o, line, err) < 0)
			return fcm_wrap(err, "--env-file %s", path);
	}
	return 0;
}

/* What stands on the command line counts more than what a file says. */
static int add_all_env(struct cli *cli, struct create_options *o, struct fcm_error *err)
{
	for (size_t i = 0; i < o->env_files.n; i++)
		if (add_env_file(cli, o, o->env_files.v[i], err) < 0)
			return -1;
	for (size_t i = 0; i < o->env.n; i++)
		if (add_env(cli, o, o->env.v[i], err) < 0) {
			auto_free char *why = xprintf("--%s", err->msg);
			fcm_copy(err->msg, sizeof err->msg, why);
			return -1;
		}
	return 0;
}

/* ---- --map: a copy, in a volume that goes with the VM ---- */

/* Where the directory ends; NULL when there is no ":/" behind one. */
static char *map_colon(const char *map)
{
	char *colon = strrchr(map, ':');

	return colon && colon != map && colon[1] == '/' ? colon : NULL;
}

/* Each is a volume without a name, and the main process waits for what comes into it. What can't be copied is found before anything
 * is made. */
static int add_maps(struct cli *cli, struct create_options *o, struct fcm_error *err)
{
	struct stat st;

	for (size_t i = 0; i < o->maps.n; i++) {
		const char *map = o->maps.v[i], *colon = map_colon(map);
		if (colon == NULL)
			return fcm_fail(err, FCM_USAGE, "--map: '%s' is not DIR:/PATH", map);
		auto_free char *dir = xprintf("%.*s", (int)(colon - map), map);
		if (stat(dir, &st) < 0)
			return fcm_fail(err, FCM_NOT_FOUND, "--map: %s: %s", dir, strerror(errno));
		if (!S_ISDIR(st.st_mode))
			return fcm_fail(err, FCM_USAGE, "--map: %s is no directory", dir);
		strv_add(&o->vm.spec.volumes, colon + 1);
	}
	if (o->maps.n == 0)
		return 0;
	o->vm.spec.hold = true;
	strv_add(&cli->given, "vm.volumes");
	strv_add(&cli->given, "vm.hold");
	return 0;
}

/* Now that all is there. *vm becomes what the VM is then. */
static int start_main(struct cli *cli, const char *doing, field_json **vm, struct fcm_error *err)
{
	auto_free char *path = api_vm_path(fj_get_str(*vm, "name"), "/start");
	field_json *started = NULL;

	if (!fj_get_bool(*vm, "hold"))
		return 0;
	if (api_change(cli->api, "POST", path, NULL, doing, &started, err) < 0)
		return -1;
	fj_set_int(started, "took_ms", fj_get_int(*vm, "took_ms", 0) + fj_get_int(started, "took_ms", 0));
	fj_free(*vm);
	*vm = started;
	return 0;
}

/* A VM without what its user wanted in it is none. */
static int remove_unfilled(struct cli *cli, const char *name, struct fcm_error *err)
{
	auto_free char *path = api_vm_path(name, "?force=1");
	auto_json field_json *gone = NULL;
	struct fcm_error ignored;

	if (api_change(cli->api, "DELETE", path, NULL, NULL, &gone, &ignored) == 0)
		return fcm_wrap(err, "--map: the VM is gone again");
	fcm_hint(err, "fcm destroy %.63s", name);
	return fcm_wrap(err, "--map: the VM '%.63s' stays, without its files", name);
}

/* The note is for who interrupts it; it outlives the line of progress, which a copy ends. */
static int copy_maps(struct cli *cli, const struct create_options *o, const char *name, struct fcm_error *err)
{
	auto_free char *note = xprintf("fcm: the VM stays, without its files: fcm destroy %s\n", name);
	int r = 0;

	fcm_make_printable(note);
	term_interrupt_note(note);
	for (size_t i = 0; r == 0 && i < o->maps.n; i++) {
		const char *map = o->maps.v[i], *colon = map_colon(map);
		auto_free char *dir = xprintf("%.*s", (int)(colon - map), map);
		r = cp_directory(cli, dir, name, colon + 1, err);
	}
	if (r < 0)
		r = remove_unfilled(cli, name, err);
	term_interrupt_note(NULL);
	return r;
}

static bool is_health(const char *key)
{
	return strncmp(key, HEALTH_KEY, strlen(HEALTH_KEY)) == 0;
}

/* Only what the user said: everything else is the daemon's default. */
static int build_body(
	const struct cli *cli, struct create_options *o, field_json *body, struct fcm_error *err)
{
	field_json *all = field_encode(vm_create_fields, &o->vm, true);
	field_json *keys = fj_array();

	for (size_t i = 0; i < cli->given.n; i++) {
		const char *key = cli->given.v[i];
		if (strncmp(key, MAIN_KEY, strlen(MAIN_KEY)) == 0)
			fj_set(body, "main", field_encode(main_fields, &o->vm.spec.main, true));
		else if (strncmp(key, VM_KEY, strlen(VM_KEY)) == 0)
			fj_set(body, key + strlen(VM_KEY), fj_ref(fj_get(all, key + strlen(VM_KEY))));
		if (is_health(key) && fj_get(body, "health") == NULL)
			fj_set(body, "health", field_encode(health_fields, &o->health, true));
	}
	fj_free(all);
	int r = ready_add(&o->ready, false, body, err);
	if (r == 0)
		r = collect_keys(o, keys, err);
	if (r == 0 && fj_len(keys) > 0)
		fj_set(body, "ssh_keys", keys);
	else
		fj_free(keys);
	return r;
}

static void print_plan(const struct cli *cli, const field_json *answer)
{
	const field_json *plan = fj_get(answer, "plan");

	if (cli->globals.json) {
		out_json(answer);
		return;
	}
	for (size_t i = 0; i < fj_len(plan); i++)
		printf("%s\n", fj_text(fj_at(plan, i)));
}

/* "    saved  warm · 61 MB, with memory · paused for 48 ms" */
static void print_saved(const field_json *snapshot)
{
	_cleanup_(buf_done) struct buf b = {0};

	vm_snapshot_words(snapshot, &b);
	out_hint("    saved  %s · %s · paused for %s", fj_get_str(snapshot, "name"), b.p,
		clock_span(fj_get_int(snapshot, "pause_ms", 0)).s);
}

static void print_ports(const field_json *ports)
{
	for (size_t i = 0; i < fj_len(ports); i++) {
		_cleanup_(buf_done) struct buf b = {0};
		vm_port_words(&b, fj_text(fj_at(ports, i)));
		if (b.n)
			out_hint("    port   %s", b.p);
	}
}

void create_print_vm(const struct cli *cli, const field_json *vm)
{
	auto_free char *words = vm_words(vm), *note = vm_url_note(vm);
	const char *name = fj_get_str(vm, "name");

	out_result(cli, name, vm, "%s in %s · %s", fj_get_str(vm, "state"),
		clock_span(fj_get_int(vm, "took_ms", 0)).s, words);
	if (cli->globals.json || cli->globals.quiet)
		return;
	/* where a program is the machine, no sshd may be there */
	out_hint(fj_is_object(fj_get(vm, "main")) ? "    shell  fcm exec -it %s sh" : "    shell  fcm ssh %s",
		name);
	print_ports(fj_get(vm, "publish"));
	if (*vm_url(vm))
		out_hint("    url    %s%s", vm_url(vm), note);
	if (fj_get(vm, "saved"))
		print_saved(fj_get(vm, "saved"));
}

static int fail_create(const char *name, struct fcm_error *err)
{
	if (err->code == FCM_NAME_TAKEN && err->hint[0] == '\0')
		fcm_hint(err, "try: fcm create --name %.40s-2, or fcm destroy %.63s", name, name);
	if (err->code == FCM_INVALID && strcmp(err->field, "ssh_keys") == 0)
		fcm_hint(err, "--ssh-key takes a public key, like ~/.ssh/id_ed25519.pub");
	return vm_failed(err, "create", name);
}

/* With the image, which comes from its registry when it isn't here, or always; a plan brings nothing here. */
static int post(struct cli *cli, const struct create_options *o, const field_json *body, const char *doing,
	field_json **ret, struct fcm_error *err)
{
	auto_json field_json *pulled = NULL;
	bool plan = o->vm.dry_run;

	if (o->pull == PULL_ALWAYS && !plan && pull_image(cli, o->vm.spec.image, NULL, &pulled, err) < 0)
		return -1;
	int r = api_change(cli->api, "POST", "/v1/vms", body, doing, ret, err);
	if (r == 0 || err->code != FCM_NO_IMAGE || plan || o->pull != PULL_MISSING ||
		o->vm.spec.image[0] == '\0')
		return r;
	if (image_is_ours(o->vm.spec.image))
		return fcm_hint(err, "fcm image build %s   (another one: docker.io/library/%s)",
			o->vm.spec.image, o->vm.spec.image);
	if (pull_image(cli, o->vm.spec.image, NULL, &pulled, err) < 0)
		return -1;
	return api_change(cli->api, "POST", "/v1/vms", body, doing, ret, err);
}

/* ---- --snapshot: a clone ---- */

/* The rest is as the snapshot has it. */
static bool clone_takes(const char *key)
{
	static const char *const keys[] = {
		"vm.name", "vm.publish", "vm.expose", "vm.auto_remove", "snapshot", "detach"};

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (strcmp(keys[i], key) == 0)
			return true;
	return strncmp(key, "ready.", 6) == 0;
}

static int check_clone(const struct cli *cli, const char *image, struct fcm_error *err)
{
	if (image)
		return fcm_fail(err, FCM_USAGE, "with --snapshot there is no image: leave out '%s'", image);
	for (size_t i = 0; i < cli->given.n; i++) {
		if (clone_takes(cli->given.v[i]))
			continue;
		fcm_fail(err, FCM_USAGE, "--%s doesn't go with --snapshot, which decides it",
			options_name(cli->command->options, cli->given.v[i]));
		return fcm_hint(err,
			"what does: --name, --publish, --expose PORT, --wait-ready, and of run -d and --rm");
	}
	return 0;
}

static int create_clone(
	struct cli *cli, struct create_options *o, const char *image, field_json **ret, struct fcm_error *err)
{
	auto_free char *path = api_snapshot_path(o->snapshot, "/clone");
	struct clone_request rq = {.publish = o->vm.spec.publish,
		.expose_port = o->vm.spec.expose_port,
		.auto_remove = o->vm.spec.auto_remove};
	auto_json field_json *vms = NULL;

	if (check_clone(cli, image, err) < 0)
		return -1;
	fcm_copy(rq.name, sizeof rq.name, o->vm.spec.name);
	auto_json field_json *body = field_encode(clone_request_fields, &rq, true);
	if (ready_add(&o->ready, true, body, err) < 0 ||
		clone_at(cli, path, o->snapshot, body, &vms, err) < 0)
		return -1;
	*ret = fj_ref(fj_at(vms, 0));
	return 0;
}

int create_vm(
	struct cli *cli, struct create_options *o, const char *image, field_json **ret, struct fcm_error *err)
{
	if (o->snapshot[0])
		return create_clone(cli, o, image, ret, err);
	if (image && strv_has(&cli->given, "vm.image"))
		return fcm_fail(err, FCM_USAGE, "the image is said twice: --image %s, and '%s'",
			o->vm.spec.image, image);
	if (o->vm.save_snapshot[0] && o->maps.n) {
		fcm_fail(err, FCM_USAGE, "--save-snapshot is taken before the files of --map are there");
		return fcm_hint(err, "make the VM first, then: fcm snapshot create");
	}
	auto_json field_json *body = fj_object(), *vm = NULL;
	auto_free char *doing = xprintf(*o->vm.spec.name ? "create %s" : "create", o->vm.spec.name);

	if (image && field_set_text(create_fields, o, "vm.image", image, err) < 0)
		return -1;
	if (image)
		strv_add(&cli->given, "vm.image");
	if (add_all_env(cli, o, err) < 0 || add_maps(cli, o, err) < 0 || build_body(cli, o, body, err) < 0)
		return -1;
	if (post(cli, o, body, doing, &vm, err) < 0)
		return fail_create(o->vm.spec.name, err);
	if (!o->vm.dry_run && o->maps.n) {
		if (copy_maps(cli, o, fj_get_str(vm, "name"), err) < 0)
			return -1;
		if (start_main(cli, doing, &vm, err) < 0)
			return fail_create(fj_get_str(vm, "name"), err);
	}
	*ret = STEAL(vm);
	return 0;
}

void create_print(const struct cli *cli, const struct create_options *o, const field_json *answer)
{
	if (o->vm.dry_run)
		print_plan(cli, answer);
	else
		create_print_vm(cli, answer);
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	field_json *answer = NULL;

	if (create_vm(cli, options_, cli->argc ? cli->argv[0] : NULL, &answer, err) < 0)
		return -1;
	create_print(cli, options_, answer);
	fj_free(answer);
	return 0;
}

const struct command cmd_create = {
	.name = "create",
	.args = "[IMAGE]",
	.summary = "make a VM and start it",
	.example = "fcm create --name web --expose 8000",
	.details = "It prints the name when the VM is up. fcm info shows the daemon's own "
		   "defaults.\n" READY_DETAILS,
	.max_args = 1,
	.options = options,
	.fields = create_fields,
	.size = sizeof(struct create_options),
	.run = run,
};
