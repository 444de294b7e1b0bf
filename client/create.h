/*
 * What fcm create and fcm run have in common: their options, the request, and what is printed.
 */
#pragma once

#include "client/command.h"
#include "client/ready.h"
#include "common/model.h"

struct create_options {
	struct vm_create vm;
	struct strv key_files, env_files;
	struct strv env;  /* "K=V", or "K" for one of our own */
	struct strv maps; /* "DIR:/PATH" */
	struct ready_options ready;
	struct health_spec health;
	bool detach;	   /* of run */
	char snapshot[64]; /* to begin with, or "" */
	enum { PULL_MISSING, PULL_ALWAYS, PULL_NEVER } pull;
};
extern const struct field create_fields[];

/* Their rows in the table of a command that fills a struct create_options. */
#define CREATE_OPTIONS                                                                                       \
	{"name", 0, "NAME", "vm.name", "its name (else an adjective and a noun)"},                           \
		{"cpus", 0, "N", "vm.cpus", "virtual CPUs, 1 to 32 (default 1)"},                            \
		{"cpu", 0, NULL, NULL, NULL},                                                                \
		{"mem", 'm', "SIZE", "vm.memory", "memory: MiB, or with k, m, g, t (default 512)"},          \
		{"memory", 0, NULL, NULL, NULL},                                                             \
		{"disk", 0, "SIZE", "vm.disk", "disk: MiB, or with k, m, g, t; sparse (default 8g)"},        \
		{"image", 0, "NAME", "vm.image", "the image, also as the argument (default base)"},          \
		{"pull", 0, "WHEN", "pull", "get the image: missing (the default), always, never"},          \
		{"kernel", 0, "NAME", "vm.kernel", "the kernel (default default)"},                          \
		{"snapshot", 0, "SNAPSHOT", "snapshot", "begin with it: a clone, as of fcm clone"},          \
		{"save-snapshot", 0, "NAME", "vm.save_snapshot", "take a snapshot of it once it is up"},     \
		{"publish", 'p', "PORT", "vm.publish", "a port as 8080:80 or just 80 (fcm help publish)"},   \
		{"publish-all", 'P', NULL, "vm.publish_all",                                                 \
			"every port that the image names, at free ones"},                                    \
		{"expose", 0, "[PORT]", "vm.expose vm.expose_image",                                         \
			"a public HTTPS name for this port, or the image's one"},                            \
		{"volume", 'v', "NAME:/PATH", "vm.volumes", "a volume, made if there is none; :ro to read"}, \
		{"map", 0, "DIR:/PATH", "maps", "copy a directory of yours into it; repeatable"},            \
		{"ssh-key", 0, "FILE", "key_files", "a public key that may log in as root; repeatable"},     \
		{"env", 'e', "K[=V]", "env", "environment of what runs in it; repeatable"},                  \
		{"env-file", 0, "FILE", "env_files", "the same from a file, K=V a line; repeatable"},        \
		{"hostname", 0, "NAME", "vm.hostname", "what it calls itself (else its name)"},              \
		{"label", 0, "K=V", "vm.labels", "a label, for you; repeatable"},                            \
		{"restart", 0, "POLICY", "vm.restart", RESTART_DOC}, READY_OPTIONS("ready."),                \
		{"health-cmd", 0, "CMD", "health.cmd", "healthy while this line of its shell exits with 0"}, \
		{"health-http", 0, "URL", "health.http",                                                     \
			"or while this URL answers in it: http://localhost/"},                               \
		{"health-interval", 0, "TIME", "health.interval",                                            \
			"between two checks: 30s (the default), 2m"},                                        \
		{"health-timeout", 0, "TIME", "health.timeout",                                              \
			"for one check (default 5s, of an image's own 30s)"},                                \
		{"health-retries", 0, "N", "health.retries",                                                 \
			"failures in a row that mean unhealthy (default 3)"},                                \
		{"health-start-period", 0, "TIME", "health.start_period",                                    \
			"in which failures don't count (default none)"},                                     \
		{"no-healthcheck", 0, NULL, "health.disable", "none, though the image has one"},             \
	{                                                                                                    \
		"dry-run", 0, NULL, "vm.dry_run", "print what would be done, and do nothing"                 \
	}

/* Make the VM that the options describe; `image` is the argument, or NULL. *ret is the daemon's answer, the caller's. */
int create_vm(struct cli *cli, struct create_options *o, const char *image, field_json **ret,
	struct fcm_error *err) must_check;

/* Say what was made. */
void create_print_vm(const struct cli *cli, const field_json *vm);

/* The same, or, with --dry-run, what would be. */
void create_print(const struct cli *cli, const struct create_options *o, const field_json *answer);
