/* What caddy.c needs to know of the texts that Caddy reads and prints, beside what is in caddy.h. All pure. */
#pragma once

#include "daemon/caddy/caddy.h"

/* The domain in the text of a site's file, or false when it isn't one of ours. */
bool caddy_site_domain(const char *text, struct dns_name *ret);

/* Where an adapted configuration puts the admin endpoint. */
enum caddy_admin { CADDY_ADMIN_DEFAULT, CADDY_ADMIN_OFF, CADDY_ADMIN_SET };
enum caddy_admin caddy_admin_of(const char *adapted_json);

/* The configuration in what `caddy adapt` printed on stdout and stderr together: the last line that is an object and no
 * log entry. The caller's string, or NULL. */
char *caddy_adapted(const char *output);

/* May `s` stand in a Caddyfile as one word: a path or a URL without quotes, braces, blanks and placeholders? */
bool caddy_word_valid(const char *s);
