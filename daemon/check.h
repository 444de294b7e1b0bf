/*
 * What about this host could keep VMs from working: one function a check, a table of them, for `fcm doctor`
 * (through the API) and `fcmd --check`. Nothing is changed; what belongs to others is never touched, only
 * told how to mend.
 */
#pragma once

#include "common/config.h"
#include "common/field.h"

enum check_status { CHECK_OK, CHECK_WARN, CHECK_FAIL };

/* Run all of them, without root those that need none, which may take a second or two: [{"name","status","message","fix"}]; the
 * caller's. `serves`: this is the daemon. */
field_json *check_json(const struct fcmd_config *config, bool serves);

/* The same as a table on stdout. Returns the worst status. */
enum check_status check_print(const struct fcmd_config *config);
