/*
 * fcm image export, fcm snapshot export: what a route gives as a file.
 */
#pragma once

#include "client/command.h"

/* Write it to the file `to`, which is there whole or not at all, or to stdout (NULL), which isn't a terminal. `raw`: its file system. */
int image_export(
	struct cli *cli, const char *image, bool raw, const char *to, struct fcm_error *err) must_check;

/* What else is exported so. */
struct exported {
	const char *command, *name; /* "image export", and of what */
	const char *path;	    /* the route */
	bool secret;		    /* the file is its owner's alone */
};
int export_path(struct cli *cli, const struct exported *e, const char *to, struct fcm_error *err) must_check;
