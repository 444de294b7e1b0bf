#include "daemon/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "daemon/net/net.h"
#include "daemon/proc/cgroup.h"
#include "daemon/proc/proc.h"
#include "daemon/vmm/vmm.h"

enum { LOOK_MS = 5000 }; /* for a program that only looks */

const char *const check_status_names[] = {"ok", "warn", "fail", NULL};

static void say(struct check *c, enum check_status status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static void say(struct check *c, enum check_status status, const char *fmt, ...)
{
	va_list ap;

	c->status = status;
	va_start(ap, fmt);
	vsnprintf(c->message, sizeof c->message, fmt, ap);
	va_end(ap);
}

static void mend(struct check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void mend(struct check *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->fix, sizeof c->fix, fmt, ap);
	va_end(ap);
}

/* Run a program that only looks; its output, or false when it isn't there or failed. */
static bool look(const char *const argv[], struct buf *out)
{
	static char *const env[] = {(char *)"PATH=/usr/sbin:/usr/bin", (char *)"HOME=/", NULL};
	const struct proc_run run = {
		.argv = (char *const *)argv, .env = env, .deadline = clock_in(LOOK_MS), .output_max = 65536};
	struct fcm_error err;

	return access(argv[0], X_OK) == 0 && proc_run(&run, out, &err) == 0;
}

static void check_vmm(const struct fcmd_config *config, struct check *c)
{
	struct vmm_probe probe = {0};
	const struct vmm_driver *d = vmm_choose(config, &probe);

	if (d == NULL) {
		say(c, CHECK_FAIL, "%s", probe.reason);
		mend(c, "apt-get install qemu-system-x86");
	} else if (probe.accel == VMM_KVM) {
		say(c, CHECK_OK, "%s %s with kvm (%s)", d->name, probe.version,
			*probe.reason ? probe.reason : probe.kvm);
	} else {
		say(c, CHECK_WARN, "%s %s without hardware virtualisation: %s", d->name, probe.version,
			probe.reason);
	}
}

static void check_tun(const struct fcmd_config *config, struct check *c)
{
	auto_close int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	(void)config;
	if (fd >= 0) {
		say(c, CHECK_OK, "/dev/net/tun opens");
		return;
	}
	say(c, CHECK_FAIL, "/dev/net/tun: %s", strerror(errno));
	mend(c, "modprobe tun");
}

static void check_pool(const struct fcmd_config *config, struct check *c)
{
	struct fcm_error err;

	if (net_pool_free(&config->pool, &err) == 0) {
		say(c, CHECK_OK, "%s/%u is free", ip_dotted(config->pool.addr).s, config->pool.prefix);
		return;
	}
	say(c, CHECK_FAIL, "%s", err.msg);
	mend(c, "%s", err.hint);
}

static void check_address(const struct fcmd_config *config, struct check *c)
{
	struct in_addr ip = config->public_ip;

	if (ip.s_addr || net_public_ip(&ip)) {
		say(c, CHECK_OK, "public address %s", ip_dotted(ip).s);
		return;
	}
	say(c, CHECK_WARN,
		ip.s_addr ? "%s is a private address: names below it work only where it is reached"
			  : "no address found: sites have no name",
		ip_dotted(ip).s);
	mend(c, "public_ip = ADDRESS in /etc/fcm/fcmd.conf");
}

static void check_dns(const struct fcmd_config *config, struct check *c)
{
	_cleanup_(strv_done) struct strv dns = {0};

	strv_copy(&dns, &config->dns);
	if (dns.n == 0)
		net_resolvers(&dns);
	if (dns.n) {
		say(c, CHECK_OK, "guests ask %s", dns.v[0]);
		return;
	}
	say(c, CHECK_WARN, "no resolver but loopback ones is known: guests resolve no names");
	mend(c, "dns = ADDRESS in /etc/fcm/fcmd.conf");
}

/* Docker sets the FORWARD policy to DROP, which stops our packets too. */
static void check_docker(const struct fcmd_config *config, struct check *c)
{
	const char *const argv[] = {"/usr/sbin/iptables", "-S", "FORWARD", NULL};
	_cleanup_(buf_done) struct buf out = {0};

	(void)config;
	if (!look(argv, &out) || strstr(out.p ? out.p : "", "-P FORWARD DROP") == NULL) {
		say(c, CHECK_OK, "nobody drops forwarded packets");
		return;
	}
	say(c, CHECK_WARN, "the FORWARD policy is DROP: VMs have no internet");
	mend(c, "iptables -I DOCKER-USER -m devgroup --src-group 252 -j ACCEPT   (and the same with "
		"--dst-group)");
}

static void check_cgroup(const struct fcmd_config *config, struct check *c)
{
	(void)config;
	if (cgroup_why()[0])
		say(c, CHECK_WARN, "VMs run without limits: %s", cgroup_why());
	else
		say(c, CHECK_OK, "each VM has a group with limits");
}

static void check_disk(const struct fcmd_config *config, struct check *c)
{
	struct statvfs v;

	if (statvfs(config->state_dir, &v) < 0) {
		say(c, CHECK_FAIL, "%s: %s", config->state_dir, strerror(errno));
		return;
	}
	uint64_t mib = (uint64_t)v.f_bavail * v.f_frsize >> 20;
	if (mib > config->disk_reserve_mib)
		say(c, CHECK_OK, "%llu MiB free in %s", (unsigned long long)mib, config->state_dir);
	else
		say(c, CHECK_FAIL, "only %llu MiB free in %s", (unsigned long long)mib, config->state_dir);
}

static void check_assets(const struct fcmd_config *config, struct check *c)
{
	auto_free char *kernel = xprintf("%s/kernels/%s/vmlinux", config->state_dir, config->defaults.kernel);
	auto_free char *image = xprintf("%s/images/%s/image.ext4", config->state_dir, config->defaults.image);
	bool have_kernel = access(kernel, R_OK) == 0, have_image = access(image, R_OK) == 0;

	if (have_kernel && have_image) {
		say(c, CHECK_OK, "kernel '%s' and image '%s'", config->defaults.kernel,
			config->defaults.image);
		return;
	}
	say(c, CHECK_FAIL, "no %s yet",
		have_kernel  ? "image"
		: have_image ? "kernel"
			     : "kernel and no image");
	mend(c, "%s",
		have_kernel  ? "fcm image build base"
		: have_image ? "fcm image build kernel"
			     : "fcm image build kernel; fcm image build base");
}

static void check_caddy(const struct fcmd_config *config, struct check *c)
{
	const char *const argv[] = {"/usr/bin/caddy", "version", NULL};
	_cleanup_(buf_done) struct buf out = {0};

	if (!look(argv, &out)) {
		say(c, CHECK_WARN, "no Caddy: VMs get no HTTPS names");
		mend(c, "apt-get install caddy");
	} else if (access(config->caddyfile, R_OK) < 0) {
		say(c, CHECK_WARN, "no %s", config->caddyfile);
	} else {
		say(c, CHECK_OK, "caddy %.*s", (int)strcspn(out.p, " \n"), out.p);
	}
}

static const struct {
	const char *name;
	void (*run)(const struct fcmd_config *config, struct check *c);
} table[] = {
	{"vmm", check_vmm},
	{"tun", check_tun},
	{"pool", check_pool},
	{"address", check_address},
	{"dns", check_dns},
	{"docker", check_docker},
	{"cgroup", check_cgroup},
	{"disk", check_disk},
	{"assets", check_assets},
	{"caddy", check_caddy},
};

bool check_run(size_t i, const struct fcmd_config *config, struct check *ret)
{
	if (i >= ARRAY_SIZE(table))
		return false;
	*ret = (struct check){.name = table[i].name};
	table[i].run(config, ret);
	return true;
}

field_json *check_json(const struct fcmd_config *config)
{
	field_json *list = fj_array();
	struct check c;

	for (size_t i = 0; check_run(i, config, &c); i++) {
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
	enum check_status worst = CHECK_OK;
	struct check c;

	for (size_t i = 0; check_run(i, config, &c); i++) {
		printf("%-5s %-8s %s\n", check_status_names[c.status], c.name, c.message);
		if (c.fix[0])
			printf("%15sfix: %s\n", "", c.fix);
		worst = MAX(worst, c.status);
	}
	return worst;
}
