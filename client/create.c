#include <ctype.h>
#include <fcntl.h>
#include <string.h>

#include "client/command.h"
#include "client/out.h"
#include "client/ready.h"
#include "client/sshkey.h"
#include "client/vmtext.h"
#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/model.h"

#define VM_KEY "vm."
#define HEALTH_KEY "health."

struct create_options {
	struct vm_create vm;
	struct strv key_files;
	struct ready_options ready;
	struct health_spec health;
};

static const struct field create_fields[] = {
	F(struct create_options, vm, FIELD_OBJECT, .sub = vm_create_fields),
	F(struct create_options, key_files, FIELD_STRV, .max = VM_MAX_KEYS),
	F(struct create_options, ready, FIELD_OBJECT, .sub = ready_options_fields),
	F(struct create_options, health, FIELD_OBJECT, .sub = health_fields),
	FIELD_END,
};

static const struct option_row options[] = {
	{"name", 0, "NAME", "vm.name", "its name (else an adjective and a noun)"},
	{"cpus", 0, "N", "vm.cpus", "virtual CPUs, 1 to 32 (default 1)"},
	{"cpu", 0, NULL, NULL, NULL},
	{"mem", 'm', "SIZE", "vm.memory", "memory: MiB, or with k, m, g, t (default 512)"},
	{"memory", 0, NULL, NULL, NULL},
	{"disk", 0, "SIZE", "vm.disk", "disk: MiB, or with k, m, g, t; sparse (default 8g)"},
	{"image", 0, "NAME", "vm.image", "the image, also as the argument (default base)"},
	{"kernel", 0, "NAME", "vm.kernel", "the kernel (default default)"},
	{"publish", 'p', "PORT", "vm.publish", "a port as 8080:80 or just 80 (fcm help publish)"},
	{"expose", 0, "PORT", "vm.expose", "serve this port of it at a public HTTPS name"},
	{"ssh-key", 0, "FILE", "key_files", "a public key that may log in as root; repeatable"},
	{"env", 'e', "K=V", "vm.env", "environment of what runs in it; repeatable"},
	{"label", 0, "K=V", "vm.labels", "a label, for you; repeatable"},
	{"restart", 0, "POLICY", "vm.restart", "no, on-failure, always or unless-stopped (the default)"},
	READY_OPTIONS("ready."),
	{"health-cmd", 0, "CMD", "health.cmd", "healthy while this line of its shell exits with 0"},
	{"health-http", 0, "URL", "health.http", "or while this URL answers in it: http://localhost/"},
	{"health-interval", 0, "SECONDS", "health.interval", "between two checks (default 30)"},
	{"health-timeout", 0, "SECONDS", "health.timeout", "for one check (default 5)"},
	{"health-retries", 0, "N", "health.retries", "failures in a row that mean unhealthy (default 3)"},
	{"health-start-period", 0, "SECONDS", "health.start_period",
		"in which failures don't count (default 0)"},
	{"dry-run", 0, NULL, "vm.dry_run", "print what would be done, and do nothing"},
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
		if (strncmp(key, VM_KEY, strlen(VM_KEY)) == 0)
			fj_set(body, key + strlen(VM_KEY), fj_ref(fj_get(all, key + strlen(VM_KEY))));
		if (is_health(key) && fj_get(body, "health") == NULL)
			fj_set(body, "health", field_encode(health_fields, &o->health, true));
	}
	fj_free(all);
	int r = ready_add(&o->ready, body, err);
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

static void print_created(const struct cli *cli, const field_json *vm)
{
	auto_free char *words = vm_words(vm), *note = vm_url_note(vm);
	const char *name = fj_get_str(vm, "name");

	out_result(cli, name, vm, "%s in %s · %s", fj_get_str(vm, "state"),
		clock_span(fj_get_int(vm, "took_ms", 0)).s, words);
	if (cli->globals.json || cli->globals.quiet)
		return;
	out_hint("    shell  fcm ssh %s", name);
	if (*vm_url(vm))
		out_hint("    url    %s%s", vm_url(vm), note);
}

static int fail_create(const char *name, struct fcm_error *err)
{
	if (err->code == FCM_NAME_TAKEN && err->hint[0] == '\0')
		fcm_hint(err, "try: fcm create --name %.40s-2, or fcm destroy %.63s", name, name);
	if (err->code == FCM_INVALID && strcmp(err->field, "ssh_keys") == 0)
		fcm_hint(err, "--ssh-key takes a public key, like ~/.ssh/id_ed25519.pub");
	return vm_failed(err, "create", name);
}

static int run(struct cli *cli, void *options_, struct fcm_error *err)
{
	struct create_options *o = options_;
	field_json *body = fj_object(), *answer = NULL;
	auto_free char *doing = xprintf(*o->vm.spec.name ? "create %s" : "create", o->vm.spec.name);
	int r = 0;

	if (cli->argc == 1) {
		r = field_set_text(create_fields, o, "vm.image", cli->argv[0], err);
		strv_add(&cli->given, "vm.image");
	}
	if (r == 0)
		r = build_body(cli, o, body, err);
	if (r == 0) {
		r = api_change(cli->api, "POST", "/v1/vms", body, doing, &answer, err);
		if (r < 0)
			fail_create(o->vm.spec.name, err);
	}
	fj_free(body);
	if (r < 0)
		return -1;
	if (o->vm.dry_run)
		print_plan(cli, answer);
	else
		print_created(cli, answer);
	fj_free(answer);
	return 0;
}

const struct command cmd_create = {
	.name = "create",
	.aliases = "run",
	.args = "[IMAGE]",
	.summary = "make a VM and start it",
	.details = "It prints the name when the VM is up. fcm info shows the daemon's own "
		   "defaults.\n" READY_DETAILS,
	.max_args = 1,
	.options = options,
	.fields = create_fields,
	.size = sizeof(struct create_options),
	.run = run,
};
