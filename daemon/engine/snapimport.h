/*
 * A snapshot that a request brings: fcm-oci unpacks it (job `unpack`), the daemon hashes what came of it. Like import.h's, an
 * operation without a VM, which ends when nobody waits for it; what it didn't finish is nowhere.
 */
#pragma once

#include "daemon/engine/op.h"

/* Begin one; its bytes go into *ret_fd, as engine_import()'s do. `name` is what it shall be called instead of what it says
 * itself, or NULL. op->hold is the snapshot, which has a new id. FCM_INVALID and FCM_NAME_TAKEN naming "name";
 * FCM_NO_IMAGE when the image isn't here on whose layers its disk lies. */
int engine_snapshot_import(const char *name, struct op **ret, int *ret_fd, struct fcm_error *err) must_check;
