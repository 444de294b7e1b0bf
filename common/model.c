#include "common/model.h"

#include "common/core/publish.h"

#include <inttypes.h>
#include <string.h>

#include "common/core/localurl.h"
#include "common/core/signals.h"
#include "common/core/volume.h"
#include "common/crypt.h"
#include "common/field_internal.h"
#include "common/pattern.h"

const char *const vm_state_names[] = {
	"creating", "stopped", "starting", "running", "stopping", "failed", "destroying", NULL};
const char *const vm_restart_names[] = {"no", "on-failure", "always", "unless-stopped", NULL};
const char *const ready_mode_names[] = {"auto", "none", "agent", "ssh", "tcp", "http", "log", "exec", NULL};
const char *const health_names[] = {"none", "starting", "healthy", "unhealthy", NULL};
const char *const vm_desired_names[] = {"stopped", "running", NULL};

static int check_id(const void *value, const char *key, struct fcm_error *err)
{
	if (!vm_id_valid(value))
		return fcm_fail_field(err, FCM_INVALID, key, "%s: an id is 8 of a-z and 0-9", key);
	return 0;
}

static int check_name(const void *value, const char *key, struct fcm_error *err)
{
	struct vm_name name;

	return vm_name_parse(value, key, &name, err);
}

static int check_name_or_none(const void *value, const char *key, struct fcm_error *err)
{
	return *(const char *)value ? check_name(value, key, err) : 0;
}

int model_check_asset(const void *value, const char *key, struct fcm_error *err)
{
	struct asset_name name;

	return asset_name_parse(value, key, &name, err);
}

int model_check_image(const void *value, const char *key, struct fcm_error *err)
{
	struct ref ref;

	return ref_parse(value, key, &ref, err);
}

static int check_image_id(const void *value, const char *key, struct fcm_error *err)
{
	const char *id = value;

	return *id == '\0' || ref_digest_valid(id, false)
		       ? 0
		       : fcm_fail_field(err, FCM_INVALID, key, "%s: not 64 hex digits", key);
}

static int check_asset_or_none(const void *value, const char *key, struct fcm_error *err)
{
	return *(const char *)value ? model_check_asset(value, key, err) : 0;
}

int model_check_domain(const void *value, const char *key, struct fcm_error *err)
{
	struct dns_name name;

	return *(const char *)value ? dns_name_parse(value, key, &name, err) : 0;
}

/* Printable UTF-8 on one line? */
static bool one_line(const char *s)
{
	auto_free char *copy = xstrdup(s);
	size_t n = strlen(copy);

	return fcm_printable(copy, n) == n && memcmp(copy, s, n) == 0 && strpbrk(s, "\n\t") == NULL;
}

/* The name of an environment variable: IEEE 1003.1-2017, section 8.1, and lower case as well. */
static bool env_name_valid(const char *s, size_t n)
{
	static const char first[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_";
	static const char all[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";

	return n > 0 && strchr(first, s[0]) && strspn(s, all) == n;
}

static int check_env_names(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *env = value;

	for (size_t i = 0; i < env->n; i++) {
		size_t n = strcspn(env->v[i], "=");
		auto_free char *name = xprintf("%.*s", (int)MIN(n, (size_t)64), env->v[i]);
		if (!env_name_valid(env->v[i], n))
			return fcm_fail_field(err, FCM_INVALID, key,
				"%s: '%s' is no name (letters, digits and _)", key, field_clip(name).s);
	}
	return 0;
}

/* A VM's environment is a file with a line for each, unlike that of one command. */
static int check_env(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *env = value;
	size_t bytes = 0;

	if (check_env_names(value, key, err) < 0)
		return -1;
	for (size_t i = 0; i < env->n; i++) {
		auto_free char *name = xprintf("%.*s", (int)strcspn(env->v[i], "="), env->v[i]);
		if (strpbrk(env->v[i], "\n\r"))
			return fcm_fail_field(err, FCM_INVALID, key, "%s: the value of %s has a line break",
				key, field_clip(name).s);
		bytes += strlen(env->v[i]) + 1;
	}
	if (bytes > VM_MAX_ENV_BYTES)
		return fcm_fail_field(err, FCM_INVALID, key, "%s: larger than %d KiB together", key,
			VM_MAX_ENV_BYTES >> 10);
	return 0;
}

static int check_words(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *words = value;

	if (words->n == 0 || words->v[0][0] == '\0')
		return fcm_fail_field(err, FCM_INVALID, key, "%s: say what to run", key);
	return 0;
}

static int check_args(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *words = value;
	size_t bytes = 0;

	for (size_t i = 0; i < words->n; i++)
		bytes += strlen(words->v[i]) + 1;
	if (bytes > VM_MAX_MAIN_BYTES)
		return fcm_fail_field(err, FCM_INVALID, key, "%s: larger than %d KiB together", key,
			VM_MAX_MAIN_BYTES >> 10);
	return words->n ? check_words(value, key, err) : 0;
}

static int check_dirs(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *dirs = value;

	for (size_t i = 0; i < dirs->n; i++)
		if (dirs->v[i][0] != '/' || strlen(dirs->v[i]) > 255)
			return fcm_fail_field(err, FCM_INVALID, key,
				"%s: '%s' is no path of at most 255 bytes that begins with /", key,
				field_clip(dirs->v[i]).s);
	return 0;
}

static int check_workdir(const void *value, const char *key, struct fcm_error *err)
{
	const char *dir = *(char *const *)value;

	if (dir && dir[0] != '/')
		return fcm_fail_field(
			err, FCM_INVALID, key, "%s: '%s' doesn't begin with /", key, field_clip(dir).s);
	return 0;
}

static int check_user(const void *value, const char *key, struct fcm_error *err)
{
	const char *user = *(char *const *)value;

	if (user && (*user == '\0' || !one_line(user)))
		return fcm_fail_field(err, FCM_INVALID, key, "%s: a name or a number", key);
	return 0;
}

static int check_labels(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *labels = value;
	size_t bytes = 0;

	for (size_t i = 0; i < labels->n; i++) {
		bytes += strlen(labels->v[i]) + 1;
		const char *entry = labels->v[i];
		size_t n = strcspn(entry, "=");
		auto_free char *name = xprintf("%.*s", (int)MIN(n, (size_t)64), entry);
		if (n > 63 || strspn(entry, "abcdefghijklmnopqrstuvwxyz0123456789._/-") != n)
			return fcm_fail_field(err, FCM_INVALID, key,
				"%s: '%s' is no label: 1 to 63 of a-z, 0-9, '.', '_', '/' and '-'", key,
				field_clip(name).s);
		if (strlen(entry + n + 1) > VM_MAX_LABEL_BYTES || !one_line(entry + n + 1))
			return fcm_fail_field(err, FCM_INVALID, key,
				"%s: the value of %s is no line of at most %d bytes", key, name,
				VM_MAX_LABEL_BYTES);
	}
	if (bytes > VM_MAX_LABELS_BYTES)
		return fcm_fail_field(err, FCM_INVALID, key, "%s: larger than %d KiB together", key,
			VM_MAX_LABELS_BYTES >> 10);
	return 0;
}

static int check_keys(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *keys = value;

	for (size_t i = 0; i < keys->n; i++)
		if (!crypt_ssh_public_valid(keys->v[i]))
			return fcm_fail_field(err, FCM_INVALID, key,
				"%s: entry %zu is no public key (one line, like \"ssh-ed25519 AAAA... "
				"me@laptop\")",
				key, i + 1);
	return 0;
}

/* Each of them once, and each at a place of its own. */
static int check_volumes(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *volumes = value;
	struct volume_ref refs[VM_MAX_VOLUMES];

	for (size_t i = 0; i < volumes->n && i < ARRAY_SIZE(refs); i++) {
		if (volume_ref_parse(volumes->v[i], key, &refs[i], err) < 0)
			return -1;
		for (size_t k = 0; k < i; k++) {
			if (strcmp(refs[k].path, refs[i].path) == 0)
				return fcm_fail_field(
					err, FCM_INVALID, key, "%s: two volumes at %.80s", key, refs[i].path);
			if (*refs[i].name.s && strcmp(refs[k].name.s, refs[i].name.s) == 0)
				return fcm_fail_field(err, FCM_INVALID, key, "%s: '%s' is there twice", key,
					refs[i].name.s);
		}
	}
	return 0;
}

static int check_host_key(const void *value, const char *key, struct fcm_error *err)
{
	if (*(const char *)value && !crypt_ssh_public_valid(value))
		return fcm_fail_field(err, FCM_INVALID, key, "%s: no public key", key);
	return 0;
}

static int check_who(const void *value, const char *key, struct fcm_error *err)
{
	if (*(const char *)value == '\0' || !one_line(value))
		return fcm_fail_field(
			err, FCM_INVALID, key, "%s: say who the token is for, on one line", key);
	return 0;
}

static int check_platform(const void *value, const char *key, struct fcm_error *err)
{
	const char *s = *(char *const *)value;

	if (s && strcmp(s, IMAGE_PLATFORM) != 0)
		return fcm_fail_field(err, FCM_INVALID, key, "%s: VMs are " IMAGE_PLATFORM ", not '%s'", key,
			field_clip(s).s);
	return 0;
}

static int check_registry(const void *value, const char *key, struct fcm_error *err)
{
	const char *s = *(char *const *)value;

	if (s && !ref_registry_valid(s))
		return fcm_fail_field(err, FCM_INVALID, key,
			"%s: '%s' is no registry, HOST or HOST:PORT with a dot or a colon", key,
			field_clip(s).s);
	return 0;
}

static int check_url(const void *value, const char *key, struct fcm_error *err)
{
	const char *text = *(char *const *)value;
	struct local_url url;

	return text && *text ? local_url_parse(text, key, &url, err) : 0;
}

static int check_pattern(const void *value, const char *key, struct fcm_error *err)
{
	const char *text = *(char *const *)value;

	return text && *text ? pattern_check(text, key, err) : 0;
}

/* Each mode has what it needs, and nothing of another. */
static int check_ready(const void *value, const char *key, struct fcm_error *err)
{
	const struct ready_spec *r = value;
	const struct {
		const char *key;
		bool given, needed;
	} rules[] = {
		{"port", r->port, r->mode == READY_TCP},
		{"url", r->url && *r->url, r->mode == READY_HTTP},
		{"log", r->log && *r->log, r->mode == READY_LOG},
		{"exec", r->exec && *r->exec, r->mode == READY_EXEC},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
		if (rules[i].given == rules[i].needed)
			continue;
		auto_free char *path = xprintf("%s.%s", key, rules[i].key);
		return fcm_fail_field(err, FCM_INVALID, path,
			rules[i].given ? "%s: not for mode %s" : "%s: mode %s needs it", path,
			ready_mode_names[r->mode]);
	}
	return 0;
}

static int check_health(const void *value, const char *key, struct fcm_error *err)
{
	const struct health_spec *h = value;
	bool cmd = h->cmd && *h->cmd, http = h->http && *h->http;

	if (cmd != http)
		return 0;
	return fcm_fail_field(
		err, FCM_INVALID, key, "%s: %s", key, cmd ? "cmd or http, not both" : "it needs cmd or http");
}

const struct field ready_fields[] = {
	F(struct ready_spec, mode, FIELD_ENUM, .names = ready_mode_names, .doc = "what is waited for"),
	F(struct ready_spec, port, FIELD_U32, .min = 1, .max = 65535, .flags = FIELD_OMIT_EMPTY,
		.doc = "tcp: the port"),
	F(struct ready_spec, url, FIELD_STR, .max = LOCAL_URL_MAX, .check = check_url,
		.flags = FIELD_OMIT_EMPTY, .doc = "http: what is fetched, in the guest"),
	F(struct ready_spec, log, FIELD_STR, .max = PATTERN_MAX, .check = check_pattern,
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
	F(struct health_spec, http, FIELD_STR, .max = LOCAL_URL_MAX, .check = check_url,
		.flags = FIELD_OMIT_EMPTY, .doc = "what is fetched, in the guest"),
	FIELD_END,
};

const struct field main_fields[] = {
	F(struct main_spec, args, FIELD_STRV, .max = EXEC_MAX_WORDS, .check = check_args,
		.flags = FIELD_OMIT_EMPTY, .doc = "the program and its arguments"),
	F(struct main_spec, entrypoint, FIELD_STRV, .max = EXEC_MAX_WORDS, .check = check_args,
		.flags = FIELD_OMIT_EMPTY, .doc = "words before those"),
	F(struct main_spec, dir, FIELD_STR, .max = 1023, .check = check_workdir, .flags = FIELD_OMIT_EMPTY,
		.doc = "where it runs"),
	F(struct main_spec, user, FIELD_STR, .max = 64, .check = check_user, .flags = FIELD_OMIT_EMPTY,
		.doc = "who runs it: a name or number, user:group; root when left out"),
	F(struct main_spec, tty, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY, .doc = "on a terminal"),
	FK("stdin", struct main_spec, with_stdin, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "its stdin is open, for who attaches"),
	F(struct main_spec, read_only, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "it sees its root read-only"),
	F(struct main_spec, tmpfs, FIELD_STRV, .max = VM_MAX_TMPFS, .check = check_dirs,
		.flags = FIELD_OMIT_EMPTY, .doc = "directories in memory"),
	F(struct main_spec, stop_signal, FIELD_SIGNAL, .min = 1, .max = SIGNAL_MAX, .flags = FIELD_OMIT_EMPTY,
		.doc = "the signal that ends it, SIGTERM when left out"),
	FIELD_END,
};

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
	if (src->cmd == NULL && src->http == NULL)
		return;
	dst->interval = src->interval ? src->interval : HEALTH_INTERVAL;
	dst->timeout = src->timeout ? src->timeout : HEALTH_TIMEOUT;
	dst->retries = src->retries ? src->retries : HEALTH_RETRIES;
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

static int check_publish(const void *value, const char *key, struct fcm_error *err)
{
	struct publish_list list = {0};

	return publish_add_all(&list, value, key, err);
}

/* Which of its ports a VM's is known when they are looked for. */
static int check_unpublish(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *texts = value;

	for (size_t i = 0; i < texts->n; i++)
		if (!publish_names(texts->v[i], key, err))
			return -1;
	return 0;
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
	FK("env", type, spec.env, FIELD_MAP, .max = VM_MAX_ENV, .check = check_env,                          \
		.flags = FIELD_SECRET | (flags_), .doc = "environment of what the image runs"),              \
		FK("labels", type, spec.labels, FIELD_MAP, .max = VM_MAX_LABELS, .check = check_labels,      \
			.flags = flags_, .doc = "words of the user's own"),                                  \
		FK("ssh_keys", type, spec.ssh_keys, FIELD_STRV, .max = VM_MAX_KEYS, .check = check_keys,     \
			.flags = flags_, .doc = "public keys that may log in"),                              \
		FK("publish", type, spec.publish, FIELD_STRV, .max = PUBLISH_MAX, .check = check_publish,    \
			.flags = flags_, .doc = "its ports that are reached at this host's"),                \
		FK("volumes", type, spec.volumes, FIELD_STRV, .max = VM_MAX_VOLUMES, .check = check_volumes, \
			.flags = flags_, .doc = "volumes, NAME:/PATH[:ro] or /PATH")

const struct field vm_create_fields[] = {
	FK("name", struct vm_create, spec.name, FIELD_CHARS, .check = check_name_or_none,
		.flags = FIELD_OMIT_EMPTY, .doc = "name; chosen when left out"),
	SPEC_SIZES(struct vm_create, FIELD_OMIT_EMPTY),
	SPEC_LISTS(struct vm_create, FIELD_OMIT_EMPTY),
	FK("expose", struct vm_create, spec.expose_port, FIELD_U32, .min = 1, .max = 65535,
		.flags = FIELD_OMIT_EMPTY, .doc = "port of the VM that gets a public HTTPS name"),
	FK("ready", struct vm_create, spec.ready, FIELD_OBJECT, .sub = ready_fields, .check = check_ready,
		.flags = FIELD_OMIT_EMPTY, .doc = "what a start waits for"),
	FK("health", struct vm_create, spec.health, FIELD_OBJECT, .sub = health_fields, .check = check_health,
		.flags = FIELD_OMIT_EMPTY, .doc = "how it is seen that it works"),
	FK("main", struct vm_create, spec.main, FIELD_OBJECT, .sub = main_fields, .flags = FIELD_OMIT_EMPTY,
		.doc = "the program whose end is the VM's"),
	FK("auto_remove", struct vm_create, spec.auto_remove, FIELD_BOOL, .flags = FIELD_OMIT_EMPTY,
		.doc = "destroy it when it has ended"),
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
	F(struct vm_view, id, FIELD_CHARS, .check = check_id, .flags = FIELD_REQUIRED),
	F(struct vm_view, name, FIELD_CHARS, .check = check_name, .flags = FIELD_REQUIRED),
	F(struct vm_view, ip, FIELD_IPV4),
	F(struct vm_view, state, FIELD_ENUM, .names = vm_state_names),
	F(struct vm_view, expose, FIELD_OBJECT, .sub = vm_expose_fields, .flags = FIELD_NULL_EMPTY),
	F(struct vm_view, schema, FIELD_U32),
	F(struct vm_view, desired, FIELD_ENUM, .names = vm_desired_names),
	SPEC_SIZES(struct vm_view, FIELD_REQUIRED),
	SPEC_LISTS(struct vm_view, 0),
	FK("ready", struct vm_view, spec.ready, FIELD_OBJECT, .sub = ready_fields, .check = check_ready),
	FK("health", struct vm_view, spec.health, FIELD_OBJECT, .sub = health_fields, .check = check_health,
		.flags = FIELD_NULL_EMPTY),
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
	F(struct vm_view, host_key, FIELD_CHARS, .check = check_host_key),
	F(struct vm_view, boots, FIELD_I64),
	F(struct vm_view, disk_used, FIELD_I64),
	FK("image_id", struct vm_view, image_id.s, FIELD_CHARS, .check = check_image_id,
		.flags = FIELD_OMIT_EMPTY),
	FIELD_END,
};

const struct field expose_request_fields[] = {
	F(struct expose_request, port, FIELD_U32, .min = 1, .max = 65535, .flags = FIELD_REQUIRED,
		.doc = "port of the VM"),
	F(struct expose_request, domain, FIELD_CHARS, .check = model_check_domain, .flags = FIELD_OMIT_EMPTY,
		.doc = "name; chosen when left out"),
	FIELD_END,
};

const struct field start_request_fields[] = {
	F(struct start_request, ready, FIELD_OBJECT, .sub = ready_fields, .check = check_ready,
		.flags = FIELD_OMIT_EMPTY, .doc = "what this start waits for"),
	FIELD_END,
};

const struct field stop_request_fields[] = {
	F(struct stop_request, time, FIELD_U32, .min = 0, .max = VM_MAX_STOP_SECONDS,
		.doc = "seconds that the guest has before it is killed"),
	FIELD_END,
};

const struct field exec_request_fields[] = {
	F(struct exec_request, cmd, FIELD_STRV, .max = EXEC_MAX_WORDS, .check = check_words,
		.flags = FIELD_REQUIRED, .doc = "the program and its arguments"),
	F(struct exec_request, env, FIELD_MAP, .max = VM_MAX_ENV, .check = check_env_names,
		.flags = FIELD_OMIT_EMPTY, .doc = "environment beside the VM's"),
	F(struct exec_request, workdir, FIELD_STR, .max = 4095, .check = check_workdir,
		.flags = FIELD_OMIT_EMPTY, .doc = "where it runs"),
	F(struct exec_request, user, FIELD_STR, .max = 64, .check = check_user, .flags = FIELD_OMIT_EMPTY,
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
	F(struct publish_request, publish, FIELD_STRV, .max = PUBLISH_MAX, .check = check_publish,
		.flags = FIELD_REQUIRED, .doc = "ports to publish, [[HOSTIP:]HOSTPORT:]PORT[/udp]"),
	FIELD_END,
};

const struct field unpublish_request_fields[] = {
	F(struct publish_request, publish, FIELD_STRV, .max = PUBLISH_MAX, .check = check_unpublish,
		.flags = FIELD_REQUIRED, .doc = "ports to publish no more, [HOSTIP:]HOSTPORT[:PORT][/udp]"),
	FIELD_END,
};

const struct field keys_request_fields[] = {
	F(struct keys_request, keys, FIELD_STRV, .max = VM_MAX_KEYS, .check = check_keys,
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
	F(struct volume_request, name, FIELD_CHARS, .check = check_asset_or_none, .flags = FIELD_OMIT_EMPTY,
		.doc = "name; chosen when left out"),
	FK("size", struct volume_request, size_mib, FIELD_MIB, .min = VM_MIN_DISK_MIB, .max = VM_MAX_DISK_MIB,
		.flags = FIELD_OMIT_EMPTY, .doc = "size in MiB; that of a VM's disk when left out"),
	FIELD_END,
};

const struct field image_pull_fields[] = {
	F(struct image_pull, image, FIELD_STR, .max = REF_TEXT - 1, .flags = FIELD_REQUIRED,
		.doc = "a reference"),
	F(struct image_pull, user, FIELD_STR, .max = 255, .flags = FIELD_OMIT_EMPTY,
		.doc = "for its registry"),
	F(struct image_pull, password, FIELD_STR, .max = 4095, .flags = FIELD_OMIT_EMPTY | FIELD_SECRET,
		.doc = "for its registry"),
	F(struct image_pull, platform, FIELD_STR, .max = 63, .check = check_platform,
		.flags = FIELD_OMIT_EMPTY, .doc = "only " IMAGE_PLATFORM),
	FIELD_END,
};

const struct field registry_check_fields[] = {
	FK("registry", struct image_pull, image, FIELD_STR, .max = 255, .check = check_registry,
		.flags = FIELD_REQUIRED, .doc = "HOST[:PORT]"),
	F(struct image_pull, user, FIELD_STR, .max = 255, .flags = FIELD_OMIT_EMPTY, .doc = "for it"),
	F(struct image_pull, password, FIELD_STR, .max = 4095, .flags = FIELD_OMIT_EMPTY | FIELD_SECRET,
		.doc = "for it"),
	FIELD_END,
};

const struct field token_request_fields[] = {
	F(struct token_request, name, FIELD_CHARS, .check = check_who, .flags = FIELD_REQUIRED,
		.doc = "who the token is for"),
	FIELD_END,
};

void vm_create_defaults(struct vm_create *ret, const struct vm_defaults *d)
{
	*ret = (struct vm_create){.spec = {
					  .vcpus = d->vcpus,
					  .mem_mib = d->mem_mib,
					  .disk_mib = d->disk_mib,
					  .restart = d->restart,
				  }};
	fcm_copy(ret->spec.image, sizeof ret->spec.image, d->image);
	fcm_copy(ret->spec.kernel, sizeof ret->spec.kernel, d->kernel);
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
