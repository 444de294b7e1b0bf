/*
 * "data:/srv:ro": a volume and where a VM has it, as docker writes it.
 *
 *	NAME:/PATH[:ro|rw]	the volume NAME
 *	/PATH			one of the VM's own, without a name, which goes with it
 */
#pragma once

#include "common/core/names.h"

enum { VOLUME_PATH_MAX = 255 }; /* bytes */

struct volume_ref {
	struct asset_name name; /* "": one of the VM's own */
	char path[VOLUME_PATH_MAX + 1];
	bool read_only;
};

/* Parse. FCM_INVALID naming `field`: for a name or path that is none, and for a directory of the host in place of a name. The
 * path begins with "/", has no ".", ".." or "" in it and none at its end, and isn't one that the guest's root itself needs. */
int volume_ref_parse(
	const char *s, const char *field, struct volume_ref *ret, struct fcm_error *err) must_check;

/* Is it one that the guest's root itself needs? */
bool volume_path_kept(const char *path);

/* Check and tidy a path in a guest alone: "/srv/" becomes "/srv". */
int volume_path_parse(
	const char *s, const char *field, char ret[VOLUME_PATH_MAX + 1], struct fcm_error *err) must_check;

/* The text of it; the caller's. */
char *volume_ref_text(const struct volume_ref *ref);
