/*
 * What an image says of the program that it is there for: the OCI image configuration (image-spec, config.md), of which a VM
 * takes what it can use. Strangers write it: everything has the limits of what a user may ask for.
 */
#pragma once

#include <stdbool.h>

#include "common/core/error.h"
#include "common/core/ref.h"
#include "common/core/util.h"

/* How the image would be asked whether it works, as docker has it (moby's image specification 1.2, "Healthcheck"; OCI's knows none).
 * Times are nanoseconds; what is 0 was left out. */
struct image_health {
	struct strv test; /* "NONE"; "CMD" and words; "CMD-SHELL" and a line */
	int64_t interval, timeout, start_period, retries;
};

struct image_config {
	struct strv entrypoint, cmd, env; /* env: "K=V" */
	char *dir, *user;		  /* or NULL */
	char *stop_signal;		  /* "SIGTERM", "15"; or NULL */
	struct strv ports, volumes;	  /* "80/tcp", "/data": as they stand there */
	struct image_health health;
};

/* Read one. FCM_INVALID when it isn't for this kind of machine, or holds what no VM could have. */
int image_config_parse(
	const char *text, size_t n, struct image_config *ret, struct fcm_error *err) must_check;
void image_config_done(struct image_config *c);

/* What its maker calls the version (image-spec, annotations.md: org.opencontainers.image.version), as far as it fits; "" when it says
 * nothing. `text` is one that image_config_parse() took. */
void image_config_version(const char *text, size_t n, char *ret, size_t size);

/* The config of an image that has one layer more: `diff_id` is that, `by` what made it, `created` when (seconds since the epoch). `text`
 * is the config of the image below. The caller's; NULL with FCM_INVALID when that doesn't say what its layers are. */
char *image_config_extend(const char *text, size_t n, const char *diff_id, const char *by, int64_t created,
	struct fcm_error *err);

/* Is it what a user may say of how an image runs, an object with keys of "config" of an OCI config? The same on one line, the
 * caller's. NULL with FCM_INVALID and the like naming the key. */
char *image_config_check(const char *text, struct fcm_error *err);

/* The text of an image's config. FCM_NOT_FOUND when it has none. */
int image_config_text(const struct image_id *id, struct buf *ret, struct fcm_error *err) must_check;

/* That of an image; an empty one for an image that has none, an ext4. FCM_NO_IMAGE isn't told here. */
int image_config_load(const struct image_id *id, struct image_config *ret, struct fcm_error *err) must_check;
