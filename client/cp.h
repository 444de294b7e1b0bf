/*
 * Copying into a VM, for other commands than cp.
 */
#pragma once

#include "client/command.h"

/* Copy what is in the directory `dir` into the directory `path` of a VM, as `fcm cp DIR/. VM:PATH` does. */
int cp_directory(
	struct cli *cli, const char *dir, const char *vm, const char *path, struct fcm_error *err) must_check;
