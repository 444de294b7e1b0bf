/*
 * What the image, or its user, wants to be done in a clone that has its identity (docs/AGENT.md, "Hooks"): the executables of
 * /etc/fcm/clone.d, one after the other, as run-parts(8) would.
 *
 * It runs in a child (spawn.h), so it may block; each hook has a process group of its own, which ends with its time, and all of
 * them end with the child.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"

#define HOOKS_DIR "/etc/fcm/clone.d"

enum {
	HOOKS_MAX = 64,
	HOOKS_OUTPUT_MAX = 4096,  /* bytes of each that are passed on */
	HOOKS_TIMEOUT_MS = 10000, /* for each, when the host doesn't say */
	HOOKS_TIMEOUT_MAX_MS = 600000,
	HOOKS_VALUE_MAX = 255,
};

struct hooks {
	const char *dir;
	const struct strv *env; /* of each */
	int64_t timeout_ms;	/* for each */
};

/* Read the arguments of op=hooks from a kv list of n bytes: ret->timeout_ms, and as entries `env` of another list FCM_ID and so
 * on. -1 with FCM_INVALID naming the field. */
int hooks_parse(
	const void *kv, size_t n, struct hooks *ret, struct buf *ret_env, struct fcm_error *err) must_check;

/* Is it a name that run-parts(8) takes: [A-Za-z0-9_-]+? */
bool hooks_name_valid(const char *name);

/* Is there anything in `dir` that could be one? */
bool hooks_any(const char *dir);

/* Run them all (`hooks`: struct hooks). Returns the exit status: 0, or 1 when one failed, with a line on stdout for each of these
 * that begins with its name and ": ". What they print goes to stderr. */
int hooks_run(const void *hooks);
