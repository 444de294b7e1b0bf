/*
 * fcm publish, unpublish, port: ports of VMs that are reached at this host's.
 */
#include <string.h>

#include "client/command.h"
#include "client/out.h"
#include "client/vmtext.h"

static void print_list(
	const struct cli *cli, const field_json *list, void (*add)(struct buf *b, const char *text))
{
	if (cli->globals.json) {
		out_json(list);
		return;
	}
	for (size_t i = 0; i < fj_len(list); i++) {
		_cleanup_(buf_done) struct buf b = {0};
		add(&b, fj_text(fj_at(list, i)));
		printf("%s\n", b.n ? b.p : "");
	}
}

static void print_ports(const struct cli *cli, const field_json *vm)
{
	print_list(cli, fj_get(vm, "publish"), vm_port_words);
}

/* Where one port of the VM, "80" or "53/udp", is reached, a line each; as docker port does it. */
static int print_port(const struct cli *cli, const field_json *vm, const char *port, struct fcm_error *err)
{
	auto_free char *whole = xprintf(strchr(port, '/') ? ":%s" : ":%s/tcp", port);
	auto_json field_json *found = fj_array();
	const field_json *ports = fj_get(vm, "publish");
	size_t n = strlen(whole);

	for (size_t i = 0; i < fj_len(ports); i++) {
		const char *text = fj_text(fj_at(ports, i));
		size_t length = strlen(text);
		if (length <= n || strcmp(text + length - n, whole) != 0)
			continue;
		auto_free char *host = xprintf("%.*s", (int)(length - n), text);
		fj_append(found, fj_str(host));
	}
	if (fj_len(found) == 0) {
		fcm_fail(err, FCM_NOT_FOUND, "'%s' doesn't publish its port %s", fj_get_str(vm, "name"),
			whole + 1);
		return fcm_hint(err, "fcm publish %s %s", fj_get_str(vm, "name"), port);
	}
	print_list(cli, found, out_text);
	return 0;
}

static int run_port(struct cli *cli, void *options_, struct fcm_error *err)
{
	auto_free char *path = api_vm_path(cli->argv[0], "");
	auto_json field_json *vm = NULL;

	(void)options_;
	if (api_get(cli->api, path, &vm, err) < 0)
		return -1;
	if (cli->argc > 1)
		return print_port(cli, vm, cli->argv[1], err);
	print_ports(cli, vm);
	if (fj_len(fj_get(vm, "publish")) == 0)
		out_hint("it publishes nothing: fcm publish %s 8080:80", fj_get_str(vm, "name"));
	else if (strcmp(fj_get_str(vm, "state"), "running") != 0)
		out_hint("it is %s: nobody reaches these now", fj_get_str(vm, "state"));
	return 0;
}

static int change(struct cli *cli, const char *route, struct fcm_error *err)
{
	auto_free char *path = api_vm_path(cli->argv[0], route);
	auto_json field_json *body = fj_object(), *vm = NULL;
	field_json *ports = fj_array();

	for (int i = 1; i < cli->argc; i++)
		fj_append(ports, fj_str(cli->argv[i]));
	fj_set(body, "publish", ports);
	if (api_change(cli->api, "POST", path, body, NULL, &vm, err) < 0)
		return -1;
	print_ports(cli, vm);
	return 0;
}

static int run_publish(struct cli *cli, void *options_, struct fcm_error *err)
{
	(void)options_;
	return change(cli, "/publish", err);
}

static int run_unpublish(struct cli *cli, void *options_, struct fcm_error *err)
{
	(void)options_;
	return change(cli, "/unpublish", err);
}

const struct command cmd_publish = {
	.name = "publish",
	.args = "VM PORT...",
	.summary = "let ports of a VM be reached at this host's",
	.example = "fcm publish web 8080:80",
	.details = "PORT is [[HOSTIP:]HOSTPORT:]PORT[/udp]; ranges go together, 8000-8005:80-85;\n"
		   "without HOSTPORT the host chooses one. It prints what is published then. The\n"
		   "VM sees who connects. A stopped VM lets its ports go and takes them again.",
	.min_args = 2,
	.max_args = ANY_ARGS,
	.run = run_publish,
};

const struct command cmd_unpublish = {
	.name = "unpublish",
	.args = "VM PORT...",
	.summary = "take published ports of a VM away",
	.example = "fcm unpublish web 8080",
	.details = "PORT is [HOSTIP:]HOSTPORT[:PORT][/udp]. Connections that came that way are cut.\n"
		   "It prints what is left.",
	.min_args = 2,
	.max_args = ANY_ARGS,
	.run = run_unpublish,
};

const struct command cmd_port = {
	.name = "port",
	.args = "VM [PORT]",
	.summary = "the ports that a VM publishes",
	.example = "fcm port web",
	.details = "With a port of the VM's, 80 or 53/udp, it prints only where that one is reached.",
	.min_args = 1,
	.max_args = 2,
	.run = run_port,
};
