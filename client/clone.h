/*
 * VMs that are made of snapshots: fcm clone, and create and run with --snapshot.
 */
#pragma once

#include "client/command.h"

/* POST to the clone route `path`; `what` names the source on the progress line. The answer's list of VMs is the caller's. */
int clone_at(struct cli *cli, const char *path, const char *what, const field_json *body, field_json **ret,
	struct fcm_error *err) must_check;
