/* Caddy's program, run as the user that Caddy runs as. */
#pragma once

#include "daemon/caddy/caddy.h"

struct caddy_program {
	char *path;
	uid_t uid;
	gid_t gid;
	struct buf env;	 /* a line NAME=value each */
	bool env_hidden; /* a Caddy runs, but we may not see its environment (that takes CAP_SYS_PTRACE) */
};

/* Find the program and its user. FCM_CONFIG or FCM_UNAVAILABLE, saying what to do. */
int caddy_program_find(
	const struct caddy_config *config, struct caddy_program *ret, struct fcm_error *err) must_check;
void caddy_program_done(struct caddy_program *p);

/* `caddy <verb> --config <caddyfile> --adapter caddyfile [--address <address>]`, within 10 seconds. What it printed goes
 * to *output, which may be NULL. */
int caddy_run(const struct caddy_program *p, const char *verb, const char *caddyfile, const char *address,
	struct buf *output, struct fcm_error *err) must_check;
