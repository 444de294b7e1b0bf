#include "client/ready.h"

#include <string.h>

const struct field ready_options_fields[] = {
	F(struct ready_options, wait, FIELD_STR, .max = 8192),
	F(struct ready_options, spec, FIELD_OBJECT, .sub = ready_fields),
	FIELD_END,
};

/* The field's error names its key; the user typed an option. */
static int name_option(struct fcm_error *err)
{
	if (err->code == FCM_UNKNOWN_FIELD)
		fcm_hint(err, "like mode=http,url=http://127.0.0.1:80,timeout=60,interval=2");
	return fcm_wrap(err, "--wait-ready");
}

static int set(struct ready_spec *r, const char *key, const char *value, struct fcm_error *err)
{
	return field_set_text(ready_fields, r, key, value, err) < 0 ? name_option(err) : 0;
}

/* The comma that ends a value: behind it there is a key. NULL: it goes on to the end. */
static char *end_of_value(char *s)
{
	while ((s = strchr(s, ','))) {
		size_t n = strspn(++s, "abcdefghijklmnopqrstuvwxyz");
		for (const struct field *f = ready_fields; f->key; f++)
			if (s[n] == '=' && strlen(f->key) == n && strncmp(f->key, s, n) == 0)
				return s - 1;
	}
	return NULL;
}

static int parse_list(const char *text, struct ready_spec *ret, struct fcm_error *err)
{
	auto_free char *copy = xstrdup(text);

	for (char *s = copy, *next; s; s = next) {
		char *value = strchr(s, '=');
		if (value == NULL)
			return fcm_fail(err, FCM_USAGE, "--wait-ready: '%.40s' is not KEY=VALUE", s);
		*value++ = '\0';
		next = end_of_value(value);
		if (next)
			*next++ = '\0';
		if (set(ret, s, value, err) < 0)
			return -1;
	}
	return 0;
}

int ready_parse(const char *text, struct ready_spec *ret, struct fcm_error *err)
{
	static const struct {
		const char *mode, *key;
	} args[] = {{"tcp", "port"}, {"http", "url"}, {"log", "log"}, {"exec", "exec"}};
	auto_free char *mode = xstrdup(text);
	char *arg = strchr(mode, '=');

	if (strncmp(text, "mode=", 5) == 0)
		return parse_list(text, ret, err);
	if (arg)
		*arg++ = '\0';
	if (set(ret, "mode", mode, err) < 0)
		return -1;
	for (size_t i = 0; i < ARRAY_SIZE(args); i++) {
		if (strcmp(args[i].mode, mode) != 0)
			continue;
		if (arg == NULL || *arg == '\0')
			return fcm_fail(err, FCM_USAGE, "--wait-ready: %s what? %s=...", mode, mode);
		return set(ret, args[i].key, arg, err);
	}
	return arg ? fcm_fail(err, FCM_USAGE, "--wait-ready: %s takes no value", mode) : 0;
}

int ready_add(struct ready_options *o, bool has_own, field_json *body, struct fcm_error *err)
{
	if (has_own && o->wait == NULL && ready_given(&o->spec))
		return fcm_fail(err, FCM_USAGE,
			"--ready-timeout and --ready-interval go with --wait-ready: "
			"what the VM waits for has its own");
	if (o->wait && ready_parse(o->wait, &o->spec, err) < 0)
		return -1;
	if (ready_given(&o->spec))
		fj_set(body, "ready", field_encode(ready_fields, &o->spec, true));
	return 0;
}
