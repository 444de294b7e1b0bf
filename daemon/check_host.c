/*
 * Checks of the host itself: its kernel, programs, disk and clock.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "daemon/check_internal.h"
#include "daemon/engine/site.h"
#include "daemon/image/image.h"
#include "daemon/net/net.h"
#include "daemon/proc/cgroup.h"

void doctor_vmm(const struct host *h, struct check *c)
{
	const struct vmm_probe *p = &h->probe;

	if (h->driver == NULL) {
		say(c, CHECK_FAIL, "%s", p->reason);
		mend(c, "sudo apt-get install qemu-system-x86");
	} else if (p->accel == VMM_KVM) {
		say(c, CHECK_OK, "%s %s with kvm%s%s", h->driver->name, p->version, *p->reason ? ": " : "",
			p->reason);
	} else {
		say(c, CHECK_OK, "%s %s%s", h->driver->name, p->version, h->root ? " with tcg" : "");
	}
}

/* The oldest that the tests have seen. */
static const struct {
	const char *driver;
	unsigned major, minor;
} oldest[] = {{"qemu", 7, 2}, {"firecracker", 1, 12}};

enum { OLDEST_LINUX = 6 };

static bool is_old(const char *driver, const char *version)
{
	unsigned major = 0, minor = 0;

	sscanf(version, "%u.%u", &major, &minor);
	for (size_t i = 0; i < ARRAY_SIZE(oldest); i++)
		if (strcmp(oldest[i].driver, driver) == 0)
			return major < oldest[i].major ||
			       (major == oldest[i].major && minor < oldest[i].minor);
	return false;
}

/* Has the daemon's program been replaced since it began? proc_pid_exe(5) */
static bool is_outdated(void)
{
	char path[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);

	path[MAX(n, 0)] = '\0';
	return strstr(path, " (deleted)") != NULL;
}

void doctor_versions(const struct host *h, struct check *c)
{
	const char *driver = h->driver ? h->driver->name : "", *version = h->probe.version;
	struct utsname u;
	unsigned linux_major = 0;

	uname(&u);
	sscanf(u.release, "%u", &linux_major);
	if (h->serves && is_outdated()) {
		say(c, CHECK_WARN, "fcmd was upgraded since it began, and is " FCM_VERSION " still");
		mend(c, "sudo systemctl restart fcmd   (VMs run on)");
	} else if (linux_major < OLDEST_LINUX) {
		say(c, CHECK_WARN, "Linux %s is older than what fcm is tested with (%d)", u.release,
			OLDEST_LINUX);
		mend(c, "sudo apt-get install linux-image-amd64 && sudo systemctl reboot");
	} else if (h->driver && is_old(driver, version)) {
		bool downloaded = strcmp(driver, "firecracker") == 0;
		say(c, CHECK_WARN, "%s %s is older than what fcm is tested with", driver, version);
		mend(c, "%s",
			downloaded ? "sudo fcm assets download && sudo systemctl restart fcmd"
				   : "sudo apt-get install qemu-system-x86 && sudo systemctl restart fcmd");
	} else {
		say(c, CHECK_OK, "fcmd " FCM_VERSION ", Linux %s%s%s %s", u.release, *driver ? ", " : "",
			driver, version);
	}
}

void doctor_kvm(const struct host *h, struct check *c)
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
	} else if (!h->root) {
		say(c, CHECK_OK, "there is a /dev/kvm; root sees whether it works");
	} else {
		say(c, CHECK_WARN, "guests are slow: %s", *p->kvm ? p->kvm : p->reason);
		mend(c, "use a host whose virtualisation works, or settle for less: accel = tcg "
			"in " CONFIG_FILE);
	}
}

void doctor_tun(const struct host *h, struct check *c)
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

/* Modules are loaded when they are first used, unless an upgrade took those of the running kernel away. */
void doctor_modules(const struct host *h, struct check *c)
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

void doctor_cgroup(const struct host *h, struct check *c)
{
	(void)h;
	if (cgroup_why()[0] == '\0') {
		say(c, CHECK_OK, "each VM has a group with limits");
		return;
	}
	say(c, CHECK_WARN, "VMs run without limits: %s", cgroup_why());
	mend(c, "sudo systemctl start fcmd   (as a service it has a group; a container must be given one)");
}

void doctor_disk(const struct host *h, struct check *c)
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

void doctor_programs(const struct host *h, struct check *c)
{
#define AGAIN(key) "sudo ./bootstrap install, or the package again   (or " key " = PATH in " CONFIG_FILE ")"
	auto_free char *preload = vmm_preload(h->config->shim);
	const struct {
		const char *path;
		int mode;
		const char *fix;
	} programs[] = {
		{h->config->shim, X_OK, AGAIN("shim")},
		{preload, R_OK, AGAIN("shim")},
		{h->config->oci, X_OK, AGAIN("oci")},
		{"/sbin/mkfs.ext4", X_OK, "sudo apt-get install e2fsprogs"},
	};
#undef AGAIN

	for (size_t i = 0; i < ARRAY_SIZE(programs); i++)
		if (access(programs[i].path, programs[i].mode) < 0) {
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

void doctor_build(const struct host *h, struct check *c)
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

/* What makes the default image: the shipped scripts, or its registry. */
static const char *image_verb(const char *image)
{
	static const char *const made[] = {"base", "debian", "tiny"};

	for (size_t i = 0; i < ARRAY_SIZE(made); i++)
		if (strcmp(made[i], image) == 0)
			return "image build";
	return "pull";
}

void doctor_assets(const struct host *h, struct check *c)
{
	const char *kernel = h->config->defaults.kernel, *image = h->config->defaults.image;
	auto_free char *vmlinux = xprintf("%s/kernels/%s/vmlinux", h->config->state_dir, kernel);
	struct fcm_error ignored;
	struct image_id id;
	bool have_kernel = access(vmlinux, R_OK) == 0;
	bool have_image = h->images && image_resolve(image, &id, &ignored) == 0;

	if (have_kernel && have_image) {
		say(c, CHECK_OK, "kernel '%s' and image '%s'", kernel, image);
		return;
	}
	say(c, CHECK_FAIL, "no %s yet",
		have_kernel  ? "image"
		: have_image ? "kernel"
			     : "kernel and no image");
	if (have_image)
		mend(c, "fcm image build kernel");
	else
		mend(c, "%sfcm %s %s", have_kernel ? "" : "fcm image build kernel; ", image_verb(image),
			image);
}

void doctor_caddy(const struct host *h, struct check *c)
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

/* How others reach the API. Whether Caddy serves its name only the daemon knows. */
void doctor_remote(const struct host *h, struct check *c)
{
	const char *name = h->config->api_domain;
	struct vm_expose site;

	site_api(&site);
	if (config_listens_abroad(h->config)) {
		say(c, CHECK_WARN, "plain HTTP at %s: tokens can be read on the way", h->config->listen);
		mend(c, "listen = 127.0.0.1:7777 and api_domain = api in " CONFIG_FILE);
	} else if (*name == '\0') {
		say(c, CHECK_OK, "the API is reached from this host alone (no api_domain in the config)");
	} else if (strcmp(site.status, "pending") == 0) {
		say(c, CHECK_WARN, "https://%.80s isn't served: %s", site.domain, site.reason);
		mend(c, "sudo systemctl status caddy   (fcmd tries again by itself)");
	} else {
		say(c, CHECK_OK, "https://%s %s", *site.domain ? site.domain : name,
			*site.domain ? "is the API's, by Caddy"
				     : "is to be the API's: fcm doctor says whether it is");
	}
}

enum clock_kept { CLOCK_UNKNOWN, CLOCK_KEPT, CLOCK_LEFT };

/* As a service we may not call adjtimex(2), which only reads when it is asked for nothing (ProtectClock); systemd may. */
static enum clock_kept clock_kept(void)
{
	const char *const argv[] = {"/usr/bin/timedatectl", "show", "-p", "NTPSynchronized", "--value", NULL};
	struct timex t = {.modes = 0};
	_cleanup_(buf_done) struct buf out = {0};
	int state = adjtimex(&t);

	if (state >= 0)
		return state == TIME_ERROR || t.status & STA_UNSYNC ? CLOCK_LEFT : CLOCK_KEPT;
	if (!look(argv, &out) || out.n == 0)
		return CLOCK_UNKNOWN;
	return strncmp(out.p, "yes", 3) == 0 ? CLOCK_KEPT : CLOCK_LEFT;
}

/* Guests get the host's time. */
void doctor_clock(const struct host *h, struct check *c)
{
	(void)h;
	switch (clock_kept()) {
	case CLOCK_KEPT:
		say(c, CHECK_OK, "kept right by NTP");
		break;
	case CLOCK_UNKNOWN:
		say(c, CHECK_OK, "nobody here tells whether it is right");
		break;
	case CLOCK_LEFT:
		say(c, CHECK_WARN, "nothing keeps the host's clock right, and guests get its time");
		mend(c, "sudo apt-get install systemd-timesyncd && sudo timedatectl set-ntp true");
		break;
	}
}
