/*
 * fcm image import: an image from a file, a directory, stdin, docker's or podman's store.
 */
#pragma once

#include "client/command.h"

/* How a root file system shall run; empty: nothing is said. */
struct import_options {
	char *name;
	struct strv cmd, entrypoint, env;
	char *workdir, *user;
};

extern const struct field import_fields[];

/* Import the image at `place`. */
int image_import(
	struct cli *cli, const struct import_options *o, const char *place, struct fcm_error *err) must_check;

/* Send the file `place`, or stdin ("-"), to the route `path`; *ret is its answer. */
int import_file(struct cli *cli, const char *path, const char *place, field_json **ret,
	struct fcm_error *err) must_check;
