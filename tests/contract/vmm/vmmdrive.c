/*
 * Drives one VM through a driver's table of functions, as the engine does, for test_vmm.py.
 *
 *	vmmdrive --drivers						the names of all drivers, a line each
 *	vmmdrive --choose KEY=VALUE...					vmm_choose() with that config
 *	vmmdrive DRIVER ACCEL PROGRAM SHIM DIR ID UID ASSETS DISK	then a command a line on stdin, an answer a line on stdout
 *
 * ASSETS is a folder of vmlinux, initrd and image.ext4. DIR/jail and DIR/jail/run must exist, and the device tap_ID where a
 * VMM opens it. Commands: plan, binds, describe, disk MIB OPS (its limits), memory MIB, mac N (the last byte), version V, saved DIR
 * ID (begin with what is saved there, of that VM), start, attach, configure, boot, load, channel, hello, call OP, rc FILE (for
 * the guest to run), event, pause, save DIR, resume, soft_off, free, limit MS (of each call that follows; 15000), ended MS.
 * Answers: "ok [words]" or "error <code> <message>".
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "common/config.h"
#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/frame.h"
#include "common/core/kv.h"
#include "daemon/shim/shim.h"
#include "daemon/vmm/bootargs.h"
#include "daemon/vmm/vmm.h"

static const struct vmm_driver *driver;
static struct vmm_config config;
static struct vmm *vmm;
static struct proc_id shim, process;
static int dirfd_, run_fd = -1, shim_pidfd = -1, channel = -1;
static uid_t uid;
static const char *shim_path, *folder;
static int64_t limit_ms = 15000;
static struct buf in; /* read from the channel, not yet understood */

static int64_t deadline(void)
{
	return clock_in(limit_ms);
}

static int print_lines(const struct strv *l)
{
	printf("ok %zu\n", l->n);
	for (size_t i = 0; i < l->n; i++)
		puts(l->v[i]);
	return 1;
}

static int do_plan(const char *arg, struct fcm_error *err)
{
	_cleanup_(vmm_plan_done) struct vmm_plan plan = {.tap_fd = -1};

	(void)arg;
	return driver->plan(&config, &plan, err) < 0 ? -1 : print_lines(&plan.argv);
}

static int do_binds(const char *arg, struct fcm_error *err)
{
	_cleanup_(vmm_plan_done) struct vmm_plan plan = {.tap_fd = -1};

	(void)arg;
	return driver->plan(&config, &plan, err) < 0 ? -1 : print_lines(&plan.binds);
}

static int do_describe(const char *arg, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv lines = {0};

	(void)arg, (void)err;
	driver->describe(&config, &lines);
	return print_lines(&lines);
}

static int open_tap(struct fcm_error *err)
{
	struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	fcm_format(r.ifr_name, sizeof r.ifr_name, "tap_%s", config.id.s);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &r) < 0)
		return fcm_fail_errno(err, "tap");
	return fd;
}

static int do_start(const char *arg, struct fcm_error *err)
{
	_cleanup_(vmm_plan_done) struct vmm_plan plan = {.tap_fd = -1};
	auto_free char *jail = xprintf("%s/jail", folder);
	auto_close int ring = shim_ring_make(dirfd_, err);
	auto_close int tap = -1;
	struct stat kvm = {0};

	(void)arg;
	if (ring < 0 || driver->plan(&config, &plan, err) < 0 ||
		(plan.tap_fd >= 0 && (tap = open_tap(err)) < 0))
		return -1;
	if (config.accel == VMM_KVM)
		(void)!stat("/dev/kvm", &kvm);
	struct shim_spec spec = {
		.id = config.id,
		.shim = shim_path,
		.jail = jail,
		.vm_dirfd = dirfd_,
		.ring_fd = ring,
		.tap_fd = tap,
		.uid = uid,
		.kvm_gid = kvm.st_gid,
		.plan = &plan,
		.deadline = deadline(),
	};
	if (shim_start(&spec, &shim, &process, err) < 0)
		return -1;
	shim_pidfd = proc_open(&shim, err);
	printf("ok shim=%d vmm=%d\n", (int)shim.pid, (int)process.pid);
	return 1;
}

static int do_attach(const char *arg, struct fcm_error *err)
{
	(void)arg;
	return driver->attach(run_fd, deadline(), &vmm, err);
}

static int do_configure(const char *arg, struct fcm_error *err)
{
	(void)arg;
	return driver->configure(vmm, &config, deadline(), err);
}

static int do_boot(const char *arg, struct fcm_error *err)
{
	(void)arg;
	return driver->boot(vmm, deadline(), err);
}

static int do_pause(const char *arg, struct fcm_error *err)
{
	(void)arg;
	return driver->pause(vmm, deadline(), err);
}

static int do_resume(const char *arg, struct fcm_error *err)
{
	(void)arg;
	return driver->resume(vmm, deadline(), err);
}

static int do_save(const char *arg, struct fcm_error *err)
{
	auto_close int fd = dir_open(AT_FDCWD, arg, err);

	struct vmm_saving what = {
		.process = &process, .run_dirfd = run_fd, .dirfd = fd, .mem_mib = config.mem_mib};
	return fd < 0 ? -1 : driver->save(vmm, &what, deadline(), err);
}

static int do_load(const char *arg, struct fcm_error *err)
{
	(void)arg;
	return driver->load(vmm, &config, deadline(), err);
}

static int do_soft_off(const char *arg, struct fcm_error *err)
{
	(void)arg;
	return driver->soft_off(vmm, deadline(), err);
}

static int do_free(const char *arg, struct fcm_error *err)
{
	(void)arg, (void)err;
	driver->free(STEAL(vmm));
	return 0;
}

static int do_channel(const char *arg, struct fcm_error *err)
{
	(void)arg;
	fcm_closep(&channel);
	buf_drop(&in, in.n);
	channel = driver->channel(run_fd, deadline(), err);
	return channel < 0 ? -1 : 0;
}

static int do_disk(const char *arg, struct fcm_error *err)
{
	return sscanf(arg, "%u %u", &config.disk_mib_per_second, &config.disk_ops_per_second) == 2
		       ? 0
		       : fcm_fail(err, FCM_USAGE, "disk MIB OPS");
}

static int do_memory(const char *arg, struct fcm_error *err)
{
	(void)err;
	config.mem_mib = (unsigned)strtoul(arg, NULL, 10);
	return 0;
}

static int do_mac(const char *arg, struct fcm_error *err)
{
	(void)err;
	config.mac[5] = (uint8_t)strtoul(arg, NULL, 10);
	return 0;
}

static int do_version(const char *arg, struct fcm_error *err)
{
	(void)err;
	config.version = xstrdup(arg);
	return 0;
}

static int do_saved(const char *arg, struct fcm_error *err)
{
	const char *id = strchr(arg, ' ');

	if (id == NULL)
		return fcm_fail(err, FCM_USAGE, "saved DIR ID");
	config.saved = xprintf("%.*s", (int)(id - arg), arg);
	fcm_copy(config.saved_id.s, sizeof config.saved_id.s, id + 1);
	auto_free char *memory = xprintf("%s/" VMM_MEMORY, config.saved);
	config.saved_memory = access(memory, F_OK) == 0;
	config.preload = vmm_preload(shim_path);
	return 0;
}

static int do_limit(const char *arg, struct fcm_error *err)
{
	(void)err;
	limit_ms = strtol(arg, NULL, 10);
	return 0;
}

static int do_ended(const char *arg, struct fcm_error *err)
{
	struct shim_exit e;

	if (!proc_wait(shim_pidfd, clock_in(strtol(arg, NULL, 10))))
		return fcm_fail(err, FCM_TIMEOUT, "it lives");
	if (!shim_exit_read(dirfd_, &e))
		return fcm_fail(err, FCM_HOST, "no record of the end");
	printf("ok status=%d signal=%d\n", e.status, e.signal);
	return 1;
}

/* ---- the agent ---- */

static int receive(int64_t until, struct fcm_error *err)
{
	struct pollfd p = {.fd = channel, .events = POLLIN};
	char chunk[4096];

	if (poll(&p, 1, clock_left(until)) <= 0)
		return fcm_fail(err, FCM_TIMEOUT, "the agent says nothing");
	ssize_t n = recv(channel, chunk, sizeof chunk, MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno != EAGAIN))
		return fcm_fail(err, FCM_GUEST, "the channel is closed");
	buf_add(&in, chunk, n > 0 ? (size_t)n : 0);
	return 0;
}

/* Print a frame's kv list with blanks between. */
static int print_frame(const struct frame *f)
{
	_cleanup_(buf_done) struct buf text = {0};

	buf_add(&text, f->payload, f->len);
	for (size_t i = 0; i + 1 < text.n; i++)
		if (text.p[i] == '\0')
			text.p[i] = ' ';
	printf("ok %.*s\n", (int)text.n, text.n ? text.p : "");
	buf_drop(&in, FRAME_HEADER + (size_t)f->len);
	return 1;
}

static int say(uint32_t stream, enum frame_type type, const struct buf *payload, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf frame = {0};

	frame_add(&frame, stream, type, payload->p, payload->n);
	return send(channel, frame.p, frame.n, MSG_NOSIGNAL) == (ssize_t)frame.n
		       ? 0
		       : fcm_fail_errno(err, "send");
}

static int do_hello(const char *arg, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf hello = {0};
	auto_free char *nonce = xprintf("%llx", (unsigned long long)clock_ms());
	int64_t until = deadline();
	struct frame f;
	size_t keep;

	(void)arg;
	kv_add(&hello, "magic", FRAME_MAGIC);
	kv_add(&hello, "version", "1");
	kv_add(&hello, "nonce", nonce);
	for (;;) {
		if (say(0, FRAME_HELLO, &hello, err) < 0)
			return -1;
		for (int64_t again = clock_in(400); clock_left(again);) {
			if (receive(MIN(again, until), err) < 0 && err->code != FCM_TIMEOUT)
				return -1;
			size_t end = in.n ? frame_find_hello(in.p, in.n, nonce, &f, &keep) : 0;
			if (end) {
				printf("ok boot_id=%s\n", kv_get(f.payload, f.len, "boot_id"));
				buf_drop(&in, end);
				return 1;
			}
		}
		if (clock_left(until) == 0)
			return fcm_fail(err, FCM_TIMEOUT, "no HELLO");
	}
}

/* The next frame of a type on a stream; others, such as answers to HELLOs that were repeated, are passed over. */
static int next_frame(uint32_t stream, enum frame_type type, struct fcm_error *err)
{
	int64_t until = deadline();
	struct frame f;

	for (;;) {
		ssize_t n = in.n ? frame_parse(in.p, in.n, &f) : 0;
		if (n < 0)
			return fcm_fail(err, FCM_GUEST, "no frame");
		if (n > 0 && f.stream == stream && f.type == type)
			return print_frame(&f);
		if (n > 0)
			buf_drop(&in, (size_t)n);
		else if (receive(until, err) < 0)
			return -1;
	}
}

static int do_call(const char *arg, struct fcm_error *err)
{
	static uint32_t stream;
	_cleanup_(buf_done) struct buf request = {0};
	auto_free char *words = xstrdup(arg);
	char *state = NULL;

	kv_add(&request, "op", strtok_r(words, " ", &state));
	for (char *w; (w = strtok_r(NULL, " ", &state));)
		buf_add(&request, w, strlen(w) + 1);
	return say(++stream, FRAME_REQ, &request, err) < 0 ? -1 : next_frame(stream, FRAME_RES, err);
}

/* Make a file of the host's what the guest runs at its start. */
static int do_rc(const char *arg, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf request = {0}, text = {0};

	if (file_read(AT_FDCWD, arg, 4096, &text, err) < 0)
		return -1;
	kv_add(&request, "op", "file");
	kv_add(&request, "path", "/etc/fcm/rc");
	kv_add(&request, "mode", "755");
	buf_add(&request, "", 1);
	buf_add(&request, text.p, text.n);
	return say(0, FRAME_REQ, &request, err) < 0 ? -1 : next_frame(0, FRAME_RES, err);
}

static int do_event(const char *arg, struct fcm_error *err)
{
	(void)arg;
	return next_frame(0, FRAME_EVENT, err);
}

/* ---- */

static const struct {
	const char *name;
	int (*run)(const char *arg, struct fcm_error *err); /* 1: it has printed its answer */
} commands[] = {
	{"plan", do_plan},
	{"binds", do_binds},
	{"describe", do_describe},
	{"start", do_start},
	{"attach", do_attach},
	{"configure", do_configure},
	{"boot", do_boot},
	{"channel", do_channel},
	{"hello", do_hello},
	{"call", do_call},
	{"rc", do_rc},
	{"event", do_event},
	{"pause", do_pause},
	{"save", do_save},
	{"load", do_load},
	{"resume", do_resume},
	{"soft_off", do_soft_off},
	{"free", do_free},
	{"disk", do_disk},
	{"memory", do_memory},
	{"mac", do_mac},
	{"version", do_version},
	{"saved", do_saved},
	{"limit", do_limit},
	{"ended", do_ended},
};

static void run(char *line)
{
	struct fcm_error err = {0};
	char *arg = line + strcspn(line, " ");
	int rc = -2;

	if (*arg)
		*arg++ = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(commands) && rc == -2; i++)
		if (strcmp(commands[i].name, line) == 0)
			rc = commands[i].run(arg, &err);
	if (rc == 0)
		puts("ok");
	else if (rc == -1)
		printf("error %s %s\n", fcm_code_info(err.code)->wire, err.msg);
	else if (rc == -2)
		puts("error usage no such command");
	fflush(stdout);
}

static int choose(char **assignments)
{
	struct fcmd_config c;
	struct fcm_error err;
	struct vmm_probe probe = {0};

	config_init(&c);
	for (; *assignments; assignments++)
		if (config_set(&c, *assignments, &err) < 0) {
			fprintf(stderr, "%s\n", err.msg);
			return 2;
		}
	int64_t t = clock_ms();
	const struct vmm_driver *d = vmm_choose(&c, &probe);
	printf("driver=%s version=%s accel=%s binary=%s ms=%lld reason=%s kvm=%s\n", d ? d->name : "none",
		probe.version, probe.accel == VMM_KVM ? "kvm" : "tcg", probe.binary,
		(long long)(clock_ms() - t), probe.reason, probe.kvm);
	config_done(&c);
	return 0;
}

static int prepare(char **argv, struct fcm_error *err)
{
	static struct vmm_probe probe;
	const char *assets = argv[8];
	auto_free char *run_path = xprintf("%s/jail/run", argv[5]);

	driver = vmm_driver_find(argv[1]);
	if (driver == NULL)
		return fcm_fail(err, FCM_USAGE, "no driver '%s'", argv[1]);
	if (driver->probe(argv[3], &probe, err) < 0)
		return -1;
	shim_path = argv[4];
	folder = argv[5];
	uid = (uid_t)strtoul(argv[7], NULL, 10);
	config = (struct vmm_config){
		.name = {"contract"},
		.vcpus = 1,
		.mem_mib = 128,
		.ip = {htonl(0xac100032)},
		.gateway = {htonl(0xac100001)},
		.prefix = 24,
		.mac = {0x02, 0xfc, 0xac, 0x10, 0, 0x32},
		.binary = probe.binary,
		.version = probe.version,
		.kernel = xprintf("%s/vmlinux", assets),
		.initrd = xprintf("%s/initrd", assets),
		.image = xprintf("%s/image.ext4", assets),
		.disk = argv[9],
		.run = STEAL(run_path),
		.accel = strcmp(argv[2], "kvm") == 0 ? VMM_KVM : VMM_TCG,
		.tsc_khz = bootargs_tsc_khz(),
	};
	fcm_copy(config.id.s, sizeof config.id.s, argv[6]);
	if (getenv("NAME"))
		fcm_copy(config.name.s, sizeof config.name.s, getenv("NAME"));
	dirfd_ = dir_open(AT_FDCWD, folder, err);
	run_fd = dirfd_ < 0 ? -1 : dir_open(AT_FDCWD, config.run, err);
	return run_fd < 0 ? -1 : 0;
}

int main(int argc, char **argv)
{
	struct fcm_error err;
	char line[512];

	if (argc == 2 && strcmp(argv[1], "--drivers") == 0) {
		for (size_t i = 0; vmm_drivers[i]; i++)
			puts(vmm_drivers[i]->name);
		return 0;
	}
	if (argc >= 2 && strcmp(argv[1], "--choose") == 0)
		return choose(argv + 2);
	if (argc != 10 || prepare(argv, &err) < 0) {
		fprintf(stderr, "usage: see vmmdrive.c%s%s\n", argc == 10 ? ": " : "",
			argc == 10 ? err.msg : "");
		return 2;
	}
	while (fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\n")] = '\0';
		run(line);
	}
	return 0;
}
