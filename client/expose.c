/*
 * fcm expose, fcm unexpose: a public HTTPS name for a port of a VM, by Caddy.
 */
#include <string.h>

#include "client/command.h"
#include "client/out.h"
#include "client/vmtext.h"
#include "common/model.h"

static const struct option_row options[] = {
	{"domain", 0, "NAME", NULL, "the name (else one made of the VM's)"},
	{0},
};

enum { DEFAULT_PORT = 8000 };

/* The port that it was exposed at before, or the default. */
static int old_port(struct cli *cli, const char *path, struct fcm_error *err)
{
	field_json *vm = NULL;

	if (api_get(cli->api, path, &vm, err) < 0)
		return -1;
	int port = (int)fj_get_int(fj_get(vm, "expose"), "port", DEFAULT_PORT);
	fj_free(vm);
	return port;
}

static int build_body(struct cli *cli, struct expose_request *o, field_json *body, struct fcm_error *err)
{
	auto_free char *path = api_vm_path(cli->argv[0], "");

	if (cli->argc == 2) {
		if (field_set_text(expose_request_fields, o, "port", cli->argv[1], err) < 0)
			return -1;
	} else {
		int port = old_port(cli, path, err);
		if (port < 0)
			return -1;
		o->port = (uint32_t)port;
	}
	fj_set_int(body, "port", o->port);
	if (o->domain[0])
		fj_set_str(body, "domain", o->domain);
	return 0;
}

static void print_exposed(const struct cli *cli, const field_json *vm)
{
	auto_free char *note = vm_url_note(vm);

	if (cli->globals.json)
		out_json(vm);
	else
		printf("%s\n", vm_url(vm));
	fflush(stdout);
	if (*note)
		out_hint("%s: it isn't served yet%s", fj_get_str(vm, "name"), note);
}

static int run_expose(struct cli *cli, void *options_, struct fcm_error *err)
{
	auto_free char *path = api_vm_path(cli->argv[0], "/expose");
	field_json *body = fj_object(), *vm = NULL;

	int r = build_body(cli, options_, body, err);
	if (r == 0)
		r = api_change(cli->api, "PUT", path, body, NULL, &vm, err);
	fj_free(body);
	if (r < 0)
		return -1;
	print_exposed(cli, vm);
	fj_free(vm);
	return 0;
}

static int unexpose_one(struct cli *cli, const char *name, void *options_, struct fcm_error *err)
{
	auto_free char *path = api_vm_path(name, "/expose");
	field_json *vm = NULL;

	(void)options_;
	if (api_change(cli->api, "DELETE", path, NULL, NULL, &vm, err) < 0)
		return -1;
	out_result(cli, fj_get_str(vm, "name"), vm,
		vm_unchanged(vm) ? "it wasn't exposed" : "no longer exposed");
	fj_free(vm);
	return 0;
}

static int run_unexpose(struct cli *cli, void *options_, struct fcm_error *err)
{
	(void)err;
	return each_argument(cli, unexpose_one, options_);
}

const struct command cmd_expose = {
	.name = "expose",
	.args = "VM [PORT]",
	.summary = "serve a port of a VM at a public HTTPS name",
	.example = "fcm expose web 8000 --domain www.example.org",
	.details = "It prints the URL. Without PORT: the one it had, else 8000.",
	.min_args = 1,
	.max_args = 2,
	.options = options,
	.fields = expose_request_fields,
	.size = sizeof(struct expose_request),
	.run = run_expose,
};

const struct command cmd_unexpose = {
	.name = "unexpose",
	.args = "VM...",
	.summary = "take a VM's public name away",
	.example = "fcm unexpose web",
	.min_args = 1,
	.max_args = ANY_ARGS,
	.run = run_unexpose,
};
