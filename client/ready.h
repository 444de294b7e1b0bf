/*
 * What fcm create and fcm start take as --wait-ready: a gate in one word.
 */
#pragma once

#include "client/options.h"
#include "common/model.h"

/* Parse "none", "agent", "ssh", "auto", "tcp=PORT", "http=URL", "log=REGEX", "exec=CMD", or "mode=http,url=URL,timeout=S,
 * interval=S" with the keys of the API's `ready`, in which a comma ends a value only where a key follows. Into *ret, which
 * holds nothing of a mode yet. The error names --wait-ready. */
int ready_parse(const char *text, struct ready_spec *ret, struct fcm_error *err) must_check;

/* What the options have filled in. */
struct ready_options {
	char *wait;
	struct ready_spec spec;
};
extern const struct field ready_options_fields[];

/* Their rows; `key` is the path of the struct ready_options in the command's own, with a dot. */
#define READY_OPTIONS(key)                                                                                   \
	{"wait-ready", 0, "WHAT", key "wait", "what makes the start complete, like tcp=80: see below"},      \
		{"ready-timeout", 0, "TIME", key "spec.timeout", "give up waiting after so long"},           \
	{                                                                                                    \
		"ready-interval", 0, "TIME", key "spec.interval", "between two looks"                        \
	}

/* For the details of their help. */
#define READY_DETAILS "--wait-ready takes none, agent, ssh, tcp=PORT, http=URL, log=REGEX, exec=CMD."

/* Put `ready` into the body of a request, if the user said anything about it. `has_own`: the VM has a gate already, which a time
 * alone would replace by the usual one: FCM_USAGE. */
int ready_add(struct ready_options *o, bool has_own, field_json *body, struct fcm_error *err) must_check;
