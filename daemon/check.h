/*
 * What about this host could keep VMs from working: one function a check, a table of them, for `fcm doctor`
 * (through the API) and `fcmd --check`. Nothing is changed; what belongs to others is never touched, only
 * told how to mend.
 */
#pragma once

#include "common/config.h"
#include "common/field.h"

enum check_status { CHECK_OK, CHECK_WARN, CHECK_FAIL };
extern const char *const check_status_names[];

struct check {
	const char *name;
	enum check_status status;
	char message[256];
	char fix[256]; /* a command or a config line, or "" */
};

/* Run check `i` of the table. False when there is no such one. May take a second or two in all. */
bool check_run(size_t i, const struct fcmd_config *config, struct check *ret);

/* All of them: [{"name","status","message","fix"}]; the caller's. */
field_json *check_json(const struct fcmd_config *config);

/* All of them as a table on stdout. Returns the worst status. */
enum check_status check_print(const struct fcmd_config *config);
