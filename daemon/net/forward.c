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

enum { FILE_MAX_BYTES = 1 << 20 };

static struct {
	pthread_mutex_t lock;
	int *v; /* interfaces that forward_apply() has seen, by index */
	size_t n;
} seen = {.lock = PTHREAD_MUTEX_INITIALIZER};

void forward_file_done(struct forward_file *f)
{
	free(f->v);
	*f = (struct forward_file){0};
}

static void add_entry(struct forward_file *f, const char *name, bool old)
{
	f->v = xrealloc(f->v, (f->n + 1) * sizeof *f->v);
	f->v[f->n] = (struct forward_entry){.old = old};
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

void forward_parse(const char *text, const char *boot_id, struct forward_file *ret)
{
	auto_free char *copy = xstrdup(text);
	char *save = NULL, *line = strtok_r(copy, "\n", &save);
	char name[IFNAMSIZ], value, end;

	if (line == NULL || strncmp(line, "boot ", 5) != 0 || strcmp(line + 5, boot_id) != 0)
		return;
	while ((line = strtok_r(NULL, "\n", &save))) {
		if (sscanf(line, "%15s %c%c", name, &value, &end) != 2 || (value != '0' && value != '1'))
			continue;
		if (find_entry(ret, name) == NULL)
			add_entry(ret, name, value == '1');
	}
}

void forward_format(const struct forward_file *f, const char *boot_id, struct buf *ret)
{
	buf_printf(ret, "boot %s\n", boot_id);
	for (size_t i = 0; i < f->n; i++)
		buf_printf(ret, "%s %d\n", f->v[i].name, f->v[i].old);
}

bool forward_note_all(struct forward_file *f, bool on)
{
	const struct forward_entry *all = find_entry(f, FORWARD_ALL);

	if (all == NULL) {
		add_entry(f, FORWARD_ALL, on);
		return true;
	}
	if (all->old == on)
		return false;
	for (size_t i = 0; i < f->n; i++)
		f->v[i].old = on;
	return true;
}

void forward_ours(const struct forward_file *f, struct strv *ret)
{
	for (size_t i = 0; i < f->n; i++)
		if (!f->v[i].old && strcmp(f->v[i].name, FORWARD_ALL) != 0)
			strv_add(ret, f->v[i].name);
}

struct boot_id {
	char s[64];
};

static struct boot_id boot_id(void)
{
	struct boot_id id = {"unknown"};
	auto_close int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, id.s, sizeof id.s - 1);

	if (n > 0)
		id.s[n] = '\0';
	id.s[strcspn(id.s, "\n")] = '\0';
	return id;
}

static char *path_of(const char *state_dir)
{
	return xprintf("%s/forwarding", state_dir);
}

static int load(const char *path, struct forward_file *ret, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error e;

	if (file_read(AT_FDCWD, path, FILE_MAX_BYTES, &text, &e) < 0) {
		if (e.code == FCM_NOT_FOUND)
			return 0;
		*err = e;
		return -1;
	}
	forward_parse(text.p, boot_id().s, ret);
	return 0;
}

static int save(const char *path, const struct forward_file *f, struct fcm_error *err)
{
	_cleanup_(buf_done) struct buf text = {0};

	forward_format(f, boot_id().s, &text);
	return file_write_atomic(AT_FDCWD, path, 0600, text.p, text.n, err);
}

static void remember(const struct link_routed *links, size_t n)
{
	pthread_mutex_lock(&seen.lock);
	seen.v = xrealloc(seen.v, (n + 1) * sizeof *seen.v);
	seen.n = n;
	for (size_t i = 0; i < n; i++)
		seen.v[i] = links[i].index;
	pthread_mutex_unlock(&seen.lock);
}

bool forward_knows(int index)
{
	bool found = false;

	pthread_mutex_lock(&seen.lock);
	for (size_t i = 0; i < seen.n && !found; i++)
		found = seen.v[i] == index;
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

/* The firewall names it in quotes, where `*` stands for any end. */
static bool sayable(const char *name)
{
	return strpbrk(name, "\"*\\") == NULL;
}

/* A new interface of the name begins with the host's value, not with ours. */
static bool forget_those_gone(struct forward_file *f)
{
	size_t n = f->n;

	f->n = 0;
	for (size_t i = 0; i < n; i++)
		if (strcmp(f->v[i].name, FORWARD_ALL) == 0 || if_nametoindex(f->v[i].name))
			f->v[f->n++] = f->v[i];
	return f->n != n;
}

/* Note what isn't in the file yet. What is there came first and is the truth: after a restart the value is ours. */
static int note_old_values(const char *path, const struct link_routed *links, size_t n,
	struct forward_file *ret, struct fcm_error *err)
{
	bool all;

	if (load(path, ret, err) < 0 || host_forwards(&all, err) < 0)
		return -1;
	bool changed = forget_those_gone(ret);
	changed |= forward_note_all(ret, all);
	for (size_t i = 0; i < n; i++)
		if (!links[i].forwarding && sayable(links[i].name) &&
			find_entry(ret, links[i].name) == NULL) {
			add_entry(ret, links[i].name, false);
			changed = true;
		}
	return changed ? save(path, ret, err) : 0;
}

int forward_for_vms(const char *state_dir, struct strv *ret, struct fcm_error *err)
{
	auto_free char *path = path_of(state_dir);
	_cleanup_(forward_file_done) struct forward_file f = {0};

	if (load(path, &f, err) < 0)
		return -1;
	forward_ours(&f, ret);
	return 0;
}

int forward_apply(const char *state_dir, struct strv *changed, struct fcm_error *err)
{
	auto_free char *path = path_of(state_dir);
	auto_free struct link_routed *links = NULL;
	_cleanup_(forward_file_done) struct forward_file f = {0};
	_cleanup_(strv_done) struct strv ours = {0};
	size_t n;

	if (link_list_routed(&links, &n, err) < 0 || note_old_values(path, links, n, &f, err) < 0)
		return -1;
	forward_ours(&f, &ours);
	if (firewall_no_router(&ours, err) < 0)
		return -1;
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

int forward_restore(const char *state_dir, struct fcm_error *err)
{
	auto_free char *path = path_of(state_dir);
	_cleanup_(forward_file_done) struct forward_file f = {0};

	if (load(path, &f, err) < 0)
		return -1;
	for (size_t i = 0; i < f.n; i++) {
		unsigned index = if_nametoindex(f.v[i].name);
		if (index && link_set_forwarding((int)index, f.v[i].old, err) < 0)
			return fcm_wrap(err, "%s", f.v[i].name);
	}
	remember(NULL, 0);
	return unlink(path) < 0 && errno != ENOENT ? fcm_fail_errno(err, "remove %s", path) : 0;
}
