/*
 * A file of credentials for registries as docker and podman write it (containers-auth.json(5)), as JSON. Pure.
 *
 *	{"auths":{"registry.example":{"auth":"<base64 of user:password>"},"ghcr.io/owner":{...}},
 *	 "credHelpers":{"registry.example":"NAME"},"credsStore":"NAME"}
 *
 * NAME stands for the program docker-credential-NAME. What else is in the file is docker's and stays.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/ref.h"
#include "common/field.h"

/* What docker calls its hub in such a file; podman reads that, too. */
#define AUTH_HUB "https://index.docker.io/v1/"

struct credentials {
	char *user, *password;
};

/* Free what it owns. */
void credentials_done(struct credentials *c);

/* What a file says of an image. */
struct auth_entry {
	enum { AUTH_NONE, AUTH_PLAIN, AUTH_HELPER } kind;
	struct credentials plain;
	char helper[64]; /* NAME */
};

/* Look for that image: the helper of its registry; the longest key that its name begins with (registry/path/name, registry/path,
 * registry), where there is no password also the file's credsStore. *ret is the caller's. FCM_INVALID: it can't be used. */
int auth_look(const field_json *file, const struct ref *ref, struct auth_entry *ret,
	struct fcm_error *err) must_check;

/* The helper that keeps a registry's passwords instead of the file, or NULL. */
const char *auth_helper(const field_json *file, const char *registry);

/* Put `c` into the file for `key` ("docker.io", "ghcr.io/owner"), or with NULL take away what it has: also what has another key
 * for the same registry. Was anything there before? */
bool auth_set(field_json *file, const char *key, const struct credentials *c);

/* Do a key of a file ("https://index.docker.io/v1/", "ghcr.io") and a registry ("docker.io", "ghcr.io") mean the same? */
bool auth_key_is(const char *key, const char *registry);
