/*
 * Users' credentials for registries, where docker, podman and skopeo keep them: what they wrote is found here, and what is written
 * here is found by them. The files, in this order (containers-auth.json(5)):
 *
 *	$REGISTRY_AUTH_FILE, and no other; else
 *	$XDG_RUNTIME_DIR/containers/auth.json, or /run/containers/<uid>/auth.json
 *	$XDG_CONFIG_HOME/containers/auth.json, or ~/.config/containers/auth.json
 *	$DOCKER_CONFIG/config.json, or ~/.docker/config.json
 */
#pragma once

#include "client/authfile.h"

/* Find those for `ref`: 1 with *ret, the caller's; 0 when there are none; -1 when a file or a helper can't be used. */
int credentials_find(const struct ref *ref, struct credentials *ret, struct fcm_error *err) must_check;

/* Put them into the body of a request. FCM_INVALID: they aren't UTF-8, as JSON is. */
int credentials_put(const struct credentials *c, field_json *body, struct fcm_error *err) must_check;

/* Keep them for `key`, "registry.example:5000" or that and the begin of a path, in the first of the files whose directory is there
 * or can be made, or with the helper that it names. *ret_file is its name, the caller's. */
int credentials_store(
	const char *key, const struct credentials *c, char **ret_file, struct fcm_error *err) must_check;

/* Forget what any of the files and their helpers has for `key`; *ret_files gets the names of those that had some, also when others
 * failed. */
int credentials_erase(const char *key, struct strv *ret_files, struct fcm_error *err) must_check;
