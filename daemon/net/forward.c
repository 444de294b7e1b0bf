#include "daemon/net/forward.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/core/fileio.h"
#include "daemon/net/firewall.h"
#include "daemon/net/link.h"
#include "daemon/net/net.h"
#include "daemon/proc/proc.h"

#define ALL "all"

enum { FILE_MAX_BYTES = 1 << 20 };

static struct {
	pthread_mutex_t lock;
	struct link_routed *v; /* the interfaces that forward_apply() has seen */
	size_t n;
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER};

void forward_file_done(struct forward_file *f)
{
	free(f->v);
	*f = (struct forward_file){0};
}

static void add_entry(struct forward_file *f, const char *name, int index, bool old)
{
	f->v = xrealloc(f->v, (f->n + 1) * sizeof *f->v);
	f->v[f->n] = (struct forward_entry){.index = index, .old = old};
	fcm_copy(f->v[f->n].name, sizeof f->v[f->n].name, name);
	f->n++;
}

static struct forward_entry *find_entry(const struct forward_file *f, const char *name)
{
	for (size_t i = 0; i < f->n; i++)
		if (strcmp(f->v[i].name, name) == 0)
			return &f->v[i];
	return NULL;
}

static void parse_line(const char *line, struct forward_file *ret)
{
	char name[IFNAMSIZ], value, end;
	int index = 0, n = sscanf(line, "%15s %c %d%c", name, &value, &index, &end);

	if ((n != 2 && n != 3) || (n == 3 && index <= 0) || (value != '0' && value != '1'))
		return;
	if (strcmp(name, ALL) == 0) {
		ret->all_seen = true;
		ret->all = value == '1';
	} else if (find_entry(ret, name) == NULL) {
		add_entry(ret, name, index, value == '1');
	}
}

void forward_parse(const char *text, const char *boot_id, struct forward_file *ret)
{
	auto_free char *copy = xstrdup(text);
	char *save = NULL, *line = strtok_r(copy, "\n", &save);

	if (line == NULL || strncmp(line, "boot ", 5) != 0 || strcmp(line + 5, boot_id) != 0)
		return;
	while ((line = strtok_r(NULL, "\n", &save)))
		parse_line(line, ret);
}

void forward_format(const struct forward_file *f, const char *boot_id, struct buf *ret)
{
	buf_printf(ret, "boot %s\n", boot_id);
	if (f->all_seen)
		buf_printf(ret, ALL " %d\n", f->all);
	for (size_t i = 0; i < f->n; i++)
		buf_printf(ret, "%s %d %d\n", f->v[i].name, f->v[i].old, f->v[i].index);
}

bool forward_note_all(struct forward_file *f, bool on, bool moved)
{
	if (f->all_seen && f->all == on && !moved)
		return false;
	f->all_seen = true;
	f->all = on;
	for (size_t i = 0; i < f->n; i++)
		f->v[i].old = on;
	return true;
}

/* The firewall names it in quotes, where `*` stands for any end. */
static bool sayable(const char *name)
{
	return strpbrk(name, "\"*\\") == NULL;
}

void forward_ours(const struct forward_file *f, struct strv *ret)
{
	for (size_t i = 0; i < f->n; i++)
		if (!f->v[i].old)
			strv_add(ret, f->v[i].name);
}

static char *path_of(const char *run_dir)
{
	return xprintf("%s/forwarding", run_dir);
}

/* Is it still there? It may have another name by now; one that can't be said is put back. */
static bool follow_one(struct forward_entry *e)
{
	struct fcm_error ignored;

	if (e->index == 0)
		e->index = (int)if_nametoindex(e->name);
	if (e->index == 0 || if_indextoname((unsigned)e->index, e->name) == NULL)
		return false;
	if (sayable(e->name))
		return true;
	(void)!link_set_forwarding(e->index, e->old, &ignored);
	return false;
}

/* As they are now. A new interface of an old name begins with the host's value, not with ours. */
static bool follow(struct forward_file *f)
{
	bool changed = false;
	size_t n = f->n;

	f->n = 0;
	for (size_t i = 0; i < n; i++) {
		struct forward_entry e = f->v[i];
		bool there = follow_one(&e);
		changed |= !there || e.index != f->v[i].index || strcmp(e.name, f->v[i].name) != 0;
		if (there)
			f->v[f->n++] = e;
	}
	return changed;
}

/* *ret_changed, which may be NULL: it isn't what the file says any more. */
static int load(const char *path, struct forward_file *ret, bool *ret_changed, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error e;

	if (file_read(AT_FDCWD, path, FILE_MAX_BYTES, &text, &e) == 0) {
		forward_parse(text.p, proc_boot_id(), ret);
	} else if (e.code != FCM_NOT_FOUND) {
		*err = e;
		return -1;
	}
	bool changed = follow(ret);
	if (ret_changed)
		*ret_changed = changed;
	return 0;
}

static int save(const char *path, const struct forward_file *f, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};

	forward_format(f, proc_boot_id(), &text);
	return file_write_atomic(AT_FDCWD, path, 0600, text.p, text.n, err);
}

static void remember(const struct link_routed *links, size_t n)
{
	pthread_mutex_lock(&seen.lock);
	seen.v = xrealloc(seen.v, (n + 1) * sizeof *seen.v);
	seen.n = n;
	for (size_t i = 0; i < n; i++)
		seen.v[i] = links[i];
	pthread_mutex_unlock(&seen.lock);
}

bool forward_knows(int index, const char *name)
{
	bool found = false;

	pthread_mutex_lock(&seen.lock);
	for (size_t i = 0; i < seen.n && !found; i++)
		found = seen.v[i].index == index && (name == NULL || strcmp(seen.v[i].name, name) == 0);
	pthread_mutex_unlock(&seen.lock);
	return found;
}

static int host_forwards(bool *ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};

	if (file_read(AT_FDCWD, "/proc/sys/net/ipv4/ip_forward", FILE_MAX_BYTES, &text, err) < 0)
		return -1;
	*ret = text.n && text.p[0] != '0';
	return 0;
}

/* What the file doesn't have yet. What it has came first and is the truth: after a restart the value is ours. */
static bool note_new(const struct link_routed *links, size_t n, struct forward_file *f)
{
	bool changed = false;

	for (size_t i = 0; i < n; i++)
		if (!links[i].forwarding && sayable(links[i].name) && find_entry(f, links[i].name) == NULL) {
			add_entry(f, links[i].name, links[i].index, false);
			changed = true;
		}
	return changed;
}

int forward_for_vms(const char *run_dir, struct strv *ret, struct fcm_error *err)
{
	auto_free char *path = path_of(run_dir);
	_cleanup_(forward_file_done) struct forward_file f = {0};

	if (load(path, &f, NULL, err) < 0)
		return -1;
	forward_ours(&f, ret);
	return 0;
}

static int say_ours(const struct forward_file *f, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv ours = {0};

	forward_ours(f, &ours);
	return firewall_no_router(&ours, err);
}

static int switch_on(const struct link_routed *links, size_t n, struct strv *changed, struct fcm_error *err)
{
	for (size_t i = 0; i < n; i++) {
		if (links[i].forwarding || !sayable(links[i].name))
			continue;
		if (link_set_forwarding(links[i].index, true, err) < 0)
			return fcm_wrap(err, "%s", links[i].name);
		if (changed)
			strv_add(changed, links[i].name);
	}
	remember(links, n);
	return 0;
}

/* The host's switch is read before the interfaces: where somebody moves it in between, we are told of it and come again. */
int forward_apply(const char *run_dir, bool moved, struct strv *changed, struct fcm_error *err)
{
	auto_free char *path = path_of(run_dir);
	auto_free struct link_routed *links = NULL;
	_cleanup_(forward_file_done) struct forward_file f = {0};
	bool all, new;
	size_t n;

	if (host_forwards(&all, err) < 0 || link_list_routed(&links, &n, err) < 0 ||
		load(path, &f, &new, err) < 0)
		return -1;
	new |= forward_note_all(&f, all, moved);
	new |= note_new(links, n, &f);
	if ((new &&save(path, &f, err) < 0) || say_ours(&f, err) < 0)
		return -1;
	return switch_on(links, n, changed, err);
}

int net_forwarding_off(struct strv *ret, struct fcm_error *err)
{
	auto_free struct link_routed *links = NULL;
	size_t n;

	if (link_list_routed(&links, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (!links[i].forwarding)
			strv_add(ret, links[i].name);
	return 0;
}

int forward_restore(const char *run_dir, struct fcm_error *err)
{
	auto_free char *path = path_of(run_dir);
	_cleanup_(forward_file_done) struct forward_file f = {0};

	if (load(path, &f, NULL, err) < 0)
		return -1;
	for (size_t i = 0; i < f.n; i++)
		if (link_set_forwarding(f.v[i].index, f.v[i].old, err) < 0)
			return fcm_wrap(err, "%s", f.v[i].name);
	remember(NULL, 0);
	return unlink(path) < 0 && errno != ENOENT ? fcm_fail_errno(err, "remove %s", path) : 0;
}
