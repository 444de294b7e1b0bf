/*
 * What other commands than cp copy: into a VM, or into an archive.
 */
#pragma once

#include "client/command.h"

/* Copy what is in the directory `dir` into the directory `path` of a VM, as `fcm cp DIR/. VM:PATH` does. */
int cp_directory(
	struct cli *cli, const char *dir, const char *vm, const char *path, struct fcm_error *err) must_check;

/* A process that writes the tar archive of what is in a directory, with owners and modes, to a pipe. */
struct packing {
	int fd; /* our end of it */
	pid_t pid;
	int report;
};

/* Start one. */
int cp_pack(const char *dir, struct packing *ret, struct fcm_error *err) must_check;

/* Close the pipe, and say how it went: the packer's own error; FCM_CANCELLED when it wasn't read to its end. */
int cp_pack_end(struct packing *p, struct fcm_error *err) must_check;
