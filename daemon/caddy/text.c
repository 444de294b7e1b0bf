/*
 * How a Caddyfile is read here. To append an import line one must know that the file ends at its top level, and that it
 * isn't one site without braces, whose directives go on to the end of the file. So it is split into words as Caddy's
 * own lexer does (caddyserver.com/docs/caddyfile/concepts: quotes and backticks at the beginning of a word, `#` comments
 * at the beginning of a word, a backslash joins lines), and the words are followed from one block to the next.
 */
#include "daemon/caddy/text.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "common/field.h"

enum { NESTING_MAX = 16 };

/* A word, and whether it is the first of its line. */
struct word {
	const char *p;
	size_t n;
	bool first, quoted;
};

struct lexer {
	const char *s;
	bool new_line;
};

static void skip_blanks(struct lexer *l)
{
	for (;; l->s++) {
		if (*l->s == '#')
			l->s += strcspn(l->s, "\n");
		if (*l->s == '\n')
			l->new_line = true;
		else if (l->s[0] == '\\' && l->s[1] == '\n')
			l->s++;
		else if (!isspace((unsigned char)*l->s))
			return;
	}
}

static const char *quoted_end(const char *s)
{
	char quote = *s++;

	for (; *s && *s != quote; s++)
		if (quote == '"' && s[0] == '\\' && s[1])
			s++;
	return *s ? s + 1 : s;
}

static bool next_word(struct lexer *l, struct word *w)
{
	skip_blanks(l);
	if (*l->s == '\0')
		return false;
	*w = (struct word){.p = l->s, .first = l->new_line, .quoted = *l->s == '"' || *l->s == '`'};
	l->new_line = false;
	if (w->quoted)
		l->s = quoted_end(l->s);
	else
		while (*l->s && !isspace((unsigned char)*l->s))
			l->s++;
	w->n = (size_t)(l->s - w->p);
	return true;
}

static bool word_is(const struct word *w, const char *s)
{
	return !w->quoted && w->n == strlen(s) && memcmp(w->p, s, w->n) == 0;
}

/* Behind a `{`: go behind its `}`. False when the file ends before. */
static bool skip_block(struct lexer *l)
{
	struct word w;

	for (unsigned depth = 1; depth;) {
		if (!next_word(l, &w))
			return false;
		depth += word_is(&w, "{");
		depth -= word_is(&w, "}");
	}
	return true;
}

enum shape { OPEN_END, HAS_IMPORT, NO_BRACES, UNFINISHED };

/* An import at the top level: the rest of its line, and a block if there is one. */
static bool skip_import(struct lexer *l, const char *pattern, bool *ours)
{
	struct lexer ahead = *l;
	struct word w;

	while (next_word(&ahead, &w) && !w.first) {
		*ours |= word_is(&w, pattern);
		*l = ahead;
		if (word_is(&w, "{"))
			return skip_block(l);
	}
	return true;
}

/* The addresses of a site, the name of a snippet, or nothing before the global options; then their block. */
static enum shape skip_site(struct lexer *l, struct word w)
{
	bool more = false; /* a comma promises an address on the next line */

	while (!word_is(&w, "{")) {
		more = w.p[w.n - 1] == ',';
		if (!next_word(l, &w) || (w.first && !more && !word_is(&w, "{")))
			return NO_BRACES;
	}
	return skip_block(l) ? OPEN_END : UNFINISHED;
}

static enum shape shape_of(const char *caddyfile, const char *pattern)
{
	struct lexer l = {.s = caddyfile, .new_line = true};
	enum shape shape = OPEN_END;
	bool ours = false;
	struct word w;

	while (shape == OPEN_END && next_word(&l, &w)) {
		if (word_is(&w, "import"))
			shape = skip_import(&l, pattern, &ours) ? OPEN_END : UNFINISHED;
		else
			shape = skip_site(&l, w);
	}
	return shape == OPEN_END && ours ? HAS_IMPORT : shape;
}

bool caddy_word_valid(const char *s)
{
	return *s &&
	       s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/:._~%?&=+@,-")] ==
		       '\0';
}

int caddy_with_import(const char *caddyfile, const char *import_dir, struct buf *ret, struct fcm_error *err)
{
	auto_free char *pattern = xprintf("%s/*.caddy", import_dir);
	size_t n = strlen(caddyfile);

	if (!caddy_word_valid(import_dir))
		return fcm_fail(err, FCM_CONFIG, "%s can't be imported by a Caddyfile", import_dir);
	switch (shape_of(caddyfile, pattern)) {
	case HAS_IMPORT:
		buf_str(ret, caddyfile);
		return 0;
	case NO_BRACES:
		fcm_fail(err, FCM_CONFIG,
			"the Caddyfile is one site without braces, so it can't take an import");
		return fcm_hint(err, "put the site's directives into braces: example.com { ... }");
	case UNFINISHED:
		return fcm_fail(err, FCM_CONFIG, "the Caddyfile ends inside a block");
	case OPEN_END:
		break;
	}
	buf_str(ret, caddyfile);
	if (n && caddyfile[n - 1] != '\n')
		buf_str(ret, "\n");
	buf_printf(ret, "%s# The sites of fcm's VMs, one file each.\nimport %s\n", n ? "\n" : "", pattern);
	return 0;
}

#define SITE_HEAD "# Written by fcmd for "

void caddy_site_text(const struct caddy_config *config, const struct caddy_site *site, struct buf *ret)
{
	buf_printf(ret, SITE_HEAD "%s%s: changes here are lost.\n%s {\n", site->socket ? "its API" : "VM ",
		site->socket ? "" : site->id.s, site->domain.s);
	if (strcmp(config->tls, "internal") == 0)
		buf_str(ret, "\ttls internal\n");
	else if (*config->acme_ca)
		buf_printf(ret, "\ttls {\n\t\tca %s\n\t}\n", config->acme_ca);
	if (site->socket)
		buf_printf(ret, "\t@guests remote_ip %s/%u\n\tabort @guests\n\treverse_proxy unix/%s\n}\n",
			ip_dotted(site->closed_to.addr).s, site->closed_to.prefix, site->socket);
	else
		buf_printf(ret, "\treverse_proxy %s:%u\n}\n", ip_dotted(site->ip).s, site->port);
}

bool caddy_site_domain(const char *text, struct dns_name *ret)
{
	const char *line = strchr(text, '\n');
	size_t n = line ? strcspn(++line, " \n") : 0;
	struct dns_name name = {0};

	if (strncmp(text, SITE_HEAD, strlen(SITE_HEAD)) != 0 || n == 0 || n >= sizeof name.s)
		return false;
	memcpy(name.s, line, n);
	if (!dns_name_valid(name.s))
		return false;
	*ret = name;
	return true;
}

static bool matches_host(const field_json *match, const char *domain)
{
	for (size_t i = 0; i < fj_len(match); i++) {
		const field_json *hosts = fj_get(fj_at(match, i), "host");
		for (size_t k = 0; k < fj_len(hosts); k++)
			if (strcasecmp(fj_text(fj_at(hosts, k)), domain) == 0)
				return true;
	}
	return false;
}

/* Routes nest: a site's `handle` blocks are routes of a subroute handler. */
static bool routes_serve(const field_json *routes, const char *domain, unsigned nesting)
{
	for (size_t i = 0; i < fj_len(routes); i++) {
		const field_json *route = fj_at(routes, i), *handle = fj_get(route, "handle");
		if (matches_host(fj_get(route, "match"), domain))
			return true;
		for (size_t k = 0; nesting < NESTING_MAX && k < fj_len(handle); k++)
			if (routes_serve(fj_get(fj_at(handle, k), "routes"), domain, nesting + 1))
				return true;
	}
	return false;
}

static field_json *parse(const char *json)
{
	struct fcm_error ignored;

	return fj_parse(json, strlen(json), &ignored);
}

bool caddy_serves(const char *adapted_json, const struct dns_name *domain)
{
	field_json *root = parse(adapted_json);
	const field_json *servers = fj_get(fj_get(fj_get(root, "apps"), "http"), "servers");
	bool found = false;

	for (const char *key = NULL; !found && (key = fj_next_key(servers, key));)
		found = routes_serve(fj_get(fj_get(servers, key), "routes"), domain->s, 0);
	fj_free(root);
	return found;
}

enum caddy_admin caddy_admin_of(const char *adapted_json)
{
	field_json *root = parse(adapted_json);
	const field_json *admin = fj_get(root, "admin");
	enum caddy_admin r = CADDY_ADMIN_DEFAULT;

	if (fj_get_bool(admin, "disabled"))
		r = CADDY_ADMIN_OFF;
	else if (*fj_get_str(admin, "listen"))
		r = CADDY_ADMIN_SET;
	fj_free(root);
	return r;
}

char *caddy_adapted(const char *output)
{
	const char *best = NULL;

	for (const char *s = output; *s; s += strcspn(s, "\n"), s += *s == '\n')
		if (*s == '{' && strncmp(s, "{\"level\"", 8) != 0)
			best = s;
	return best ? xprintf("%.*s", (int)strcspn(best, "\n"), best) : NULL;
}
