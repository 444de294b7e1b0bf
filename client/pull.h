/*
 * Pulling, for other commands than pull.
 */
#pragma once

#include "client/command.h"

/* Have the daemon get an image from its registry; *ret is what it says of it, the caller's. */
int pull_image(struct cli *cli, const char *image, field_json **ret, struct fcm_error *err) must_check;
