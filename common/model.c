#include "common/model.h"

#include <string.h>

#include "common/core/localurl.h"
#include "common/core/publish.h"
#include "common/core/signals.h"
#include "common/model_check.h"
#include "common/pattern.h"

const char *const vm_state_names[] = {"creating", "stopped", "starting", "running", "paused", "suspending",
	"suspended", "stopping", "failed", "destroying", NULL};
const char *const vm_restart_names[] = {"no", "on-failure", "always", "unless-stopped", NULL};
const char *const ready_mode_names[] = {"auto", "none", "agent", "ssh", "tcp", "http", "log", "exec", NULL};
const char *const health_names[] = {"none", "starting", "healthy", "unhealthy", NULL};
const char *const vm_desired_names[] = {"stopped", "running", NULL};

const struct field ready_fields[] = {
	F(struct ready_spec, mode, FIELD_ENUM, .names = ready_mode_names, .doc = "what is waited for"),
	F(struct ready_spec, port, FIELD_U32, .min = 1, .max = 65535, .flags = FIELD_OMIT_EMPTY,
		.doc = "tcp: the port"),
	F(struct ready_spec, url, FIELD_STR, .max = LOCAL_URL_MAX, .check = model_check_url,
		.flags = FIELD_OMIT_EMPTY, .doc = "http: what is fetched, in the guest"),
	F(struct ready_spec, log, FIELD_STR, .max = PATTERN_MAX, .check = model_check_pattern,
		.flags = FIELD_OMIT_EMPTY, .doc = "log: a regular expression for a line of the console"),
	F(struct ready_spec, exec, FIELD_STR, .max = PROBE_MAX_COMMAND, .flags = FIELD_OMIT_EMPTY,
		.doc = "exec: a line for the guest's shell"),
	F(struct ready_spec, timeout, FIELD_U32, .min = 1, .max = READY_MAX_SECONDS,
		.flags = FIELD_OMIT_EMPTY | FIELD_SPAN, .doc = "seconds to wait at most"),
	F(struct ready_spec, interval, FIELD_U32, .min = 1, .max = READY_MAX_SECONDS,
		.flags = FIELD_OMIT_EMPTY | FIELD_SPAN, .doc = "seconds between two tries"),
	FIELD_END,
};

const struct field health_fields[] = {
	F(struct health_spec, interval, FIELD_U32, .min = 1, .max = HEALTH_MAX_SECONDS,
		.flags = FIELD_OMIT_EMPTY | FIELD_SPAN, .doc = "seconds between two checks"),
	F(struct health_spec, timeout, FIELD_U32, .min = 1, .max = PROBE_MAX_SECONDS,
		.flags = FIELD_OMIT_EMPTY | FIELD_SPAN, .doc = "seconds that one may take"),
	F(struct health_spec, retries, FIELD_U32, .min = 1, .max = HEALTH_MAX_RETRIES,
		.flags = FIELD_OMIT_EMPTY, .doc = "failures in a row that mean unhealthy"),
	F(struct health_spec, start_period, FIELD_U32, .max = HEALTH_MAX_SECONDS,
		.flags = FIELD_OMIT_EMPTY | FIELD_SPAN, .doc = "seconds in which failures don't count"),
	F(struct health_spec, cmd, FIELD_STR, .max = PROBE_MAX_COMMAND, .flags = FIELD_OMIT_EMPTY,
		.doc = "a line for the guest's shell"),
	F(struct health_spec, args, FIELD_STRV, .max = EXEC_MAX_WORDS, .check = model_check_args,
		.flags = FIELD_OMIT_EMPTY, .doc = "a program and its arguments"),
	F(struct health_spec, http, FIELD_STR, .max = LOCAL_URL_MAX, .check = model_check_url,
		.flags = FIELD_OMIT_EMPTY, .doc = "what is fetched, in the guest"),
	F(struct health_spec, disable, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "none, whatever the image says"),
	FIELD_END,
};

bool health_given(const struct health_spec *h)
{
	return (h->cmd && *h->cmd) || (h->http && *h->http) || h->args.n;
}

const struct field main_fields[] = {
	F(struct main_spec, args, FIELD_STRV, .max = EXEC_MAX_WORDS, .check = model_check_args,
		.flags = FIELD_OMIT_EMPTY, .doc = "the program and its arguments"),
	F(struct main_spec, entrypoint, FIELD_STRV, .max = EXEC_MAX_WORDS, .check = model_check_args,
		.flags = FIELD_OMIT_EMPTY, .doc = "words before those"),
	F(struct main_spec, dir, FIELD_STR, .max = 1023, .check = model_check_workdir,
		.flags = FIELD_OMIT_EMPTY, .doc = "where it runs"),
	F(struct main_spec, user, FIELD_STR, .max = 64, .check = model_check_user, .flags = FIELD_OMIT_EMPTY,
		.doc = "who runs it: a name or number, user:group; root when left out"),
	F(struct main_spec, tty, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY, .doc = "on a terminal"),
	FK("stdin", struct main_spec, with_stdin, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "its stdin is open, for who attaches"),
	F(struct main_spec, read_only, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "it sees its root read-only"),
	F(struct main_spec, tmpfs, FIELD_STRV, .max = VM_MAX_TMPFS, .check = model_check_dirs,
		.flags = FIELD_OMIT_EMPTY, .doc = "directories in memory"),
	F(struct main_spec, stop_signal, FIELD_SIGNAL, .min = 1, .max = SIGNAL_MAX, .flags = FIELD_OMIT_EMPTY,
		.doc = "the signal that ends it, SIGTERM when left out"),
	FIELD_END,
};

bool vm_state_up(enum vm_state state)
{
	switch (state) {
	case VM_STARTING:
	case VM_RUNNING:
	case VM_PAUSED:
	case VM_SUSPENDING:
	case VM_STOPPING:
		return true;
	case VM_CREATING:
	case VM_STOPPED:
	case VM_SUSPENDED:
	case VM_FAILED:
	case VM_DESTROYING:
	case VM_STATES:
		break;
	}
	return false;
}

const char *vm_state_verb(enum vm_state state)
{
	return state == VM_PAUSED ? "resume" : "start";
}

bool main_given(const struct main_spec *m)
{
	return m->args.n || m->entrypoint.n || m->dir || m->user || m->tty || m->with_stdin || m->read_only ||
	       m->tmpfs.n || m->stop_signal;
}

static void copy_main(struct main_spec *dst, const struct main_spec *src)
{
	*dst = *src;
	dst->args = dst->entrypoint = dst->tmpfs = (struct strv){0};
	strv_copy(&dst->args, &src->args);
	strv_copy(&dst->entrypoint, &src->entrypoint);
	strv_copy(&dst->tmpfs, &src->tmpfs);
	dst->dir = xstrdup(src->dir);
	dst->user = xstrdup(src->user);
}

bool ready_given(const struct ready_spec *r)
{
	return r->mode != READY_AUTO || r->timeout || r->interval;
}

void ready_copy(struct ready_spec *dst, const struct ready_spec *src)
{
	*dst = *src;
	dst->url = xstrdup(src->url);
	dst->log = xstrdup(src->log);
	dst->exec = xstrdup(src->exec);
}

static void copy_health(struct health_spec *dst, const struct health_spec *src)
{
	*dst = *src;
	dst->cmd = xstrdup(src->cmd);
	dst->http = xstrdup(src->http);
	dst->args = (struct strv){0};
	strv_copy(&dst->args, &src->args);
}

void vm_spec_copy(struct vm_spec *dst, const struct vm_spec *src)
{
	*dst = *src;
	dst->env = dst->labels = dst->ssh_keys = dst->publish = dst->volumes = (struct strv){0};
	strv_copy(&dst->env, &src->env);
	strv_copy(&dst->labels, &src->labels);
	strv_copy(&dst->ssh_keys, &src->ssh_keys);
	strv_copy(&dst->publish, &src->publish);
	strv_copy(&dst->volumes, &src->volumes);
	ready_copy(&dst->ready, &src->ready);
	copy_health(&dst->health, &src->health);
	copy_main(&dst->main, &src->main);
}

/* The rows that a request and a VM have in common; `type` is the struct around `spec`. */
#define SPEC_SIZES(type, flags_)                                                                             \
	FK("cpus", type, spec.vcpus, FIELD_U32, .min = 1, .max = VM_MAX_VCPUS, .flags = flags_,              \
		.doc = "virtual CPUs"),                                                                      \
		FK("memory", type, spec.mem_mib, FIELD_MIB, .min = VM_MIN_MEM_MIB, .max = VM_MAX_MEM_MIB,    \
			.flags = flags_, .doc = "memory in MiB"),                                            \
		FK("disk", type, spec.disk_mib, FIELD_MIB, .min = VM_MIN_DISK_MIB, .max = VM_MAX_DISK_MIB,   \
			.flags = flags_, .doc = "size of the (sparse) disk in MiB"),                         \
		FK("image", type, spec.image, FIELD_CHARS, .check = model_check_image, .flags = flags_,      \
			.doc = "image that the disk lies over"),                                             \
		FK("kernel", type, spec.kernel, FIELD_CHARS, .check = model_check_asset, .flags = flags_,    \
			.doc = "kernel that it boots"),                                                      \
		FK("restart", type, spec.restart, FIELD_ENUM, .names = vm_restart_names,                     \
			.doc = "when it is started again after it ended")
#define SPEC_LISTS(type, flags_)                                                                             \
	FK("env", type, spec.env, FIELD_MAP, .max = VM_MAX_ENV, .check = model_check_env,                    \
		.flags = FIELD_SECRET | (flags_), .doc = "environment of what the image runs"),              \
		FK("labels", type, spec.labels, FIELD_MAP, .max = VM_MAX_LABELS,                             \
			.check = model_check_labels, .flags = flags_, .doc = "words of the user's own"),     \
		FK("ssh_keys", type, spec.ssh_keys, FIELD_STRV, .max = VM_MAX_KEYS,                          \
			.check = model_check_keys, .flags = flags_, .doc = "public keys that may log in"),   \
		FK("publish", type, spec.publish, FIELD_STRV, .max = PUBLISH_MAX,                            \
			.check = model_check_publish, .flags = flags_,                                       \
			.doc = "its ports that are reached at this host's"),                                 \
		FK("volumes", type, spec.volumes, FIELD_STRV, .max = VM_MAX_VOLUMES,                         \
			.check = model_check_volumes, .flags = flags_,                                       \
			.doc = "volumes, NAME:/PATH[:ro] or /PATH")

const struct field vm_create_fields[] = {
	FK("name", struct vm_create, spec.name, FIELD_CHARS, .check = model_check_name_or_none,
		.flags = FIELD_OMIT_EMPTY, .doc = "name; chosen when left out"),
	SPEC_SIZES(struct vm_create, FIELD_OMIT_EMPTY),
	SPEC_LISTS(struct vm_create, FIELD_OMIT_EMPTY),
	FK("expose", struct vm_create, spec.expose_port, FIELD_U32, .min = 1, .max = 65535,
		.flags = FIELD_OMIT_EMPTY, .doc = "port of the VM that gets a public HTTPS name"),
	FK("ready", struct vm_create, spec.ready, FIELD_OBJECT, .sub = ready_fields,
		.check = model_check_ready, .flags = FIELD_OMIT_EMPTY, .doc = "what a start waits for"),
	FK("health", struct vm_create, spec.health, FIELD_OBJECT, .sub = health_fields,
		.check = model_check_health, .flags = FIELD_OMIT_EMPTY,
		.doc = "how it is seen that it works"),
	FK("hostname", struct vm_create, spec.hostname, FIELD_CHARS, .check = model_check_hostname,
		.flags = FIELD_OMIT_EMPTY, .doc = "what it calls itself; its name when left out"),
	FK("publish_all", struct vm_create, spec.publish_all, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "publish the ports that the image names, too"),
	FK("expose_image", struct vm_create, spec.expose_image, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "expose the only port that the image names"),
	FK("main", struct vm_create, spec.main, FIELD_OBJECT, .sub = main_fields, .flags = FIELD_OMIT_EMPTY,
		.doc = "the program whose end is the VM's"),
	FK("auto_remove", struct vm_create, spec.auto_remove, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "destroy it when it has ended"),
	FK("hold", struct vm_create, spec.hold, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "its main process waits for POST .../start"),
	F(struct vm_create, save_snapshot, FIELD_CHARS, .check = model_check_asset_or_none,
		.flags = FIELD_OMIT_EMPTY, .doc = "a snapshot that is taken once it is up"),
	F(struct vm_create, dry_run, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "only say what would be done"),
	FIELD_END,
};

const struct field vm_defaults_fields[] = {
	FK("cpus", struct vm_defaults, vcpus, FIELD_U32, .min = 1, .max = VM_MAX_VCPUS,
		.doc = "virtual CPUs"),
	FK("memory", struct vm_defaults, mem_mib, FIELD_MIB, .min = VM_MIN_MEM_MIB, .max = VM_MAX_MEM_MIB,
		.doc = "memory"),
	FK("disk", struct vm_defaults, disk_mib, FIELD_MIB, .min = VM_MIN_DISK_MIB, .max = VM_MAX_DISK_MIB,
		.doc = "size of the (sparse) disk"),
	F(struct vm_defaults, image, FIELD_CHARS, .check = model_check_image, .doc = "image"),
	F(struct vm_defaults, kernel, FIELD_CHARS, .check = model_check_asset, .doc = "kernel"),
	F(struct vm_defaults, restart, FIELD_ENUM, .names = vm_restart_names,
		.doc = "no, on-failure, always or unless-stopped"),
	FIELD_END,
};

static const struct field vm_expose_fields[] = {
	F(struct vm_expose, port, FIELD_U32, .min = 1, .max = 65535),
	F(struct vm_expose, domain, FIELD_CHARS, .check = model_check_domain),
	F(struct vm_expose, status, FIELD_CHARS),
	F(struct vm_expose, reason, FIELD_CHARS, .flags = FIELD_OMIT_EMPTY),
	FIELD_END,
};

static const struct field vm_next_fields[] = {
	FK("cpus", struct vm_next, vcpus, FIELD_U32, .max = VM_MAX_VCPUS),
	FK("memory", struct vm_next, mem_mib, FIELD_MIB, .max = VM_MAX_MEM_MIB),
	FIELD_END,
};

static const struct field vm_exited_fields[] = {
	F(struct vm_exited, time, FIELD_TIME),
	F(struct vm_exited, code, FIELD_U32, .max = 255),
	FIELD_END,
};

static const struct field vm_reason_fields[] = {
	F(struct vm_reason, code, FIELD_CHARS),
	F(struct vm_reason, step, FIELD_CHARS),
	F(struct vm_reason, message, FIELD_CHARS),
	F(struct vm_reason, time, FIELD_TIME),
	FIELD_END,
};

const struct field vm_view_fields[] = {
	F(struct vm_view, id, FIELD_CHARS, .check = model_check_id, .flags = FIELD_REQUIRED),
	F(struct vm_view, name, FIELD_CHARS, .check = model_check_name, .flags = FIELD_REQUIRED),
	F(struct vm_view, ip, FIELD_IPV4),
	F(struct vm_view, state, FIELD_ENUM, .names = vm_state_names),
	F(struct vm_view, expose, FIELD_OBJECT, .sub = vm_expose_fields, .flags = FIELD_NULL_EMPTY),
	F(struct vm_view, schema, FIELD_U32),
	F(struct vm_view, desired, FIELD_ENUM, .names = vm_desired_names),
	SPEC_SIZES(struct vm_view, FIELD_REQUIRED),
	F(struct vm_view, next, FIELD_OBJECT, .sub = vm_next_fields, .flags = FIELD_NULL_EMPTY),
	SPEC_LISTS(struct vm_view, 0),
	FK("ready", struct vm_view, spec.ready, FIELD_OBJECT, .sub = ready_fields,
		.check = model_check_ready),
	FK("health", struct vm_view, spec.health, FIELD_OBJECT, .sub = health_fields,
		.check = model_check_health, .flags = FIELD_NULL_EMPTY),
	FK("main", struct vm_view, spec.main, FIELD_OBJECT, .sub = main_fields, .flags = FIELD_NULL_EMPTY),
	FK("auto_remove", struct vm_view, spec.auto_remove, FIELD_BOOL),
	F(struct vm_view, exited, FIELD_OBJECT, .sub = vm_exited_fields, .flags = FIELD_NULL_EMPTY),
	F(struct vm_view, reason, FIELD_OBJECT, .sub = vm_reason_fields, .flags = FIELD_NULL_EMPTY),
	F(struct vm_view, created, FIELD_TIME),
	F(struct vm_view, started, FIELD_TIME),
	F(struct vm_view, vmm, FIELD_CHARS),
	F(struct vm_view, accel, FIELD_CHARS),
	F(struct vm_view, vmm_reason, FIELD_CHARS),
	F(struct vm_view, uid, FIELD_U32),
	F(struct vm_view, vmm_pid, FIELD_I64),
	F(struct vm_view, mac, FIELD_CHARS),
	F(struct vm_view, boot_id, FIELD_CHARS),
	F(struct vm_view, host_key, FIELD_CHARS, .check = model_check_host_key),
	F(struct vm_view, boots, FIELD_I64),
	F(struct vm_view, disk_used, FIELD_I64),
	F(struct vm_view, snapshot, FIELD_CHARS, .check = model_check_id_or_none, .flags = FIELD_OMIT_EMPTY),
	FK("image_id", struct vm_view, image_id.s, FIELD_CHARS, .check = model_check_image_id,
		.flags = FIELD_OMIT_EMPTY),
	F(struct vm_view, image_ports, FIELD_STRV, .max = PUBLISH_MAX, .flags = FIELD_OMIT_EMPTY),
	FK("hostname", struct vm_view, spec.hostname, FIELD_CHARS, .check = model_check_hostname,
		.flags = FIELD_OMIT_EMPTY),
	FK("hold", struct vm_view, spec.hold, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY),
	F(struct vm_view, throwaway, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY),
	FIELD_END,
};

const struct field expose_request_fields[] = {
	F(struct expose_request, port, FIELD_U32, .min = 1, .max = 65535, .flags = FIELD_REQUIRED,
		.doc = "port of the VM"),
	F(struct expose_request, domain, FIELD_CHARS, .check = model_check_domain, .flags = FIELD_OMIT_EMPTY,
		.doc = "name; chosen when left out"),
	FIELD_END,
};

const struct field update_request_fields[] = {
	F(struct update_request, name, FIELD_CHARS, .check = model_check_name_or_none,
		.flags = FIELD_OMIT_EMPTY, .doc = "its new name"),
	FK("cpus", struct update_request, vcpus, FIELD_U32, .min = 1, .max = VM_MAX_VCPUS,
		.flags = FIELD_OMIT_EMPTY, .doc = "virtual CPUs, from its next start on"),
	FK("memory", struct update_request, mem_mib, FIELD_MIB, .min = VM_MIN_MEM_MIB, .max = VM_MAX_MEM_MIB,
		.flags = FIELD_OMIT_EMPTY, .doc = "memory in MiB, from its next start on"),
	F(struct update_request, restart, FIELD_CHARS, .check = model_check_restart,
		.flags = FIELD_OMIT_EMPTY, .doc = "when it is started again after it ended"),
	F(struct update_request, labels, FIELD_MAP, .max = VM_MAX_LABELS, .check = model_check_labels,
		.flags = FIELD_OMIT_EMPTY, .doc = "labels that it gets, or that get another value"),
	F(struct update_request, remove_labels, FIELD_STRV, .max = VM_MAX_LABELS, .flags = FIELD_OMIT_EMPTY,
		.doc = "labels that it loses"),
	FIELD_END,
};

const struct field start_request_fields[] = {
	F(struct start_request, ready, FIELD_OBJECT, .sub = ready_fields, .check = model_check_ready,
		.flags = FIELD_OMIT_EMPTY, .doc = "what this start waits for"),
	FIELD_END,
};

const struct field stop_request_fields[] = {
	F(struct stop_request, time, FIELD_U32, .min = 0, .max = VM_MAX_STOP_SECONDS,
		.doc = "seconds that the guest has before it is killed"),
	FIELD_END,
};

const struct field kill_request_fields[] = {
	F(struct kill_request, signal, FIELD_SIGNAL, .min = 1, .max = SIGNAL_MAX, .flags = FIELD_OMIT_EMPTY,
		.doc = "what its main process is sent; left out or KILL: the VM is ended"),
	FIELD_END,
};

const struct field exec_request_fields[] = {
	F(struct exec_request, cmd, FIELD_STRV, .max = EXEC_MAX_WORDS, .check = model_check_words,
		.flags = FIELD_REQUIRED, .doc = "the program and its arguments"),
	F(struct exec_request, env, FIELD_MAP, .max = VM_MAX_ENV, .check = model_check_env_names,
		.flags = FIELD_OMIT_EMPTY, .doc = "environment beside the VM's"),
	F(struct exec_request, workdir, FIELD_STR, .max = 4095, .check = model_check_workdir,
		.flags = FIELD_OMIT_EMPTY, .doc = "where it runs"),
	F(struct exec_request, user, FIELD_STR, .max = 64, .check = model_check_user,
		.flags = FIELD_OMIT_EMPTY,
		.doc = "who runs it: a name or number, user:group; root when left out"),
	F(struct exec_request, tty, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY, .doc = "on a terminal"),
	FK("stdin", struct exec_request, with_stdin, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "its stdin comes on the stream; empty else"),
	F(struct exec_request, input, FIELD_STR, .max = EXEC_MAX_INPUT, .flags = FIELD_OMIT_EMPTY,
		.doc = "its stdin, without a stream"),
	F(struct exec_request, detach, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "answer when it has started"),
	F(struct exec_request, timeout, FIELD_U32, .max = EXEC_MAX_SECONDS, .flags = FIELD_OMIT_EMPTY,
		.doc = "seconds before it is ended"),
	F(struct exec_request, rows, FIELD_U32, .max = EXEC_MAX_ROWS, .flags = FIELD_OMIT_EMPTY,
		.doc = "of the terminal"),
	F(struct exec_request, cols, FIELD_U32, .max = EXEC_MAX_ROWS, .flags = FIELD_OMIT_EMPTY,
		.doc = "of the terminal"),
	FIELD_END,
};

const struct field publish_request_fields[] = {
	F(struct publish_request, publish, FIELD_STRV, .max = PUBLISH_MAX, .check = model_check_publish,
		.flags = FIELD_REQUIRED, .doc = "ports to publish, [[HOSTIP:]HOSTPORT:]PORT[/udp]"),
	FIELD_END,
};

const struct field unpublish_request_fields[] = {
	F(struct publish_request, publish, FIELD_STRV, .max = PUBLISH_MAX, .check = model_check_unpublish,
		.flags = FIELD_REQUIRED, .doc = "ports to publish no more, [HOSTIP:]HOSTPORT[:PORT][/udp]"),
	FIELD_END,
};

const struct field keys_request_fields[] = {
	F(struct keys_request, keys, FIELD_STRV, .max = VM_MAX_KEYS, .check = model_check_keys,
		.flags = FIELD_REQUIRED, .doc = "lines of authorized_keys"),
	FIELD_END,
};

const struct field tag_request_fields[] = {
	F(struct tag_request, image, FIELD_CHARS, .check = model_check_image, .flags = FIELD_REQUIRED,
		.doc = "the image"),
	F(struct tag_request, tag, FIELD_CHARS, .check = model_check_image, .flags = FIELD_REQUIRED,
		.doc = "its new name"),
	FIELD_END,
};

const struct field prune_request_fields[] = {
	F(struct prune_request, all, FIELD_BOOL, .doc = "also those that have names"),
	FIELD_END,
};

const struct field volume_request_fields[] = {
	F(struct volume_request, name, FIELD_CHARS, .check = model_check_asset_or_none,
		.flags = FIELD_OMIT_EMPTY, .doc = "name; chosen when left out"),
	FK("size", struct volume_request, size_mib, FIELD_MIB, .min = VM_MIN_DISK_MIB, .max = VM_MAX_DISK_MIB,
		.flags = FIELD_OMIT_EMPTY, .doc = "size in MiB; that of a VM's disk when left out"),
	FIELD_END,
};

const struct field snapshot_request_fields[] = {
	F(struct snapshot_request, name, FIELD_CHARS, .check = model_check_asset_or_none,
		.flags = FIELD_OMIT_EMPTY, .doc = "name; chosen when left out"),
	F(struct snapshot_request, note, FIELD_CHARS, .check = model_check_line, .flags = FIELD_OMIT_EMPTY,
		.doc = "what it is for"),
	F(struct snapshot_request, disk_only, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "without memory: what begins with it boots"),
	F(struct snapshot_request, stop, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "end the VM once it is saved"),
	FIELD_END,
};

const struct field clone_request_fields[] = {
	F(struct clone_request, name, FIELD_CHARS, .check = model_check_name_or_none,
		.flags = FIELD_OMIT_EMPTY, .doc = "name; chosen when left out"),
	F(struct clone_request, count, FIELD_U32, .min = 1, .max = CLONE_MAX, .flags = FIELD_OMIT_EMPTY,
		.doc = "how many"),
	F(struct clone_request, publish, FIELD_STRV, .max = PUBLISH_MAX, .check = model_check_publish,
		.flags = FIELD_OMIT_EMPTY, .doc = "ports to publish: those of the source are not"),
	FK("expose", struct clone_request, expose_port, FIELD_U32, .min = 1, .max = 65535,
		.flags = FIELD_OMIT_EMPTY, .doc = "port that gets a public HTTPS name"),
	F(struct clone_request, disk_only, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "boot it, without the memory"),
	F(struct clone_request, auto_remove, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "destroy it when it has ended"),
	F(struct clone_request, ready, FIELD_OBJECT, .sub = ready_fields, .check = model_check_ready,
		.flags = FIELD_OMIT_EMPTY, .doc = "what it waits for"),
	FIELD_END,
};

const struct field restore_request_fields[] = {
	F(struct restore_request, snapshot, FIELD_CHARS, .check = model_check_asset, .flags = FIELD_REQUIRED,
		.doc = "name or id of the snapshot"),
	F(struct restore_request, disk_only, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "boot it, without the memory"),
	FIELD_END,
};

const struct field image_pull_fields[] = {
	F(struct image_pull, image, FIELD_STR, .max = REF_TEXT - 1, .flags = FIELD_REQUIRED,
		.doc = "a reference"),
	F(struct image_pull, user, FIELD_STR, .max = 255, .flags = FIELD_OMIT_EMPTY,
		.doc = "for its registry; " REGISTRY_IDENTITY " when the password is an identity token"),
	F(struct image_pull, password, FIELD_STR, .max = 4095, .flags = FIELD_OMIT_EMPTY | FIELD_SECRET,
		.doc = "for its registry"),
	F(struct image_pull, platform, FIELD_STR, .max = 63, .check = model_check_platform,
		.flags = FIELD_OMIT_EMPTY, .doc = "only " IMAGE_PLATFORM),
	FIELD_END,
};

const struct field image_build_fields[] = {
	F(struct image_build, name, FIELD_CHARS, .check = model_check_image, .flags = FIELD_REQUIRED,
		.doc = "name of the new image"),
	FK("from", struct image_build, spec.image, FIELD_CHARS, .check = model_check_image,
		.flags = FIELD_OMIT_EMPTY, .doc = "image that it is built on"),
	F(struct image_build, script, FIELD_STR, .max = BUILD_MAX_SCRIPT, .flags = FIELD_REQUIRED,
		.doc = "what runs there, as root"),
	FK("env", struct image_build, spec.env, FIELD_MAP, .max = VM_MAX_ENV, .check = model_check_env,
		.flags = FIELD_SECRET | FIELD_OMIT_EMPTY, .doc = "environment of the script"),
	FK("cpus", struct image_build, spec.vcpus, FIELD_U32, .min = 1, .max = VM_MAX_VCPUS,
		.flags = FIELD_OMIT_EMPTY, .doc = "virtual CPUs"),
	FK("memory", struct image_build, spec.mem_mib, FIELD_MIB, .min = VM_MIN_MEM_MIB,
		.max = VM_MAX_MEM_MIB, .flags = FIELD_OMIT_EMPTY, .doc = "memory in MiB"),
	FK("disk", struct image_build, spec.disk_mib, FIELD_MIB, .min = VM_MIN_DISK_MIB,
		.max = VM_MAX_DISK_MIB, .flags = FIELD_OMIT_EMPTY, .doc = "size of the (sparse) disk in MiB"),
	FIELD_END,
};

const struct field registry_check_fields[] = {
	FK("registry", struct image_pull, image, FIELD_STR, .max = 255, .check = model_check_registry,
		.flags = FIELD_REQUIRED, .doc = "HOST[:PORT]"),
	F(struct image_pull, user, FIELD_STR, .max = 255, .flags = FIELD_OMIT_EMPTY, .doc = "for it"),
	F(struct image_pull, password, FIELD_STR, .max = 4095, .flags = FIELD_OMIT_EMPTY | FIELD_SECRET,
		.doc = "for it"),
	FIELD_END,
};

const char *const token_scope_names[] = {"read", "full", NULL};

const struct field token_request_fields[] = {
	F(struct token_request, name, FIELD_CHARS, .check = model_check_who, .flags = FIELD_REQUIRED,
		.doc = "who the token is for"),
	F(struct token_request, scope, FIELD_ENUM, .names = token_scope_names,
		.doc = "full, or read: it changes nothing, and enters no guest"),
	F(struct token_request, vms, FIELD_CHARS, .check = model_check_selector,
		.doc = "KEY=VALUE: for VMs with that label alone"),
	F(struct token_request, expires_in, FIELD_U32, .min = 1, .max = TOKEN_MAX_SECONDS,
		.doc = "seconds until it ends; else it doesn't"),
	FIELD_END,
};

void vm_spec_defaults(struct vm_spec *ret, const struct vm_defaults *d)
{
	*ret = (struct vm_spec){
		.vcpus = d->vcpus,
		.mem_mib = d->mem_mib,
		.disk_mib = d->disk_mib,
		.restart = d->restart,
	};
	fcm_copy(ret->image, sizeof ret->image, d->image);
	fcm_copy(ret->kernel, sizeof ret->kernel, d->kernel);
}

/* The expose object with its url behind the domain. */
static field_json *expose_json(const field_json *plain, const char *domain)
{
	auto_free char *url = xprintf("https://%s", domain);
	field_json *v = fj_object();

	for (const char *key = NULL; (key = fj_next_key(plain, key));) {
		fj_set(v, key, fj_ref(fj_get(plain, key)));
		if (strcmp(key, "domain") == 0)
			fj_set_str(v, "url", *domain ? url : NULL);
	}
	return v;
}

field_json *vm_view_json(const struct vm_view *vm, bool show_env)
{
	field_json *v = field_encode(vm_view_fields, vm, show_env);

	if (vm->expose.port)
		fj_set(v, "expose", expose_json(fj_get(v, "expose"), vm->expose.domain));
	return v;
}

void vm_json_health(field_json *vm, const struct vm_health *h)
{
	field_json *v = fj_get(vm, "health");

	if (h->status == HEALTH_NONE)
		return;
	fj_set_str(v, "status", health_names[h->status]);
	fj_set_int(v, "failing", h->failing);
	fj_set_str(v, "message", h->message);
}
