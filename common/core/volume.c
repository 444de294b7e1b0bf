#include "common/core/volume.h"

#include <ctype.h>
#include <string.h>

/* Mounted by the agent itself, or looked into by it. */
static const char *const kept[] = {"/proc", "/sys", "/dev", "/run/fcm", "/etc/fcm"};

bool volume_path_kept(const char *path)
{
	if (strcmp(path, "/run") == 0) /* what is in it would be hidden */
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
		size_t n = strlen(kept[i]);
		if (strncmp(path, kept[i], n) == 0 && (path[n] == '\0' || path[n] == '/'))
			return true;
	}
	return false;
}

/* Printable ASCII or UTF-8 behind it, and no colon, which ends a path. */
static bool is_plain(const char *s)
{
	for (; *s; s++)
		if (iscntrl((unsigned char)*s) || *s == ':')
			return false;
	return true;
}

/* No part of it is "", "." or "..". */
static bool is_straight(const char *path)
{
	for (const char *s = path; *s; s += strcspn(s, "/")) {
		size_t n = strcspn(++s, "/");
		if (n == 0 || (n <= 2 && strspn(s, ".") >= n))
			return false;
	}
	return true;
}

int volume_path_parse(const char *s, const char *field, char ret[VOLUME_PATH_MAX + 1], struct fcm_error *err)
{
	size_t n = strlen(s);

	if (s[0] != '/' || n > VOLUME_PATH_MAX || !is_plain(s))
		return fcm_fail_field(err, FCM_INVALID, field,
			"%s: a path in the VM begins with / and has at most %d bytes, none a colon", field,
			VOLUME_PATH_MAX);
	while (n > 1 && s[n - 1] == '/')
		n--;
	(void)fcm_format(ret, VOLUME_PATH_MAX + 1, "%.*s", (int)n, s);
	if (n == 1 || !is_straight(ret))
		return fcm_fail_field(err, FCM_INVALID, field,
			"%s: '%.80s' is no directory below the VM's root", field, ret);
	if (volume_path_kept(ret))
		return fcm_fail_field(err, FCM_INVALID, field,
			"%s: %.80s is the VM's own: a volume can't be there", field, ret);
	return 0;
}

/* A directory of the host, where docker would bind it. */
static int fail_bind(const char *s, size_t n, const char *field, struct fcm_error *err)
{
	fcm_fail_field(err, FCM_INVALID, field,
		"%s: '%.*s' is a directory of the host, and VMs can't share those yet", field,
		(int)MIN(n, (size_t)80), s);
	return fcm_hint(err, "--map DIR:/PATH copies it into the VM; a volume is NAME:/PATH");
}

static int parse_name(
	const char *s, size_t n, const char *field, struct asset_name *ret, struct fcm_error *err)
{
	char name[sizeof ret->s + 1];

	if (n > 0 && strchr("/.~", s[0]))
		return fail_bind(s, n, field, err);
	(void)fcm_format(name, sizeof name, "%.*s", (int)MIN(n, sizeof name - 1), s);
	return asset_name_parse(name, field, ret, err);
}

static int parse_mode(const char *s, const char *field, bool *ret_ro, struct fcm_error *err)
{
	*ret_ro = strcmp(s, "ro") == 0;
	if (*ret_ro || strcmp(s, "rw") == 0)
		return 0;
	return fcm_fail_field(err, FCM_INVALID, field, "%s: behind the path only :ro or :rw is known", field);
}

int volume_ref_parse(const char *s, const char *field, struct volume_ref *ret, struct fcm_error *err)
{
	const char *colon = strchr(s, ':');
	char path[VOLUME_PATH_MAX + 2];

	*ret = (struct volume_ref){0};
	if (colon == NULL && s[0] != '/') {
		fcm_fail_field(err, FCM_INVALID, field, "%s: '%.80s' doesn't say where in the VM", field, s);
		return fcm_hint(err, "NAME:/PATH, NAME:/PATH:ro, or /PATH");
	}
	if (colon == NULL)
		return volume_path_parse(s, field, ret->path, err);
	if (parse_name(s, (size_t)(colon - s), field, &ret->name, err) < 0)
		return -1;
	s = colon + 1;
	colon = strchr(s, ':');
	if (colon && parse_mode(colon + 1, field, &ret->read_only, err) < 0)
		return -1;
	size_t n = colon ? (size_t)(colon - s) : strlen(s);
	(void)fcm_format(path, sizeof path, "%.*s", (int)MIN(n, sizeof path - 1), s);
	return volume_path_parse(path, field, ret->path, err);
}

char *volume_ref_text(const struct volume_ref *ref)
{
	if (ref->name.s[0] == '\0')
		return xstrdup(ref->path);
	return xprintf("%s:%s%s", ref->name.s, ref->path, ref->read_only ? ":ro" : "");
}
