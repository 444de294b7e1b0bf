/*
 * Drives daemon/caddy from a test: commands on stdin, one line each; the answer is zero or more lines "= text" and then
 * "ok" or "error CODE MESSAGE (HINT)". A dash stands for an empty word.
 *
 *	init BINARY CADDYFILE USER TLS ACME_CA ADMIN
 *	expose ID DOMAIN IP PORT | unexpose ID | sync [ID DOMAIN IP PORT]... | describe ID DOMAIN IP PORT
 *
 * A path in place of IP is a unix socket; what stands for PORT is then the network that doesn't get through to it.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "daemon/caddy/caddy.h"

enum { WORDS = 64, SITE_WORDS = 4 };

static struct caddy_site site_of(char **w)
{
	struct caddy_site s = {.port = (uint16_t)atoi(w[3])};

	fcm_copy(s.id.s, sizeof s.id.s, w[0]);
	fcm_copy(s.domain.s, sizeof s.domain.s, w[1]);
	inet_pton(AF_INET, w[2], &s.ip);
	if (w[2][0] == '/' && ip_net_parse(w[3], &s.closed_to))
		s.socket = w[2]; /* of the line, which outlives the command */
	return s;
}

static int init(char **w, struct fcm_error *err)
{
	struct caddy_config c = {w[1], w[2], w[3], w[4], w[5], w[6]};

	return caddy_init(&c, err);
}

static int unexpose(char **w, struct fcm_error *err)
{
	struct vm_id id = {""};
	bool existed = false;

	fcm_copy(id.s, sizeof id.s, w[1]);
	int r = caddy_unexpose(&id, &existed, err);
	printf("= existed %d\n", existed);
	return r;
}

static int sync_sites(char **w, size_t n, struct fcm_error *err)
{
	struct caddy_site sites[WORDS / SITE_WORDS];
	size_t count = 0;

	for (size_t i = 1; i + SITE_WORDS <= n; i += SITE_WORDS)
		sites[count++] = site_of(w + i);
	return caddy_sync(sites, count, err);
}

static int command(char **w, size_t n, struct fcm_error *err)
{
	struct strv lines = {0};

	if (strcmp(w[0], "init") == 0 && n == 7)
		return init(w, err);
	if (strcmp(w[0], "unexpose") == 0 && n == 2)
		return unexpose(w, err);
	if (strcmp(w[0], "sync") == 0)
		return sync_sites(w, n, err);
	struct caddy_site site = n == 5 ? site_of(w + 1) : (struct caddy_site){0};
	if (strcmp(w[0], "expose") == 0 && n == 5)
		return caddy_expose(&site, err);
	if (strcmp(w[0], "describe") != 0 || n != 5)
		return fcm_fail(err, FCM_USAGE, "%s with %zu words", w[0], n);
	caddy_describe(&site, &lines);
	for (size_t i = 0; i < lines.n; i++)
		printf("= %s\n", lines.v[i]);
	strv_done(&lines);
	return 0;
}

int main(void)
{
	static char line[8192], empty[] = "";

	while (fgets(line, sizeof line, stdin)) {
		char *w[WORDS] = {NULL};
		struct fcm_error err = {0};
		size_t n = 0;
		for (char *s = strtok(line, " \n"); s && n < WORDS; s = strtok(NULL, " \n"))
			w[n++] = strcmp(s, "-") ? s : empty;
		if (n == 0)
			continue;
		if (command(w, n, &err) == 0)
			puts("ok");
		else
			printf("error %s %s (%s)\n", fcm_code_info(err.code)->wire, err.msg, err.hint);
		fflush(stdout);
	}
	return 0;
}
