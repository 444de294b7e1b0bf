/*
 * Pulling, for other commands than pull.
 */
#pragma once

#include "client/command.h"

/* Have the daemon get an image from its registry, with the user's credentials for that; `platform` may be NULL. *ret is what it
 * says of the image, the caller's. How far it is goes to stderr. */
int pull_image(struct cli *cli, const char *image, const char *platform, field_json **ret,
	struct fcm_error *err) must_check;
