#include "daemon/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "daemon/net/net.h"
#include "daemon/proc/cgroup.h"
#include "daemon/proc/proc.h"
#include "daemon/vmm/vmm.h"

enum { LOOK_MS = 5000 }; /* for a program that only looks */

static const char *const check_status_names[] = {"ok", "warn", "fail"};

struct check {
	const char *name;
	enum check_status status;
	char message[256];
	char fix[256]; /* a command or a line of the config; "" only when all is well */
};

/* What several checks ask, found out once. */
struct host {
	const struct fcmd_config *config;
	const struct vmm_driver *driver; /* NULL: none works */
	struct vmm_probe probe;
};

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

static void check_vmm(const struct host *h, struct check *c)
{
	const struct vmm_probe *p = &h->probe;

	if (h->driver == NULL) {
		say(c, CHECK_FAIL, "%s", p->reason);
		mend(c, "sudo apt-get install qemu-system-x86");
	} else if (p->accel == VMM_KVM) {
		say(c, CHECK_OK, "%s %s with kvm%s%s", h->driver->name, p->version, *p->reason ? ": " : "",
			p->reason);
	} else {
		say(c, CHECK_OK, "%s %s with tcg", h->driver->name, p->version);
	}
}

static void check_kvm(const struct host *h, struct check *c)
{
	const struct vmm_probe *p = &h->probe;

	if (strcmp(h->config->accel, "tcg") == 0) {
		say(c, CHECK_OK, "not asked for: accel = tcg in the config");
	} else if (h->driver && p->accel == VMM_KVM) {
		say(c, CHECK_OK, "%s", p->kvm);
	} else if (access("/dev/kvm", F_OK) < 0) {
		say(c, CHECK_WARN, "there is no /dev/kvm: guests are slow");
		mend(c, "sudo modprobe kvm_intel || sudo modprobe kvm_amd   (with virtualisation on in the "
			"firmware)");
	} else {
		say(c, CHECK_WARN, "guests are slow: %s", *p->kvm ? p->kvm : p->reason);
		mend(c, "use a host whose virtualisation works, or settle for less: accel = tcg "
			"in " CONFIG_FILE);
	}
}

static void check_tun(const struct host *h, struct check *c)
{
	auto_close int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	(void)h;
	if (fd >= 0) {
		say(c, CHECK_OK, "/dev/net/tun opens");
		return;
	}
	say(c, CHECK_FAIL, "/dev/net/tun: %s", strerror(errno));
	mend(c, "sudo modprobe tun");
}

static void check_nft(const struct host *h, struct check *c)
{
	struct fcm_error err;

	if (net_filter_check(&h->config->pool, &err) == 0) {
		say(c, CHECK_OK, "the kernel takes our table");
		return;
	}
	say(c, CHECK_FAIL, "%s", err.msg);
	mend(c, "sudo modprobe -a nf_tables nft_chain_nat nft_masq nft_ct nft_reject_inet");
}

/* Modules are loaded when they are first used, unless an upgrade took those of the running kernel away. */
static void check_modules(const struct host *h, struct check *c)
{
	struct utsname u;
	struct fcm_error err;

	uname(&u);
	auto_free char *list = xprintf("/lib/modules/%s/modules.dep", u.release);
	if (access(list, R_OK) == 0) {
		say(c, CHECK_OK, "those of Linux %s can be loaded", u.release);
	} else if (access("/dev/net/tun", F_OK) == 0 && net_filter_check(&h->config->pool, &err) == 0) {
		say(c, CHECK_OK, "Linux %s has what is needed", u.release);
	} else {
		say(c, CHECK_FAIL, "those of the running Linux %s are gone", u.release);
		mend(c, "sudo systemctl reboot   (into the kernel that was installed since)");
	}
}

static void check_pool(const struct host *h, struct check *c)
{
	struct fcm_error err;

	if (net_pool_free(&h->config->pool, &err) == 0) {
		say(c, CHECK_OK, "%s/%u is free", ip_dotted(h->config->pool.addr).s, h->config->pool.prefix);
		return;
	}
	say(c, CHECK_FAIL, "%s", err.msg);
	mend(c, "%s", err.hint);
}

static void check_address(const struct host *h, struct check *c)
{
	struct in_addr ip = h->config->public_ip;

	if (ip.s_addr || net_public_ip(&ip)) {
		say(c, CHECK_OK, "public address %s", ip_dotted(ip).s);
		return;
	}
	say(c, CHECK_WARN,
		ip.s_addr ? "%s is a private address: names below it work only where it is reached"
			  : "no address found: sites have no name",
		ip_dotted(ip).s);
	mend(c, "public_ip = ADDRESS in " CONFIG_FILE);
}

static void check_dns(const struct host *h, struct check *c)
{
	_cleanup_(strv_done) struct strv dns = {0};

	strv_copy(&dns, &h->config->dns);
	if (dns.n == 0)
		net_resolvers(&dns);
	if (dns.n) {
		say(c, CHECK_OK, "guests ask %s", dns.v[0]);
		return;
	}
	say(c, CHECK_WARN, "no resolver but loopback ones is known: guests resolve no names");
	mend(c, "dns = ADDRESS in " CONFIG_FILE);
}

/* The program that listens at a TCP port: "" for nobody, "?" when it can't be seen. */
static void port_holder(unsigned port, char *ret, size_t size)
{
	auto_free char *filter = xprintf("sport = :%u", port);
	const char *const argv[] = {"/usr/bin/ss", "-Hltnp", filter, NULL};
	_cleanup_(buf_done) struct buf out = {0};

	ret[0] = '\0';
	if (!look(argv, &out) || out.n == 0)
		return;
	const char *name = strstr(out.p, "((\"");
	(void)fcm_format(ret, size, "%.*s", name ? (int)strcspn(name + 3, "\"") : 1, name ? name + 3 : "?");
}

static void check_api_port(const struct host *h, struct check *c)
{
	unsigned port = config_api_port(h->config);
	char holder[64] = "";

	if (port)
		port_holder(port, holder, sizeof holder);
	if (*holder == '\0' || strcmp(holder, "fcmd") == 0) {
		say(c, CHECK_OK, port ? "%s is %s" : "no TCP port is asked for", h->config->listen,
			*holder ? "fcmd's" : "free");
		return;
	}
	say(c, CHECK_FAIL, "%s is held by %s", h->config->listen, holder);
	mend(c, "ss -ltnp sport = :%u shows it: end it, or listen = 127.0.0.1:7778 in " CONFIG_FILE, port);
}

static void check_site_ports(const struct host *h, struct check *c)
{
	static const unsigned ports[] = {80, 443};
	char holder[64];

	(void)h;
	for (size_t i = 0; i < ARRAY_SIZE(ports); i++) {
		port_holder(ports[i], holder, sizeof holder);
		if (*holder == '\0' || strcmp(holder, "caddy") == 0)
			continue;
		say(c, CHECK_WARN, "port %u is held by %s: Caddy can't serve sites", ports[i], holder);
		if (*holder == '?')
			mend(c, "sudo ss -ltnp sport = :%u shows it: end it", ports[i]);
		else
			mend(c, "sudo systemctl disable --now %s", holder);
		return;
	}
	say(c, CHECK_OK, "80 and 443 are free, or Caddy's");
}

/* Docker sets the FORWARD policy to DROP, which stops our packets too. */
static void check_docker(const struct host *h, struct check *c)
{
	const char *const argv[] = {"/usr/sbin/iptables", "-S", "FORWARD", NULL};
	_cleanup_(buf_done) struct buf out = {0};

	(void)h;
	if (!look(argv, &out) || strstr(out.p ? out.p : "", "-P FORWARD DROP") == NULL) {
		say(c, CHECK_OK, "nobody drops forwarded packets");
		return;
	}
	say(c, CHECK_WARN, "the FORWARD policy is DROP: VMs have no internet");
	mend(c, "for way in src dst; do sudo iptables -I DOCKER-USER -m devgroup --$way-group 252 -j ACCEPT; "
		"done");
}

static void check_cgroup(const struct host *h, struct check *c)
{
	(void)h;
	if (cgroup_why()[0] == '\0') {
		say(c, CHECK_OK, "each VM has a group with limits");
		return;
	}
	say(c, CHECK_WARN, "VMs run without limits: %s", cgroup_why());
	mend(c, "sudo systemctl start fcmd   (as a service it has a group; a container must be given one)");
}

static void check_disk(const struct host *h, struct check *c)
{
	const char *dir = h->config->state_dir;
	struct statvfs v;

	if (statvfs(dir, &v) < 0) {
		say(c, CHECK_FAIL, "%s: %s", dir, strerror(errno));
		mend(c, "sudo install -d -m 0711 %s   (or start fcmd, which makes it)", dir);
		return;
	}
	uint64_t bytes = (uint64_t)v.f_bavail * v.f_frsize;
	if (bytes >> 20 > h->config->disk_reserve_mib) {
		say(c, CHECK_OK, "%.1f GB free in %s", (double)bytes / 1e9, dir);
		return;
	}
	say(c, CHECK_FAIL, "only %.1f GB free in %s: nothing can be created", (double)bytes / 1e9, dir);
	mend(c, "fcm ls -o wide, then fcm destroy VM   (or a smaller disk_reserve_mib in " CONFIG_FILE ")");
}

static void check_programs(const struct host *h, struct check *c)
{
#define AGAIN(key) "sudo ./bootstrap install, or the package again   (or " key " = PATH in " CONFIG_FILE ")"
	const struct {
		const char *path, *fix;
	} programs[] = {
		{h->config->shim, AGAIN("shim")},
		{h->config->oci, AGAIN("oci")},
		{"/sbin/mkfs.ext4", "sudo apt-get install e2fsprogs"},
	};
#undef AGAIN

	for (size_t i = 0; i < ARRAY_SIZE(programs); i++)
		if (access(programs[i].path, X_OK) < 0) {
			say(c, CHECK_FAIL, "%s: %s", programs[i].path, strerror(errno));
			mend(c, "%s", programs[i].fix);
			return;
		}
	say(c, CHECK_OK, "fcm-shim, fcm-oci and mkfs.ext4 are there");
}

/* Programs that `fcm image build` runs, and their packages. */
static const struct {
	const char *program, *package;
} build_tools[] = {{"/usr/bin/mmdebstrap", "mmdebstrap"}, {"/usr/bin/cpio", "cpio"}, {"/usr/bin/lz4", "lz4"},
	{"/usr/bin/xz", "xz-utils"}, {"/usr/bin/zstd", "zstd"}, {"/usr/bin/newuidmap", "uidmap"}};

static void check_build(const struct host *h, struct check *c)
{
	_cleanup_(buf_done) struct buf missing = {0};

	(void)h;
	for (size_t i = 0; i < ARRAY_SIZE(build_tools); i++)
		if (access(build_tools[i].program, X_OK) < 0)
			buf_printf(&missing, " %s", build_tools[i].package);
	if (missing.n == 0) {
		say(c, CHECK_OK, "fcm image build has its programs");
		return;
	}
	say(c, CHECK_WARN, "fcm image build lacks%s", missing.p);
	mend(c, "sudo apt-get install%s", missing.p);
}

static void check_assets(const struct host *h, struct check *c)
{
	auto_free char *kernel =
		xprintf("%s/kernels/%s/vmlinux", h->config->state_dir, h->config->defaults.kernel);
	auto_free char *image =
		xprintf("%s/images/%s/image.ext4", h->config->state_dir, h->config->defaults.image);
	bool have_kernel = access(kernel, R_OK) == 0, have_image = access(image, R_OK) == 0;

	if (have_kernel && have_image) {
		say(c, CHECK_OK, "kernel '%s' and image '%s'", h->config->defaults.kernel,
			h->config->defaults.image);
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

static void check_caddy(const struct host *h, struct check *c)
{
	const char *const argv[] = {"/usr/bin/caddy", "version", NULL};
	_cleanup_(buf_done) struct buf out = {0};

	if (!look(argv, &out)) {
		say(c, CHECK_WARN, "no Caddy: VMs get no HTTPS names");
		mend(c, "sudo apt-get install caddy");
	} else if (access(h->config->caddyfile, R_OK) < 0) {
		say(c, CHECK_WARN, "%s: %s", h->config->caddyfile, strerror(errno));
		mend(c, "sudo touch %s && sudo systemctl restart caddy", h->config->caddyfile);
	} else {
		say(c, CHECK_OK, "caddy %.*s", (int)strcspn(out.p, " \n"), out.p);
	}
}

static const struct {
	const char *name;
	void (*run)(const struct host *h, struct check *c);
} table[] = {
	{"vmm", check_vmm},
	{"kvm", check_kvm},
	{"programs", check_programs},
	{"modules", check_modules},
	{"tun", check_tun},
	{"nft", check_nft},
	{"port", check_api_port},
	{"pool", check_pool},
	{"address", check_address},
	{"dns", check_dns},
	{"docker", check_docker},
	{"cgroup", check_cgroup},
	{"disk", check_disk},
	{"assets", check_assets},
	{"build", check_build},
	{"caddy", check_caddy},
	{"sites", check_site_ports},
};

static struct host see_host(const struct fcmd_config *config)
{
	struct host h = {.config = config};

	h.driver = vmm_choose(config, &h.probe);
	return h;
}

static struct check run(size_t i, const struct host *h)
{
	struct check c = {.name = table[i].name};

	table[i].run(h, &c);
	return c;
}

field_json *check_json(const struct fcmd_config *config)
{
	const struct host h = see_host(config);
	field_json *list = fj_array();

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct check c = run(i, &h);
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
	const struct host h = see_host(config);
	enum check_status worst = CHECK_OK;

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct check c = run(i, &h);
		printf("%-5s %-8s %s\n", check_status_names[c.status], c.name, c.message);
		if (c.fix[0])
			printf("%15sfix: %s\n", "", c.fix);
		worst = MAX(worst, c.status);
	}
	return worst;
}
