#include "common/model_check.h"

#include <string.h>

#include "common/core/localurl.h"
#include "common/core/publish.h"
#include "common/core/volume.h"
#include "common/crypt.h"
#include "common/field_internal.h"
#include "common/model.h"
#include "common/pattern.h"

int model_check_id(const void *value, const char *key, struct fcm_error *err)
{
	if (!vm_id_valid(value))
		return fcm_fail_field(err, FCM_INVALID, key, "%s: an id is 8 of a-z and 0-9", key);
	return 0;
}

int model_check_name(const void *value, const char *key, struct fcm_error *err)
{
	struct vm_name name;

	return vm_name_parse(value, key, &name, err);
}

int model_check_name_or_none(const void *value, const char *key, struct fcm_error *err)
{
	return *(const char *)value ? model_check_name(value, key, err) : 0;
}

/* Labels with dots between (RFC 1123, section 2.1); what hostname(1) says and /etc/hosts holds. */
int model_check_hostname(const void *value, const char *key, struct fcm_error *err)
{
	const char *s = value;

	if (*s == '\0' || vm_name_valid(s) || dns_name_valid(s))
		return 0;
	return fcm_fail_field(err, FCM_INVALID, key,
		"%s: '%s' is no host name: a-z, 0-9 and '-', with dots between its parts", key,
		field_clip(s).s);
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

int model_check_image_id(const void *value, const char *key, struct fcm_error *err)
{
	const char *id = value;

	return *id == '\0' || ref_digest_valid(id, false)
		       ? 0
		       : fcm_fail_field(err, FCM_INVALID, key, "%s: not 64 hex digits", key);
}

int model_check_asset_or_none(const void *value, const char *key, struct fcm_error *err)
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

int model_check_env_names(const void *value, const char *key, struct fcm_error *err)
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
int model_check_env(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *env = value;
	size_t bytes = 0;

	if (model_check_env_names(value, key, err) < 0)
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

int model_check_words(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *words = value;

	if (words->n == 0 || words->v[0][0] == '\0')
		return fcm_fail_field(err, FCM_INVALID, key, "%s: say what to run", key);
	return 0;
}

int model_check_args(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *words = value;
	size_t bytes = 0;

	for (size_t i = 0; i < words->n; i++)
		bytes += strlen(words->v[i]) + 1;
	if (bytes > VM_MAX_MAIN_BYTES)
		return fcm_fail_field(err, FCM_INVALID, key, "%s: larger than %d KiB together", key,
			VM_MAX_MAIN_BYTES >> 10);
	return words->n ? model_check_words(value, key, err) : 0;
}

int model_check_dirs(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *dirs = value;

	for (size_t i = 0; i < dirs->n; i++) {
		if (strchr(dirs->v[i], ':'))
			return fcm_fail_field(err, FCM_INVALID, key, "%s: '%s': a path takes no options", key,
				field_clip(dirs->v[i]).s);
		if (dirs->v[i][0] != '/' || strlen(dirs->v[i]) > 255)
			return fcm_fail_field(err, FCM_INVALID, key,
				"%s: '%s' is no path of at most 255 bytes that begins with /", key,
				field_clip(dirs->v[i]).s);
	}
	return 0;
}

int model_check_workdir(const void *value, const char *key, struct fcm_error *err)
{
	const char *dir = *(char *const *)value;

	if (dir && dir[0] != '/')
		return fcm_fail_field(
			err, FCM_INVALID, key, "%s: '%s' doesn't begin with /", key, field_clip(dir).s);
	return 0;
}

int model_check_user(const void *value, const char *key, struct fcm_error *err)
{
	const char *user = *(char *const *)value;

	if (user && (*user == '\0' || !one_line(user)))
		return fcm_fail_field(err, FCM_INVALID, key, "%s: a name or a number", key);
	return 0;
}

int model_check_labels(const void *value, const char *key, struct fcm_error *err)
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

/* One label, "K=V"; "" is none. */
int model_check_selector(const void *value, const char *key, struct fcm_error *err)
{
	const char *s = value;
	char *entry = (char *)(uintptr_t)value;
	const struct strv one = {.v = &entry, .n = 1};

	if (*s == '\0')
		return 0;
	if (*s == '=' || strchr(s, '=') == NULL)
		return fcm_fail_field(err, FCM_INVALID, key, "%s: a label, KEY=VALUE", key);
	return model_check_labels(&one, key, err);
}

/* "" in a request: it stays. */
int model_check_restart(const void *value, const char *key, struct fcm_error *err)
{
	struct vm_defaults policy = {0};

	(void)key;
	return *(const char *)value ? field_set_text(vm_defaults_fields, &policy, "restart", value, err) : 0;
}

int model_check_keys(const void *value, const char *key, struct fcm_error *err)
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
int model_check_volumes(const void *value, const char *key, struct fcm_error *err)
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

int model_check_host_key(const void *value, const char *key, struct fcm_error *err)
{
	if (*(const char *)value && !crypt_ssh_public_valid(value))
		return fcm_fail_field(err, FCM_INVALID, key, "%s: no public key", key);
	return 0;
}

int model_check_id_or_none(const void *value, const char *key, struct fcm_error *err)
{
	return *(const char *)value ? model_check_id(value, key, err) : 0;
}

int model_check_line(const void *value, const char *key, struct fcm_error *err)
{
	return one_line(value) ? 0 : fcm_fail_field(err, FCM_INVALID, key, "%s: no text on one line", key);
}

int model_check_who(const void *value, const char *key, struct fcm_error *err)
{
	if (*(const char *)value == '\0' || !one_line(value))
		return fcm_fail_field(
			err, FCM_INVALID, key, "%s: say who the token is for, on one line", key);
	return 0;
}

int model_check_platform(const void *value, const char *key, struct fcm_error *err)
{
	const char *s = *(char *const *)value;

	if (s && strcmp(s, IMAGE_PLATFORM) != 0)
		return fcm_fail_field(err, FCM_INVALID, key, "%s: VMs are " IMAGE_PLATFORM ", not '%s'", key,
			field_clip(s).s);
	return 0;
}

int model_check_registry(const void *value, const char *key, struct fcm_error *err)
{
	const char *s = *(char *const *)value;

	if (s && !ref_registry_valid(s))
		return fcm_fail_field(err, FCM_INVALID, key,
			"%s: '%s' is no registry, HOST or HOST:PORT with a dot or a colon", key,
			field_clip(s).s);
	return 0;
}

int model_check_url(const void *value, const char *key, struct fcm_error *err)
{
	const char *text = *(char *const *)value;
	struct local_url url;

	return text && *text ? local_url_parse(text, key, &url, err) : 0;
}

int model_check_pattern(const void *value, const char *key, struct fcm_error *err)
{
	const char *text = *(char *const *)value;

	return text && *text ? pattern_check(text, key, err) : 0;
}

/* Each mode has what it needs, and nothing of another. */
int model_check_ready(const void *value, const char *key, struct fcm_error *err)
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

int model_check_health(const void *value, const char *key, struct fcm_error *err)
{
	const struct health_spec *h = value;
	int ways = (h->cmd && *h->cmd) + (h->http && *h->http) + (h->args.n > 0) + h->disable;

	if (ways <= 1) /* none: the image may know */
		return 0;
	return fcm_fail_field(err, FCM_INVALID, key, "%s: one of cmd, args, http and disable", key);
}

int model_check_publish(const void *value, const char *key, struct fcm_error *err)
{
	struct publish_list list = {0};

	return publish_add_all(&list, value, key, err);
}

/* Which of its ports a VM's is known when they are looked for. */
int model_check_unpublish(const void *value, const char *key, struct fcm_error *err)
{
	const struct strv *texts = value;

	for (size_t i = 0; i < texts->n; i++)
		if (!publish_names(texts->v[i], key, err))
			return -1;
	return 0;
}
