/*
 * fcm info, version, doctor: about the daemon and its host.
 */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "client/capture.h"
#include "client/command.h"
#include "client/out.h"
#include "client/paths.h"
#include "client/term.h"

enum { CHECKS_MAX = 1 << 20 }; /* bytes of fcmd --check=json */

static void line(const char *label, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void line(const char *label, const char *fmt, ...)
{
	_cleanup_(buf_done) struct buf b = {0};
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	out_text(&b, text);
	printf("%-10s  %s\n", label, b.p);
}

static void print_defaults(const field_json *defaults)
{
	_cleanup_(buf_done) struct buf b = {0};

	buf_printf(&b, "%" PRId64 " vCPU, ", fj_get_int(defaults, "cpus", 0));
	out_mib(&b, fj_get_int(defaults, "memory", 0));
	buf_str(&b, " memory, ");
	out_mib(&b, fj_get_int(defaults, "disk", 0));
	buf_printf(&b, " disk, image %s, restart %s", fj_get_str(defaults, "image"),
		fj_get_str(defaults, "restart"));
	line("defaults", "%s", b.p);
}

/* Where others reach this daemon. */
static void print_remote(const field_json *remote)
{
	const char *why = fj_get_str(remote, "reason"), *status = fj_get_str(remote, "status");

	if (strcmp(status, "active") == 0)
		line("remote", "%s", fj_get_str(remote, "url"));
	else if (*status)
		line("remote", "%s  (%s%s%s)", fj_get_str(remote, "url"), status, *why ? ": " : "", why);
}

static void print_info(struct cli *cli, const field_json *info)
{
	const field_json *vmm = fj_get(info, "vmm"), *vms = fj_get(info, "vms");
	const char *why = fj_get_str(vmm, "reason"), *kvm = fj_get_str(vmm, "kvm");

	line("daemon", "%s at %s", fj_get_str(info, "version"), api_place(cli->api));
	if (*api_context(cli->api))
		line("context", "%s", api_context(cli->api));
	line("client", "%s", FCM_VERSION);
	line("vmm", "%s %s, %s%s%s", fj_get_str(vmm, "driver"), fj_get_str(vmm, "version"),
		fj_get_str(vmm, "accel"), *why ? ": " : "", why);
	if (*kvm && strcmp(kvm, why) != 0)
		line("kvm", "%s", kvm);
	line("vms", "%" PRId64 ", %" PRId64 " running", fj_get_int(vms, "total", 0),
		fj_get_int(vms, "running", 0));
	print_defaults(fj_get(info, "defaults"));
	line("pool", "%s", fj_get_str(info, "pool"));
	line("public ip", "%s", fj_get_str(info, "public_ip"));
	print_remote(fj_get(info, "remote"));
	line("state", "%s", fj_get_str(info, "state_dir"));
}

static int run_info(struct cli *cli, void *options, struct fcm_error *err)
{
	field_json *info = NULL;

	(void)options;
	if (api_get(cli->api, "/v1", &info, err) < 0)
		return -1;
	if (cli->globals.json)
		out_json(info);
	else if (cli->globals.quiet)
		printf("%s\n", fj_get_str(info, "version"));
	else
		print_info(cli, info);
	fj_free(info);
	return 0;
}

static int run_version(struct cli *cli, void *options, struct fcm_error *err)
{
	(void)options;
	(void)err;
	if (cli->globals.json)
		printf("{\n  \"version\": \"%s\"\n}\n", FCM_VERSION);
	else
		printf("%s%s\n", cli->globals.quiet ? "" : "fcm ", FCM_VERSION);
	return 0;
}

static void print_check(const field_json *check)
{
	static const char *const colours[][2] = {
		{"ok", "\033[32m"}, {"warn", "\033[33m"}, {"fail", "\033[31m"}};
	const char *status = fj_get_str(check, "status"), *colour = "", *fix = fj_get_str(check, "fix");
	_cleanup_(buf_done) struct buf name = {0}, message = {0}, what = {0};

	for (size_t i = 0; i < ARRAY_SIZE(colours); i++)
		if (strcmp(status, colours[i][0]) == 0 && term_has_colour())
			colour = colours[i][1];
	out_text(&name, fj_get_str(check, "name"));
	out_text(&message, fj_get_str(check, "message"));
	printf("%s%-4s%s  %-10s  %s\n", colour, status, *colour ? "\033[0m" : "", name.p, message.p);
	out_text(&what, fix);
	if (*fix)
		printf("%18sfix: %s\n", "", what.p);
}

static void print_checks(struct cli *cli, const field_json *checks)
{
	if (cli->globals.json)
		out_json(checks);
	for (size_t i = 0; i < fj_len(checks); i++) {
		const char *status = fj_get_str(fj_at(checks, i), "status");
		if (!cli->globals.json && !(cli->globals.quiet && strcmp(status, "ok") == 0))
			print_check(fj_at(checks, i));
		if (strcmp(status, "fail") == 0)
			cli->status = 1;
	}
}

/* What fcmd finds out without serving, or NULL: without root that isn't all. */
static field_json *check_alone(void)
{
	auto_free char *fcmd = path_daemon();
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error ignored;
	int status;

	if (capture((const char *[]){fcmd, "--check=json", NULL}, "", CHECKS_MAX, &text, &status, &ignored) <
			0 ||
		status != 0)
		return NULL;
	return fj_parse(text.n ? text.p : "", text.n, &ignored);
}

/* That the daemon can't be asked is the first finding. */
static int doctor_alone(struct cli *cli, struct fcm_error *err)
{
	auto_json field_json *checks = fj_array(), *found = check_alone();
	field_json *daemon = fj_object();

	if (found == NULL)
		return fcm_hint(err, "check the host without it: sudo fcmd --check   or start it: sudo "
				     "systemctl start fcmd");
	fj_set_str(daemon, "name", "daemon");
	fj_set_str(daemon, "status", "fail");
	fj_set_str(daemon, "message", err->msg);
	fj_set_str(daemon, "fix", err->hint);
	fj_append(checks, daemon);
	for (size_t i = 0; i < fj_len(found); i++)
		fj_append(checks, fj_ref(fj_at(found, i)));
	print_checks(cli, checks);
	fflush(stdout);
	if (geteuid() != 0)
		out_hint("root sees more: sudo fcm doctor");
	return 0;
}

static bool is_out_of_reach(enum fcm_code code)
{
	return code == FCM_NO_DAEMON || code == FCM_NO_TOKEN || code == FCM_UNAUTHORIZED ||
	       code == FCM_FORBIDDEN;
}

static int run_doctor(struct cli *cli, void *options, struct fcm_error *err)
{
	auto_json field_json *answer = NULL;

	(void)options;
	if (api_get(cli->api, "/v1/doctor", &answer, err) == 0)
		print_checks(cli, fj_get(answer, "checks"));
	else if (is_out_of_reach(err->code) && api_is_here(cli->api))
		return doctor_alone(cli, err);
	else
		return -1;
	return 0;
}

const struct command cmd_info = {
	.name = "info",
	.summary = "print what the daemon is and has",
	.example = "fcm info",
	.details = "With -q its version alone.",
	.run = run_info,
};

const struct command cmd_version = {
	.name = "version",
	.summary = "print the version of this program",
	.example = "fcm version",
	.run = run_version,
};

const struct command cmd_doctor = {
	.name = "doctor",
	.aliases = "preflight setup",
	.summary = "check the host, and say how to mend it",
	.example = "fcm doctor",
	.details = "With -q only what isn't well. The exit status is 1 when a check fails. Where no\n"
		   "daemon runs it checks by itself, without root as far as that goes.",
	.run = run_doctor,
};
