/*
 * How it works. A change is a transaction over files: what Caddy reads now must be good (else it is the user's to mend,
 * and we touch nothing); then the import line and the sites' files are written, validated and loaded; and when Caddy
 * says no, all of them become what they were. Removing a site isn't rolled back: its VM is gone. If Caddy can't be
 * told of that, the reload is owed and made up for with the next change.
 *
 * One mutex serialises the calls: two reloads at once would validate each other's half-done files. It is held while
 * Caddy's program runs; nothing else in the daemon waits for it.
 */
#include "daemon/caddy/caddy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/core/fileio.h"
#include "daemon/caddy/run.h"
#include "daemon/caddy/text.h"

enum { CADDYFILE_MAX = 4 << 20, SITE_MAX = 4096 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* for all below */
static struct caddy_config config;			 /* its strings are in `words` */
static struct strv words;
static char *sites_dir; /* .../fcm.d */
static bool reload_owed;

static void unlock(pthread_mutex_t **m)
{
	pthread_mutex_unlock(*m);
}

#define LOCKED                                                                                               \
	__attribute__((unused)) _cleanup_(unlock) pthread_mutex_t *locked_ = &lock;                          \
	pthread_mutex_lock(&lock)

int caddy_init(const struct caddy_config *c, struct fcm_error *err)
{
	LOCKED;
	if (*c->tls && strcmp(c->tls, "internal") != 0)
		return fcm_fail(err, FCM_CONFIG, "tls = %s: must be empty or 'internal'", c->tls);
	if (*c->acme_ca && (!caddy_word_valid(c->acme_ca) || strncmp(c->acme_ca, "http", 4) != 0))
		return fcm_fail(err, FCM_CONFIG, "acme_ca = %s: not a URL", c->acme_ca);
	if (*c->caddyfile != '/' || !caddy_word_valid(c->caddyfile))
		return fcm_fail(err, FCM_CONFIG, "caddyfile = %s: not a plain absolute path", c->caddyfile);
	strv_done(&words);
	const char *const all[] = {c->binary, c->caddyfile, c->user, c->tls, c->acme_ca, c->admin};
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		strv_add(&words, all[i]);
	config =
		(struct caddy_config){words.v[0], words.v[1], words.v[2], words.v[3], words.v[4], words.v[5]};
	free(sites_dir);
	auto_free char *path = xstrdup(c->caddyfile);
	sites_dir = xprintf("%s/fcm.d", dirname(path));
	/* the last daemon may have owed one; Caddy does nothing about a configuration that it has already */
	reload_owed = access(sites_dir, F_OK) == 0;
	return 0;
}

/* ---- the sites' files ---- */

struct file_name {
	char s[32];
};

static struct file_name site_file(const struct vm_id *id)
{
	struct file_name n;

	snprintf(n.s, sizeof n.s, "%s.caddy", id->s);
	return n;
}

/* Is `name` a file of ours? */
static bool is_site_file(const char *name, struct vm_id *ret)
{
	struct vm_id id = {""};

	if (strlen(name) != sizeof id.s - 1 + strlen(".caddy") ||
		strcmp(name + sizeof id.s - 1, ".caddy") != 0)
		return false;
	memcpy(id.s, name, sizeof id.s - 1);
	*ret = id;
	return vm_id_valid(id.s) || strcmp(id.s, CADDY_API_ID) == 0;
}

static void closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

/* The directory of the sites for reading, or NULL when there is none. */
static DIR *open_sites(void)
{
	int fd = open(sites_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (d == NULL && fd >= 0)
		close(fd);
	return d;
}

/* Whose file has the domain? */
static bool find_owner(const struct dns_name *domain, struct vm_id *ret)
{
	_cleanup_(closedirp) DIR *d = open_sites();
	struct fcm_error ignored;
	struct dns_name found;
	struct dirent *e;

	while (d && (e = readdir(d))) {
		_cleanup_(buf_done) struct buf text = {0};
		if (is_site_file(e->d_name, ret) &&
			file_read(dirfd(d), e->d_name, SITE_MAX, &text, &ignored) == 0 &&
			caddy_site_domain(text.p, &found) && strcmp(found.s, domain->s) == 0)
			return true;
	}
	return false;
}

/* ---- a transaction ---- */

/* A site that gets another text. */
struct change {
	const struct caddy_site *site;
	struct buf old, new;
	bool had; /* there is an old one */
};

struct session {
	struct caddy_program program;
	char *caddyfile; /* links resolved */
	struct buf text; /* of the Caddyfile */
	struct stat st;
	bool exists, import_added;
	bool admin_set; /* the Caddyfile itself says where its admin endpoint is */
	int dir_fd;
	struct change *changes;
	size_t n;
};

static void session_done(struct session *s)
{
	for (size_t i = 0; i < s->n; i++) {
		buf_done(&s->changes[i].old);
		buf_done(&s->changes[i].new);
	}
	free(s->changes);
	free(s->caddyfile);
	buf_done(&s->text);
	caddy_program_done(&s->program);
	fcm_closep(&s->dir_fd);
}

static int session_begin(struct session *s, struct fcm_error *err)
{
	if (caddy_program_find(&config, &s->program, err) < 0)
		return -1;
	s->caddyfile = realpath(config.caddyfile, NULL);
	s->exists = s->caddyfile != NULL;
	if (!s->exists && errno != ENOENT)
		return fcm_fail_errno(err, "find %s", config.caddyfile);
	if (!s->exists) {
		s->caddyfile = xstrdup(config.caddyfile);
		buf_add(&s->text, "", 1);
		s->text.n = 0;
		return 0;
	}
	if (file_read(AT_FDCWD, s->caddyfile, CADDYFILE_MAX, &s->text, err) < 0)
		return -1;
	return stat(s->caddyfile, &s->st) < 0 ? fcm_fail_errno(err, "stat %s", s->caddyfile) : 0;
}

/* Open fcm.d, made if need be. Its parent must be there: without it Caddy isn't set up. */
static int open_dir(struct session *s, struct fcm_error *err)
{
	bool made = mkdir(sites_dir, 0755) == 0;

	if (!made && errno != EEXIST)
		return fcm_fail_errno(err, "mkdir %s", sites_dir);
	s->dir_fd = dir_open(AT_FDCWD, sites_dir, err);
	if (s->dir_fd < 0)
		return -1;
	if (made)
		(void)fchmod(s->dir_fd, 0755); /* whatever the umask: Caddy's user reads it */
	return 0;
}

static int write_caddyfile(const struct session *s, const struct buf *text, struct fcm_error *err)
{
	if (s->exists)
		return file_write_like(AT_FDCWD, s->caddyfile, &s->st, text->p, text->n, err);
	return file_write_atomic(AT_FDCWD, s->caddyfile, 0644, text->p, text->n, err);
}

static bool needs_import(const struct session *s)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error ignored;

	return caddy_with_import(s->text.p, sites_dir, &text, &ignored) < 0 || text.n != s->text.n;
}

static int add_import(struct session *s, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};

	if (caddy_with_import(s->text.p, sites_dir, &text, err) < 0)
		return fcm_wrap(err, "%s", config.caddyfile);
	if (text.n == s->text.n)
		return 0;
	s->import_added = true;
	return write_caddyfile(s, &text, err);
}

static int apply(struct session *s, struct fcm_error *err)
{
	if (open_dir(s, err) < 0 || add_import(s, err) < 0)
		return -1;
	for (size_t i = 0; i < s->n; i++) {
		const struct change *c = &s->changes[i];
		if (file_write_atomic(s->dir_fd, site_file(&c->site->id).s, 0644, c->new.p, c->new.n, err) <
			0)
			return -1;
	}
	return 0;
}

/* Put everything back. What fails here is the disk, and there is nobody left to tell but the next change. */
static void roll_back(struct session *s)
{
	struct fcm_error ignored;

	for (size_t i = 0; i < s->n && s->dir_fd >= 0; i++) {
		const struct change *c = &s->changes[i];
		struct file_name name = site_file(&c->site->id);
		if (!c->had)
			(void)unlinkat(s->dir_fd, name.s, 0);
		else if (file_write_atomic(s->dir_fd, name.s, 0644, c->old.p, c->old.n, &ignored) < 0)
			reload_owed = true;
	}
	if (s->import_added && !s->exists)
		(void)unlink(s->caddyfile);
	else if (s->import_added && write_caddyfile(s, &s->text, &ignored) < 0)
		reload_owed = true;
}

/* Does that one's file become another? */
static bool changes(const struct session *s, const struct vm_id *id)
{
	for (size_t i = 0; i < s->n; i++)
		if (strcmp(s->changes[i].site->id.s, id->s) == 0)
			return true;
	return false;
}

static int check_domain(
	const struct session *s, const char *adapted, const struct caddy_site *site, struct fcm_error *err)
{
	struct vm_id owner;

	if (find_owner(&site->domain, &owner)) {
		if (changes(s, &owner))
			return 0;
		fcm_fail(err, FCM_DOMAIN_TAKEN, "%s%s has the domain %s",
			strcmp(owner.s, CADDY_API_ID) == 0 ? "" : "VM ", owner.s, site->domain.s);
		return fcm_veil(err, "the domain %.64s is taken", site->domain.s);
	}
	if (caddy_serves(adapted, &site->domain))
		return fcm_fail(err, FCM_DOMAIN_TAKEN, "a site of %s has the domain %s", config.caddyfile,
			site->domain.s);
	return 0;
}

/* Is what Caddy reads now good, and does it leave room for the changes? */
static int check(struct session *s, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf output = {0};

	if (s->program.env_hidden && strstr(s->text.p, "{$"))
		return fcm_fail(err, FCM_CONFIG,
			"%s takes variables of Caddy's environment, which the daemon may not read",
			config.caddyfile);
	if (s->exists && caddy_run(&s->program, "adapt", s->caddyfile, NULL, &output, err) < 0)
		return fcm_hint(err, "mend %s: its sites stay as they are until then", config.caddyfile);
	auto_free char *adapted = caddy_adapted(output.n ? output.p : "{}");
	if (adapted == NULL)
		return fcm_fail(err, FCM_HOST, "caddy adapt printed no configuration");
	switch (caddy_admin_of(adapted)) {
	case CADDY_ADMIN_OFF:
		fcm_fail(err, FCM_CONFIG, "%s says 'admin off', so Caddy can't be told of a site",
			config.caddyfile);
		return fcm_hint(err, "remove 'admin off' and restart Caddy");
	case CADDY_ADMIN_SET:
		s->admin_set = true;
		break;
	case CADDY_ADMIN_DEFAULT:
		break;
	}
	for (size_t i = 0; i < s->n; i++)
		if (check_domain(s, adapted, s->changes[i].site, err) < 0)
			return -1;
	return 0;
}

static int reload(const struct session *s, struct fcm_error *err)
{
	const char *address = s->admin_set || *config.admin == '\0' ? NULL : config.admin;
	int r = caddy_run(&s->program, "reload", s->caddyfile, address, NULL, err);

	reload_owed = r < 0;
	return r;
}

static int commit(struct session *s, struct fcm_error *err)
{
	if (check(s, err) < 0)
		return -1;
	if (apply(s, err) < 0 || caddy_run(&s->program, "validate", s->caddyfile, NULL, NULL, err) < 0 ||
		reload(s, err) < 0) {
		roll_back(s);
		return -1;
	}
	return 0;
}

/* Note a site whose file isn't as it should be. */
static void add_change(struct session *s, const struct caddy_site *site)
{
	auto_free char *path = xprintf("%s/%s", sites_dir, site_file(&site->id).s);
	struct change c = {.site = site};
	struct fcm_error ignored;

	caddy_site_text(&config, site, &c.new);
	c.had = file_read(AT_FDCWD, path, SITE_MAX, &c.old, &ignored) == 0;
	if (c.had && c.old.n == c.new.n &&memcmp(c.old.p, c.new.p, c.new.n) == 0) {
		buf_done(&c.old);
		buf_done(&c.new);
		return;
	}
	s->changes = xrealloc(s->changes, (s->n + 1) * sizeof c);
	s->changes[s->n++] = c;
}

int caddy_expose(const struct caddy_site *site, struct fcm_error *err)
{
	_cleanup_(session_done) struct session s = {.dir_fd = -1};

	LOCKED;
	if (session_begin(&s, err) < 0)
		return -1;
	add_change(&s, site);
	return s.n || reload_owed || needs_import(&s) ? commit(&s, err) : 0;
}

/* Is the reason that there is no Caddy which could serve anything? */
static bool nobody_serves(const struct fcm_error *why)
{
	return why->code == FCM_UNAVAILABLE || *config.binary == '\0' ||
	       strstr(why->msg, "connection refused");
}

/* Tell Caddy that files are gone. One that doesn't run needn't be told. */
static int reload_after_removal(struct fcm_error *err)
{
	_cleanup_(session_done) struct session s = {.dir_fd = -1};
	struct fcm_error why;

	reload_owed = true;
	if (session_begin(&s, &why) == 0 && (!s.exists || (check(&s, &why) == 0 && reload(&s, &why) == 0))) {
		reload_owed = false;
		return 0;
	}
	if (nobody_serves(&why)) {
		reload_owed = false;
		return 0;
	}
	*err = why;
	return -1;
}

int caddy_unexpose(const struct vm_id *id, bool *ret_existed, struct fcm_error *err)
{
	LOCKED;
	auto_free char *path = xprintf("%s/%s", sites_dir, site_file(id).s);

	*ret_existed = unlink(path) == 0;
	if (!*ret_existed && errno != ENOENT && errno != ENOTDIR)
		return fcm_fail_errno(err, "remove %s", path);
	return *ret_existed ? reload_after_removal(err) : 0;
}

static bool wanted(const struct caddy_site *sites, size_t n, const struct vm_id *id)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(sites[i].id.s, id->s) == 0)
			return true;
	return false;
}

/* Remove the files of other VMs, and what a crash left half-written. Files that we didn't name stay. */
static bool remove_others(const struct caddy_site *sites, size_t n)
{
	_cleanup_(closedirp) DIR *d = open_sites();
	struct dirent *e;
	struct vm_id id;
	bool any = false;

	while (d && (e = readdir(d))) {
		size_t len = strlen(e->d_name);
		if (is_site_file(e->d_name, &id) && !wanted(sites, n, &id))
			any |= unlinkat(dirfd(d), e->d_name, 0) == 0;
		else if (len > 4 && strcmp(e->d_name + len - 4, ".tmp") == 0)
			(void)unlinkat(dirfd(d), e->d_name, 0);
	}
	return any;
}

int caddy_sync(const struct caddy_site *sites, size_t n, struct fcm_error *err)
{
	_cleanup_(session_done) struct session s = {.dir_fd = -1};

	LOCKED;
	bool removed = remove_others(sites, n);
	if (n == 0)
		return removed || reload_owed ? reload_after_removal(err) : 0;
	if (session_begin(&s, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		add_change(&s, &sites[i]);
	reload_owed |= removed;
	return s.n || reload_owed || needs_import(&s) ? commit(&s, err) : 0;
}

void caddy_describe(const struct caddy_site *site, struct strv *ret)
{
	LOCKED;
	strv_addf(ret, "write %s/%s: %s -> http://%s:%u", sites_dir, site_file(&site->id).s, site->domain.s,
		ip_dotted(site->ip).s, site->port);
	strv_addf(ret, "add to %s, unless it is there: import %s/*.caddy", config.caddyfile, sites_dir);
	strv_addf(ret, "as user %s: caddy validate, caddy reload --config %s", config.user, config.caddyfile);
}
