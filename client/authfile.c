#include "client/authfile.h"

#include <string.h>

#include "common/crypt.h"
#include "common/model.h"

void credentials_done(struct credentials *c)
{
	free(c->user);
	free(c->password);
	*c = (struct credentials){0};
}

/* ---- keys ---- */

bool auth_key_is(const char *key, const char *registry)
{
	static const char *const hubs[] = {"index.docker.io", "registry-1.docker.io", REF_HUB};
	const char *scheme = strstr(key, "://");
	const char *host = scheme ? scheme + 3 : key;
	size_t n = scheme ? strcspn(host, "/") : strlen(host);

	if (strlen(registry) == n && strncmp(host, registry, n) == 0)
		return true;
	for (size_t i = 0; strcmp(registry, REF_HUB) == 0 && i < ARRAY_SIZE(hubs); i++)
		if (strlen(hubs[i]) == n && strncmp(host, hubs[i], n) == 0)
			return true;
	return false;
}

static field_json *find_key(const field_json *object, const char *registry)
{
	field_json *exact = fj_get(object, registry);

	if (exact)
		return exact;
	for (const char *key = NULL; (key = fj_next_key(object, key));)
		if (auth_key_is(key, registry))
			return fj_get(object, key);
	return NULL;
}

static field_json *find_entry(const field_json *auths, const struct ref *ref)
{
	auto_free char *name = xprintf("%s/%s", ref->domain, ref->path);

	for (char *slash; (slash = strrchr(name, '/')); *slash = '\0') {
		field_json *v = fj_get(auths, name);
		if (v)
			return v;
	}
	return find_key(auths, ref->domain);
}

/* ---- reading ---- */

static int read_entry(const field_json *entry, struct auth_entry *ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	const char *auth = fj_get_str(entry, "auth"), *identity = fj_get_str(entry, "identitytoken");
	char *colon;

	if (*identity) {
		ret->kind = AUTH_PLAIN;
		ret->plain = (struct credentials){xstrdup(REGISTRY_IDENTITY), xstrdup(identity)};
		return 0;
	}
	if (*auth == '\0')
		return 0;
	if (!crypt_base64_decode(auth, &text) || text.n == 0 || (colon = strchr(text.p, ':')) == NULL)
		return fcm_fail(err, FCM_INVALID, "an 'auth' in it isn't the base64 of user:password");
	*colon = '\0';
	ret->kind = AUTH_PLAIN;
	ret->plain = (struct credentials){xstrdup(text.p), xstrdup(colon + 1)};
	return 0;
}

/* It becomes a part of a program's name. */
static int use_helper(const char *name, struct auth_entry *ret, struct fcm_error *err)
{
	static const char chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._";

	if (*name == '\0')
		return 0;
	if (name[strspn(name, chars)] || !fcm_copy(ret->helper, sizeof ret->helper, name))
		return fcm_fail(err, FCM_INVALID, "it names a credential helper that can't be one");
	ret->kind = AUTH_HELPER;
	return 0;
}

int auth_look(const field_json *file, const struct ref *ref, struct auth_entry *ret, struct fcm_error *err)
{
	const char *helper = fj_text(find_key(fj_get(file, "credHelpers"), ref->domain));
	const field_json *entry = find_entry(fj_get(file, "auths"), ref);

	*ret = (struct auth_entry){.kind = AUTH_NONE};
	if (*helper)
		return use_helper(helper, ret, err);
	if (entry && read_entry(entry, ret, err) < 0)
		return -1;
	return ret->kind == AUTH_PLAIN ? 0 : use_helper(fj_get_str(file, "credsStore"), ret, err);
}

const char *auth_helper(const field_json *file, const char *registry)
{
	const char *helper = fj_text(find_key(fj_get(file, "credHelpers"), registry));

	if (*helper == '\0')
		helper = fj_get_str(file, "credsStore");
	return *helper ? helper : NULL;
}

/* ---- changing ---- */

bool auth_set(field_json *file, const char *key, const struct credentials *c)
{
	const field_json *before = fj_get(file, "auths");
	field_json *auths = fj_object();
	bool had = false;

	for (const char *k = NULL; (k = fj_next_key(before, k));) {
		if (strcmp(k, key) == 0 || auth_key_is(k, key))
			had = true;
		else
			fj_set(auths, k, fj_ref(fj_get(before, k)));
	}
	if (c) {
		auto_free char *plain = xprintf("%s:%s", c->user, c->password);
		auto_free char *auth = crypt_base64(plain, strlen(plain));
		field_json *entry = fj_object();
		fj_set_str(entry, "auth", auth);
		fj_set(auths, strcmp(key, REF_HUB) == 0 ? AUTH_HUB : key, entry);
	}
	fj_set(file, "auths", auths);
	return had;
}
