#include "daemon/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/core/clock.h"
#include "daemon/check_internal.h"
#include "daemon/image/image.h"
#include "daemon/proc/proc.h"

enum { LOOK_MS = 5000 }; /* for a program that only looks */

static const char *const check_status_names[] = {"ok", "warn", "fail"};

void say(struct check *c, enum check_status status, const char *fmt, ...)
{
	va_list ap;

	c->status = status;
	va_start(ap, fmt);
	vsnprintf(c->message, sizeof c->message, fmt, ap);
	va_end(ap);
}

void mend(struct check *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->fix, sizeof c->fix, fmt, ap);
	va_end(ap);
}

bool look(const char *const argv[], struct buf *out)
{
	static char *const env[] = {(char *)"PATH=/usr/sbin:/usr/bin", (char *)"HOME=/", NULL};
	const struct proc_run run = {.argv = (char *const *)argv,
		.env = env,
		.deadline = clock_in(LOOK_MS),
		.output_max = 1 << 20};
	struct fcm_error err;

	return access(argv[0], X_OK) == 0 && proc_run(&run, out, &err) == 0;
}

/* Those that need root see nothing without, or something that isn't so. */
static const struct {
	const char *name;
	void (*run)(const struct host *h, struct check *c);
	bool root;
} table[] = {
	{"vmm", doctor_vmm, false},
	{"kvm", doctor_kvm, false},
	{"versions", doctor_versions, false},
	{"programs", doctor_programs, false},
	{"modules", doctor_modules, true},
	{"tun", doctor_tun, true},
	{"nft", doctor_nft, true},
	{"port", doctor_api_port, false},
	{"pool", doctor_pool, false},
	{"address", doctor_address, false},
	{"dns", doctor_dns, false},
	{"forwarding", doctor_forwarding, false},
	{"rp_filter", doctor_rp_filter, false},
	{"docker", doctor_docker, true},
	{"ufw", doctor_ufw, true},
	{"firewalld", doctor_firewalld, true},
	{"forward", doctor_forward, true},
	{"cgroup", doctor_cgroup, true},
	{"clock", doctor_clock, false},
	{"disk", doctor_disk, false},
	{"assets", doctor_assets, true},
	{"build", doctor_build, false},
	{"caddy", doctor_caddy, false},
	{"sites", doctor_site_ports, false},
	{"remote", doctor_remote, false},
};

static void host_done(struct host *h)
{
	buf_done(&h->iptables);
}

static void see_host(const struct fcmd_config *config, bool serves, struct host *ret)
{
	const char *const rules[] = {"/usr/sbin/iptables", "-S", NULL};
	char holder[64] = "";
	struct fcm_error ignored;

	*ret = (struct host){.config = config, .root = geteuid() == 0};
	if (!serves && config_api_port(config))
		port_holder(config_api_port(config), holder, sizeof holder);
	ret->serves = serves || strcmp(holder, "fcmd") == 0;
	ret->images = serves || image_init_looking(config->state_dir, &ignored) == 0;
	ret->driver = vmm_choose(config, &ret->probe);
	if (ret->root)
		(void)look(rules, &ret->iptables);
}

/* Run the i-th; false for one that can't be run. */
static bool run(size_t i, const struct host *h, struct check *ret)
{
	if (table[i].root && !h->root)
		return false;
	*ret = (struct check){.name = table[i].name};
	table[i].run(h, ret);
	return true;
}

field_json *check_json(const struct fcmd_config *config, bool serves)
{
	_cleanup_(host_done) struct host h;
	field_json *list = fj_array();
	struct check c;

	see_host(config, serves, &h);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		if (!run(i, &h, &c))
			continue;
		field_json *o = fj_object();
		fj_set_str(o, "name", c.name);
		fj_set_str(o, "status", check_status_names[c.status]);
		fj_set_str(o, "message", c.message);
		fj_set_str(o, "fix", c.fix);
		fj_append(list, o);
	}
	return list;
}

enum check_status check_print(const struct fcmd_config *config)
{
	_cleanup_(host_done) struct host h;
	enum check_status worst = CHECK_OK;
	size_t left = 0;
	struct check c;

	see_host(config, false, &h);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		if (!run(i, &h, &c)) {
			left++;
			continue;
		}
		printf("%-5s %-10s %s\n", check_status_names[c.status], c.name, c.message);
		if (c.fix[0])
			printf("%17sfix: %s\n", "", c.fix);
		worst = MAX(worst, c.status);
	}
	fflush(stdout);
	if (left)
		fprintf(stderr, "fcmd: %zu more checks need root: sudo fcmd --check\n", left);
	return worst;
}
