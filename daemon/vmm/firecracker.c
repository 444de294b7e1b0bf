/*
 * The Firecracker driver, 1.8 and later (before it the guest finds no device without virtio_mmio.device= words, which
 * Debian's kernel doesn't know).
 *
 * The command line says next to nothing: configure() makes the calls of the table below, in its order, and boot() lets the
 * machine run. The guest's serial console is the VMM's stdin and stdout, as it still is where there is a call `serial`
 * (since 1.14), which would only lead it to a file that nothing bounds. The shim's ring bounds it, together with what
 * Firecracker logs, so there is no log file either. No metrics: nothing of ours reads them.
 *
 * A machine is saved by one call, and its files are copied then (fcsave.h says why). It is loaded from those copies, which
 * its jail shows read-only at constant paths: memory is mapped privately, so what no clone has changed is there once. All
 * that the machine was told of its drives, their limits and the vsock is in the state; only the TAP may be another one, and
 * that since 1.12. A state has a checksum and a version, and Firecracker refuses one that it can't read; memory has none.
 *
 * It opens its TAP by name, as the TAP's owner, so unlike QEMU it stays in the host's network namespace; Firecracker's own
 * seccomp filter keeps it from opening any socket there but unix ones: those below its jail, and abstract ones of the host.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/core/clock.h"
#include "daemon/vmm/bootargs.h"
#include "daemon/vmm/fcapi.h"
#include "daemon/vmm/fcsave.h"
#include "daemon/vmm/program.h"
#include "daemon/vmm/socket.h"
#include "daemon/vmm/vmm.h"

#define PROGRAM "/firecracker" /* in the jail; ps shows its own name */
#define MAC_FORMAT "%02x:%02x:%02x:%02x:%02x:%02x"

enum {
	OLDEST_MINOR = 8,     /* of version 1 */
	OVERRIDES_MINOR = 12, /* the first that loads a machine on another TAP */
	REPORTING_MINOR = 14, /* the first whose balloon reports free pages */
	GUEST_CID = 3,	      /* the first that isn't reserved (vsock(7)); each VM has a vsock of its own */
	AGENT_PORT = 52,      /* docs/AGENT.md */
	TRY_MS = 200,	      /* for the first try to reach the agent; then twice that, and so on */
	TRY_MAX_MS = 1600,    /* Firecracker forgets a connection that the guest doesn't take within 2 s */
	PAUSE_MS = 10,	      /* after a refusal: the guest is up, its agent not yet */
	SPEND_MS = 3000,   /* for a guest to look at its vsock again; 10 ms, on a busy host half a second */
	SPEND_TRY_MS = 20, /* for the first try, which mostly has no answer */
};

struct vmm {
	int run_dirfd;
	bool voided; /* it was saved or loaded, and hasn't run since */
};

/* "1.12.1", also "1.14.0-dev": 12, 14; -1 when it isn't a version 1. */
static int minor_of(const char *version)
{
	unsigned major = 0, minor = 0;

	return sscanf(version, "%3u.%3u", &major, &minor) == 2 && major == 1 ? (int)minor : -1;
}

/* ---- the calls ---- */

static field_json *machine_config(const struct vmm_config *config)
{
	field_json *o = fj_object();

	fj_set_int(o, "vcpu_count", config->vcpus);
	fj_set_int(o, "mem_size_mib", config->mem_mib);
	return o;
}

static field_json *boot_source(const struct vmm_config *config)
{
	auto_free char *line = bootargs(config, BOOT_FIRECRACKER);
	field_json *o = fj_object();

	fj_set_str(o, "kernel_image_path", VMM_KERNEL);
	fj_set_str(o, "initrd_path", VMM_INITRD);
	fj_set_str(o, "boot_args", line); /* always: the default has `nomodule` */
	return o;
}

static field_json *drive(const char *id, const char *path, bool read_only)
{
	field_json *o = fj_object();

	fj_set_str(o, "drive_id", id);
	fj_set_str(o, "path_on_host", path);
	fj_set_bool(o, "is_root_device", false); /* the agent mounts; a root device would only add root= */
	fj_set_bool(o, "is_read_only", read_only);
	return o;
}

static field_json *image_drive(const struct vmm_config *config)
{
	(void)config;
	return drive("image", VMM_IMAGE, true);
}

/* A bucket holds what may pass in a second; as it is only filled when it is found empty, a guest that was idle can have
 * two of them at once. One of size 0 would let nothing pass. */
static void add_bucket(field_json *limiter, const char *key, int64_t size)
{
	if (size == 0)
		return;
	field_json *o = fj_object();
	fj_set_int(o, "size", size);
	fj_set_int(o, "refill_time", 1000);
	fj_set(limiter, key, o);
}

static field_json *rate_limiter(const struct vmm_config *config)
{
	field_json *o = fj_object();

	add_bucket(o, "bandwidth", (int64_t)config->disk_mib_per_second << 20);
	add_bucket(o, "ops", config->disk_ops_per_second);
	return o;
}

static field_json *disk_drive(const struct vmm_config *config)
{
	field_json *o = drive("disk", VMM_DISK, false);

	fj_set_str(o, "cache_type", "Writeback"); /* the default, Unsafe, ignores the guest's flushes */
	fj_set(o, "rate_limiter", rate_limiter(config));
	return o;
}

static char *volume_path(size_t i)
{
	return xprintf("/drives/volume%zu", i);
}

static field_json *volume_drive(const struct vmm_config *config, size_t i)
{
	auto_free char *id = xprintf("volume%zu", i), *path = xprintf(VMM_VOLUME, i);
	field_json *o = drive(id, path, config->volumes[i].read_only);

	fj_set_str(o, "cache_type", "Writeback");
	fj_set(o, "rate_limiter", rate_limiter(config));
	return o;
}

static void tap_name(const struct vmm_config *config, char ret[IFNAMSIZ])
{
	fcm_format(ret, IFNAMSIZ, "tap_%s", config->id.s);
}

static field_json *network_interface(const struct vmm_config *config)
{
	const uint8_t *m = config->mac;
	char mac[18], tap[IFNAMSIZ];
	field_json *o = fj_object();

	tap_name(config, tap);
	fcm_format(mac, sizeof mac, MAC_FORMAT, m[0], m[1], m[2], m[3], m[4], m[5]);
	fj_set_str(o, "iface_id", "eth0");
	fj_set_str(o, "guest_mac", mac);
	fj_set_str(o, "host_dev_name", tap);
	return o;
}

static field_json *vsock(const struct vmm_config *config)
{
	field_json *o = fj_object();

	(void)config;
	fj_set_int(o, "guest_cid", GUEST_CID);
	fj_set_str(o, "uds_path", VMM_RUN "/" VMM_AGENT);
	return o;
}

static field_json *entropy(const struct vmm_config *config)
{
	(void)config;
	return fj_object();
}

/* Memory that the guest has freed goes back to the host; the balloon itself stays empty. NULL for a Firecracker whose
 * balloon can't do that: one before 1.14. */
static field_json *balloon(const struct vmm_config *config)
{
	if (minor_of(config->version) < REPORTING_MINOR)
		return NULL;
	field_json *o = fj_object();
	fj_set_int(o, "amount_mib", 0);
	fj_set_bool(o, "deflate_on_oom", true);
	fj_set_bool(o, "free_page_reporting", true);
	return o;
}

static field_json *action(const char *type)
{
	field_json *o = fj_object();

	fj_set_str(o, "action_type", type);
	return o;
}

static field_json *instance_start(const struct vmm_config *config)
{
	(void)config;
	return action("InstanceStart");
}

static field_json *create_snapshot(void)
{
	field_json *o = fj_object();

	fj_set_str(o, "snapshot_type", "Full");
	fj_set_str(o, "snapshot_path", VMM_RUN "/" VMM_STATE);
	fj_set_str(o, "mem_file_path", VMM_RUN "/" VMM_MEMORY);
	return o;
}

/* This VM's TAP in place of that of the one that was saved. */
static field_json *network_overrides(const struct vmm_config *config)
{
	char tap[IFNAMSIZ];
	field_json *list = fj_array(), *o = fj_object();

	tap_name(config, tap);
	fj_set_str(o, "iface_id", "eth0");
	fj_set_str(o, "host_dev_name", tap);
	fj_append(list, o);
	return list;
}

static field_json *load_snapshot(const struct vmm_config *config)
{
	field_json *o = fj_object(), *memory = fj_object();

	fj_set_str(memory, "backend_type", "File");
	fj_set_str(memory, "backend_path", VMM_SAVED VMM_MEMORY);
	fj_set_str(o, "snapshot_path", VMM_SAVED VMM_STATE);
	fj_set(o, "mem_backend", memory);
	if (minor_of(config->version) >= OVERRIDES_MINOR)
		fj_set(o, "network_overrides", network_overrides(config));
	return o;
}

static field_json *vm_state(const char *state)
{
	field_json *o = fj_object();

	fj_set_str(o, "state", state);
	return o;
}

/* In the order in which the guest finds the devices: the image is vda, the disk vdb, and volumes, which come last, are vdc
 * and so on, for drives are counted by themselves. The id in a path must be that in the
 * body. Without a body there is no call. */
static const struct call {
	const char *path;
	field_json *(*body)(const struct vmm_config *config);
} calls[] = {
	{"/machine-config", machine_config},
	{"/boot-source", boot_source},
	{"/drives/image", image_drive},
	{"/drives/disk", disk_drive},
	{"/network-interfaces/eth0", network_interface},
	{"/vsock", vsock},
	{"/entropy", entropy},
	{"/balloon", balloon},
};
static const struct call start_call = {"/actions", instance_start};

/* ---- plan ---- */

static int check_saved(const struct vmm_config *config, struct fcm_error *err)
{
	if (strcmp(config->saved_id.s, config->id.s) == 0 || minor_of(config->version) >= OVERRIDES_MINOR)
		return 0;
	fcm_fail(err, FCM_NO_VMM, "Firecracker %s loads a saved machine only on the TAP it had, tap_%s",
		config->version, config->saved_id.s);
	return fcm_hint(
		err, "1.%d and later load it on any: sudo fcm assets download firecracker", OVERRIDES_MINOR);
}

static int firecracker_plan(const struct vmm_config *config, struct vmm_plan *ret, struct fcm_error *err)
{
	static const char *const devices[] = {"/dev/kvm", "/dev/net/tun", "/dev/urandom", "/dev/null"};

	if (config->binary[0] != '/')
		return fcm_fail(err, FCM_CONFIG, "firecracker = %s: not an absolute path", config->binary);
	if (config->saved && check_saved(config, err) < 0)
		return -1;
	/* After each key that the guest took it looks for the next one (devices/legacy/serial.rs), on the thread that serves
	 * all its devices: where that read blocks, the guest has neither disk nor network. */
	*ret = (struct vmm_plan){.tap_fd = -1, .stdin_nonblock = true};
	strv_add(&ret->argv, PROGRAM);
	strv_add(&ret->argv, "--api-sock");
	strv_add(&ret->argv, VMM_RUN "/" VMM_CONTROL);
	strv_add(&ret->argv, "--id");
	strv_add(&ret->argv, config->id.s);
	strv_add(&ret->argv, "--level"); /* below it, a line for each call stands on the guest's console */
	strv_add(&ret->argv, "Error");
	vmm_bind(ret, config->binary, PROGRAM, "ro");
	vmm_bind_files(ret, config);
	if (config->saved) {
		vmm_bind_saved(ret, config, VMM_STATE);
		vmm_bind_saved(ret, config, VMM_MEMORY);
	}
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
		vmm_bind(ret, devices[i], devices[i], "dev");
	return 0;
}

/* ---- talk ---- */

static int call(struct vmm *vmm, const char *method, const char *path, field_json *body, int64_t deadline,
	struct fcm_error *err)
{
	return fcapi_call(vmm->run_dirfd, method, path, body, deadline, NULL, err);
}

static int check_greeting(const field_json *v, struct fcm_error *err)
{
	char version[32];

	fcm_copy(version, sizeof version, fj_get_str(v, "vmm_version"));
	vmm_clean(version, strlen(version));
	if (strcmp(fj_get_str(v, "app_name"), "Firecracker") != 0)
		return fcm_fail(err, FCM_VMM, "what answers on the VMM's control socket isn't Firecracker");
	if (minor_of(version) < OLDEST_MINOR)
		return fcm_fail(
			err, FCM_VMM, "Firecracker %s is not 1.%d or a later 1.x", version, OLDEST_MINOR);
	return 0;
}

static int firecracker_attach(int run_dirfd, int64_t deadline, struct vmm **ret, struct fcm_error *err)
{
	auto_json field_json *greeting = NULL;

	if (fcapi_call(run_dirfd, "GET", "/", NULL, deadline, &greeting, err) < 0 ||
		check_greeting(greeting, err) < 0)
		return -1;
	int fd = fcntl(run_dirfd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		return fcm_fail_errno(err, "keep the directory of the VMM's sockets");
	*ret = xalloc(sizeof **ret);
	(*ret)->run_dirfd = fd;
	return 0;
}

/* Firecracker makes a missing one where it may, and says nothing: the guest's network would lead nowhere. */
static int check_tap(const struct vmm_config *config, struct fcm_error *err)
{
	char tap[IFNAMSIZ];

	tap_name(config, tap);
	return if_nametoindex(tap) ? 0 : fcm_fail(err, FCM_HOST, "there is no device %s", tap);
}

static int firecracker_configure(
	struct vmm *vmm, const struct vmm_config *config, int64_t deadline, struct fcm_error *err)
{
	if (check_tap(config, err) < 0)
		return -1;
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		field_json *body = calls[i].body(config);
		if (body && call(vmm, "PUT", calls[i].path, body, deadline, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < config->n_volumes; i++) {
		auto_free char *path = volume_path(i);
		if (call(vmm, "PUT", path, volume_drive(config, i), deadline, err) < 0)
			return -1;
	}
	return 0;
}

static int firecracker_boot(struct vmm *vmm, int64_t deadline, struct fcm_error *err)
{
	return call(vmm, "PUT", start_call.path, start_call.body(NULL), deadline, err);
}

static int firecracker_pause(struct vmm *vmm, int64_t deadline, struct fcm_error *err)
{
	return call(vmm, "PATCH", "/vm", vm_state("Paused"), deadline, err);
}

static int create_files(struct vmm *vmm, int run_dirfd, int64_t deadline, struct fcm_error *err)
{
	if (call(vmm, "PUT", "/snapshot/create", create_snapshot(), deadline, err) == 0)
		return 0;
	if (err->code == FCM_VMM && fcsave_full(run_dirfd)) /* while what it wrote is still there */
		return fcm_fail(err, FCM_NO_SPACE, "no space left for what the VMM writes of its machine");
	return -1;
}

static int firecracker_save(
	struct vmm *vmm, const struct vmm_saving *what, int64_t deadline, struct fcm_error *err)
{
	struct fcm_error ignored;

	if (fcsave_clear(what->run_dirfd, err) < 0)
		return -1;
	vmm->voided = true;
	if (create_files(vmm, what->run_dirfd, deadline, err) < 0 ||
		fcsave_take(what->run_dirfd, what->dirfd, what->mem_mib, deadline, err) < 0) {
		(void)!fcsave_clear(what->run_dirfd, &ignored);
		return -1;
	}
	return fcsave_clear(what->run_dirfd, err);
}

static int firecracker_load(
	struct vmm *vmm, const struct vmm_config *config, int64_t deadline, struct fcm_error *err)
{
	if (check_tap(config, err) < 0)
		return -1;
	vmm->voided = true;
	return call(vmm, "PUT", "/snapshot/load", load_snapshot(config), deadline, err);
}

static int firecracker_soft_off(struct vmm *vmm, int64_t deadline, struct fcm_error *err)
{
	return call(vmm, "PUT", "/actions", action("SendCtrlAltDel"), deadline, err);
}

/* Firecracker's answer to CONNECT: "OK 1073741824\n", the guest's side of which is none of our business. Byte by byte,
 * since what follows is the agent's. */
static int read_ok(int fd, int64_t deadline, struct fcm_error *err)
{
	char line[32];

	for (size_t n = 0; n < sizeof line; n++) {
		ssize_t k = vmm_receive(fd, line + n, 1, deadline, err);
		if (k < 0)
			return -1;
		if (k == 0)
			return fcm_fail(err, FCM_TIMEOUT, "the guest's agent does not listen yet");
		if (line[n] == '\n')
			return n > 3 && memcmp(line, "OK ", 3) == 0
				       ? 0
				       : fcm_fail(err, FCM_VMM, "the VMM refused a channel to the agent");
	}
	return fcm_fail(err, FCM_VMM, "the VMM sent what is no answer to CONNECT");
}

/* One try. It has a deadline of its own, as one may be lost: the guest's first connection after it was saved or loaded can
 * stay without any answer. */
static int try_channel(int run_dirfd, int64_t deadline, struct fcm_error *err)
{
	auto_close int fd = vmm_connect(run_dirfd, VMM_AGENT, deadline, err);
	auto_free char *request = xprintf("CONNECT %d\n", AGENT_PORT);

	if (fd < 0 || vmm_send(fd, request, strlen(request), deadline, err) < 0 ||
		read_ok(fd, deadline, err) < 0)
		return -1;
	return STEAL_FD(fd);
}

static int firecracker_channel(int run_dirfd, int64_t deadline, struct fcm_error *err)
{
	for (int64_t ms = TRY_MS; clock_left(deadline); ms = MIN(2 * ms, (int64_t)TRY_MAX_MS)) {
		int fd = try_channel(run_dirfd, MIN(clock_in(ms), deadline), err);
		/* A reset says the same as an end of file: nobody listens in the guest yet. */
		if (fd >= 0 || (err->code != FCM_TIMEOUT && err->sys != ECONNRESET && err->sys != EPIPE))
			return fd;
		clock_sleep(MIN(PAUSE_MS, clock_left(deadline)));
	}
	return fcm_fail(err, FCM_TIMEOUT, "the guest's agent does not listen yet");
}

/* A guest that runs again learns first that all its connections are void (VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, virtio 1.2,
 * 5.10.6.7), but takes a new one that came before it looked, which is void then, too. So the first is this one, which nobody
 * needs: when the guest has answered it, it has looked. */
static void spend_connection(int run_dirfd, int64_t deadline)
{
	struct fcm_error ignored;

	for (int64_t ms = SPEND_TRY_MS; clock_left(deadline); ms *= 2) {
		int64_t until = MIN(clock_in(ms), deadline);
		auto_close int fd = try_channel(run_dirfd, until, &ignored);
		if (fd >= 0 || clock_left(until))
			return;
	}
}

static int firecracker_resume(struct vmm *vmm, int64_t deadline, struct fcm_error *err)
{
	if (call(vmm, "PATCH", "/vm", vm_state("Resumed"), deadline, err) < 0)
		return -1;
	if (vmm->voided)
		spend_connection(vmm->run_dirfd, MIN(clock_in(SPEND_MS), deadline));
	vmm->voided = false;
	return 0;
}

static void firecracker_free(struct vmm *vmm)
{
	if (vmm == NULL)
		return;
	close(vmm->run_dirfd);
	free(vmm);
}

/* Takes over `body`. */
static void describe_call(const struct vmm_config *config, const char *method, const char *path,
	field_json *body_, struct strv *ret)
{
	auto_json field_json *body = body_;

	if (body == NULL)
		return;
	auto_free char *text = fj_print(body, false);
	strv_addf(ret, "api %s/%s: %s %s %s", config->run, VMM_CONTROL, method, path, text);
}

static void firecracker_describe(const struct vmm_config *config, struct strv *ret)
{
	if (config->saved) {
		describe_call(config, "PUT", "/snapshot/load", load_snapshot(config), ret);
		describe_call(config, "PATCH", "/vm", vm_state("Resumed"), ret);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		describe_call(config, "PUT", calls[i].path, calls[i].body(config), ret);
	for (size_t i = 0; i < config->n_volumes; i++) {
		auto_free char *path = volume_path(i);
		describe_call(config, "PUT", path, volume_drive(config, i), ret);
	}
	describe_call(config, "PUT", start_call.path, start_call.body(config), ret);
}

/* ---- probe ---- */

static int firecracker_probe(const char *program, struct vmm_probe *ret, struct fcm_error *err)
{
	if (program_find(program, ret->binary, sizeof ret->binary, err) < 0 ||
		program_version(ret->binary, "Firecracker v", ret->version, sizeof ret->version, err) < 0)
		return -1;
	if (minor_of(ret->version) < OLDEST_MINOR)
		return fcm_fail(err, FCM_NO_VMM, "%s is version %s, not 1.%d or a later 1.x", ret->binary,
			ret->version, OLDEST_MINOR);
	return program_is_static(ret->binary, err);
}

const struct vmm_driver vmm_firecracker = {
	.name = "firecracker",
	.caps = VMM_CAP_SOFT_OFF | VMM_CAP_SAVE,
	.probe = firecracker_probe,
	.plan = firecracker_plan,
	.attach = firecracker_attach,
	.configure = firecracker_configure,
	.boot = firecracker_boot,
	.pause = firecracker_pause,
	.resume = firecracker_resume,
	.save = firecracker_save,
	.load = firecracker_load,
	.soft_off = firecracker_soft_off,
	.channel = firecracker_channel,
	.free = firecracker_free,
	.describe = firecracker_describe,
};
