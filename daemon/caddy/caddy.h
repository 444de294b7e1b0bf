/*
 * Public HTTPS names through Caddy: one file a VM in <dir>/fcm.d/<id>.caddy, one for the API, and one absolute import line in
 * the Caddyfile, added once. Every change is validated as Caddy's own user, moved in by rename, loaded, and rolled back when
 * Caddy says no. `caddy validate` as root would leave log files that Caddy can't open (caddy#7829).
 */
#pragma once

#include <netinet/in.h>

#include "common/core/error.h"
#include "common/core/names.h"

struct caddy_config {
	const char *binary;    /* "caddy", found in PATH; "" switches sites off */
	const char *caddyfile; /* "/etc/caddy/Caddyfile" */
	const char *user;      /* "caddy": whose uid validates and reloads */
	const char *tls;       /* "" for ACME, "internal" for Caddy's own CA */
	const char *acme_ca;   /* URL, or "" */
	const char *admin;     /* "localhost:2019" */
};

/* What the site of the daemon's own API has for an id. It has a dash, so no VM has it. */
#define CADDY_API_ID "fcmd-api"

/* A site: domain -> http://ip:port; or, where there is a `socket`, domain -> HTTP at that unix socket, except for clients in
 * `closed_to`, whose connections are dropped. */
struct caddy_site {
	struct vm_id id;
	struct dns_name domain;
	struct in_addr ip;
	uint16_t port;
	const char *socket; /* absolute, of the characters that caddy_word_valid() has; or NULL */
	struct ip_net closed_to;
};

/* Pure: the text of a site's file. */
void caddy_site_text(const struct caddy_config *config, const struct caddy_site *site, struct buf *ret);

/* Pure: the Caddyfile with our import line at its end. FCM_CONFIG when it is a single site without braces, which can't
 * take an import. Returns unchanged text when the line is there. */
int caddy_with_import(
	const char *caddyfile, const char *import_dir, struct buf *ret, struct fcm_error *err) must_check;

/* Pure: does the adapted JSON of a configuration (caddy adapt) already serve `domain`? */
bool caddy_serves(const char *adapted_json, const struct dns_name *domain);

/* Remember the configuration. That Caddy or its user isn't there is no error here: each call looks anew, so installing
 * Caddy later mends it. */
int caddy_init(const struct caddy_config *config, struct fcm_error *err) must_check;

/* Write the site, validate, reload. FCM_DOMAIN_TAKEN when a site that isn't ours has the domain; any other failure
 * leaves the old configuration in force and says in err why (the site is pending then). */
int caddy_expose(const struct caddy_site *site, struct fcm_error *err) must_check;

/* Remove a VM's site and reload; a missing one is fine, and so is a Caddy that isn't there or doesn't run. The file is
 * gone even when the reload fails (because the user broke the Caddyfile, say): Caddy hears of it with the next change. */
int caddy_unexpose(const struct vm_id *id, bool *ret_existed, struct fcm_error *err) must_check;

/* Make fcm.d hold exactly these sites (n of them), with one reload if anything changed: for start-up and retries. When
 * it fails all sites that were to be added or changed are as before; caddy_expose() tells which one is at fault. */
int caddy_sync(const struct caddy_site *sites, size_t n, struct fcm_error *err) must_check;

/* The calls of an exposure, a line each, for --dry-run. */
void caddy_describe(const struct caddy_site *site, struct strv *ret);
