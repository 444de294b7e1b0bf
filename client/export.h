/*
 * fcm image export: an image as a file that other tools read.
 */
#pragma once

#include "client/command.h"

/* Write it to the file `to`, which is there whole or not at all, or to stdout (NULL), which isn't a terminal. `raw`: its file system. */
int image_export(
	struct cli *cli, const char *image, bool raw, const char *to, struct fcm_error *err) must_check;
