/*
 * A volume is made under a name that no volume has (it begins with a dot) and renamed when it is whole, and it loses its name
 * before it is removed: so what has a name is whole, and what has none is nobody's.
 */
#include "daemon/disk/volume.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/core/log.h"
#include "common/field.h"
#include "daemon/disk/disk.h"

#define FACTS "volume.json"

enum { FACTS_MAX = 4096 };

static int volumes_fd = -1;

struct facts {
	char vm[9];
	int64_t created;
};

static const struct field facts_fields[] = {
	F(struct facts, vm, FIELD_CHARS),
	F(struct facts, created, FIELD_TIME),
	FIELD_END,
};

static void closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

static DIR *open_listing(void)
{
	int fd = openat(volumes_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (d == NULL && fd >= 0)
		close(fd);
	return d;
}

static int remove_leftovers(struct fcm_error *err)
{
	_cleanup_(closedirp) DIR *d = open_listing();

	if (d == NULL)
		return fcm_fail_errno(err, "list the volumes");
	for (struct dirent *e; (e = readdir(d));) {
		auto_free char *half = xprintf("%s/" VOLUME_FILE DISK_TEMP, e->d_name);
		if (e->d_name[0] != '.')
			(void)unlinkat(volumes_fd, half, 0);
		else if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
			 dir_remove(volumes_fd, e->d_name, NULL, err) < 0)
			return -1;
	}
	return 0;
}

int volume_init(const char *state_dir, struct fcm_error *err)
{
	auto_free char *path = xprintf("%s/volumes", state_dir);
	struct fcm_error why;

	fcm_closep(&volumes_fd);
	if (dir_make(path, 0700, err) < 0)
		return -1;
	volumes_fd = dir_open(AT_FDCWD, path, err);
	if (volumes_fd >= 0 && remove_leftovers(&why) < 0)
		log_error(LOG_LEVEL_WARN, NULL, &why);
	return volumes_fd < 0 ? -1 : 0;
}

/* ---- make ---- */

struct temp_name {
	char s[16];
};

static struct temp_name temp_name(void)
{
	struct temp_name t = {""};

	(void)fcm_format(t.s, sizeof t.s, ".%s", vm_id_random().s);
	return t;
}

static int write_facts(int dirfd, const char *vm, struct fcm_error *err)
{
	struct facts facts = {.created = clock_wall()};

	fcm_copy(facts.vm, sizeof facts.vm, vm);
	auto_json field_json *v = field_encode(facts_fields, &facts, false);
	auto_free char *text = fj_print(v, true);
	return file_write_atomic(dirfd, FACTS, 0600, text, strlen(text), err);
}

/* What a new one holds: an empty file system, or what another disk has. */
struct content {
	int templates_dirfd;
	unsigned mib;
	int from; /* or -1 */
};

static int fill(const char *temp, const char *vm, const struct content *c, struct fcm_error *err)
{
	if (mkdirat(volumes_fd, temp, 0700) < 0)
		return fcm_fail_errno(err, "make a directory for the volume");
	auto_close int fd = dir_open(volumes_fd, temp, err);
	if (fd < 0)
		return -1;
	int rc = c->from < 0 ? disk_make(fd, VOLUME_FILE, c->templates_dirfd, c->mib, geteuid(), true, err)
			     : disk_copy(c->from, fd, VOLUME_FILE, geteuid(), true, err);
	return rc < 0 ? -1 : write_facts(fd, vm, err);
}

static int enter(const char *temp, const struct asset_name *name, struct fcm_error *err)
{
	if (renameat2(volumes_fd, temp, volumes_fd, name->s, RENAME_NOREPLACE) < 0)
		return errno == EEXIST ? fcm_fail_field(err, FCM_NAME_TAKEN, "name",
						 "there is a volume '%s' already", name->s)
				       : fcm_fail_errno(err, "enter the volume '%s'", name->s);
	return fsync(volumes_fd) < 0 ? fcm_fail_errno(err, "fsync the volumes") : 0;
}

static int make(const struct asset_name *name, const char *vm, const struct content *c, struct fcm_error *err)
{
	struct temp_name temp = temp_name();
	struct fcm_error ignored;

	if (fill(temp.s, vm, c, err) == 0 && enter(temp.s, name, err) == 0)
		return 0;
	(void)!dir_remove(volumes_fd, temp.s, NULL, &ignored);
	return -1;
}

int volume_make(const struct asset_name *name, const char *vm, int templates_dirfd, unsigned mib,
	struct fcm_error *err)
{
	const struct content c = {.templates_dirfd = templates_dirfd, .mib = mib, .from = -1};

	return make(name, vm, &c, err);
}

/* ---- look ---- */

static int fail_missing(const struct asset_name *name, struct fcm_error *err)
{
	fcm_fail(err, FCM_NOT_FOUND, "there is no volume '%s'", name->s);
	return fcm_hint(err, "fcm volume ls shows what there is");
}

/* The descriptor of its directory. */
static int open_volume(const struct asset_name *name, struct fcm_error *err)
{
	int fd = dir_open(volumes_fd, name->s, err);

	return fd < 0 && err->code == FCM_NOT_FOUND ? fail_missing(name, err) : fd;
}

static void read_facts(int dirfd, struct facts *ret)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct fcm_error ignored;

	if (file_read(dirfd, FACTS, FACTS_MAX, &text, &ignored) < 0 ||
		field_decode(facts_fields, text.p, text.n, FIELD_DISK, ret, &ignored) < 0 ||
		(*ret->vm && !vm_id_valid(ret->vm)))
		*ret = (struct facts){0};
}

int volume_open(const struct asset_name *name, struct fcm_error *err)
{
	auto_close int dir = open_volume(name, err);

	if (dir < 0)
		return -1;
	int fd = openat(dir, VOLUME_FILE, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? fail_missing(name, err)
				       : fcm_fail_errno(err, "open the volume '%s'", name->s);
	return fd;
}

int volume_copy(const struct asset_name *name, const char *vm, int from, struct fcm_error *err)
{
	const struct content c = {.from = from};
	auto_close int dir = open_volume(name, err);

	if (dir >= 0)
		return disk_copy(from, dir, VOLUME_FILE, geteuid(), true, err);
	return err->code == FCM_NOT_FOUND ? make(name, vm, &c, err) : -1;
}

int volume_find(const struct asset_name *name, struct volume_info *ret, struct fcm_error *err)
{
	auto_close int fd = open_volume(name, err);
	struct facts facts = {0};
	struct stat st;

	if (fd < 0)
		return -1;
	if (fstatat(fd, VOLUME_FILE, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
		return fail_missing(name, err);
	read_facts(fd, &facts);
	*ret = (struct volume_info){.name = *name,
		.size = (uint64_t)st.st_size,
		.on_disk = (uint64_t)st.st_blocks * 512, /* stat(2): whatever the block size */
		.created = facts.created};
	fcm_copy(ret->vm, sizeof ret->vm, facts.vm);
	return 0;
}

static int by_name(const void *a, const void *b)
{
	const struct volume_info *x = a, *y = b;

	return strcmp(x->name.s, y->name.s);
}

int volume_list(struct volume_info **ret, size_t *ret_n, struct fcm_error *err)
{
	_cleanup_(closedirp) DIR *d = open_listing();
	auto_free struct volume_info *list = NULL;
	struct asset_name name;
	struct fcm_error ignored;
	size_t n = 0;

	if (d == NULL)
		return fcm_fail_errno(err, "list the volumes");
	for (struct dirent *e; (e = readdir(d));) {
		list = xrealloc(list, (n + 1) * sizeof *list);
		if (asset_name_parse(e->d_name, "name", &name, &ignored) == 0 &&
			volume_find(&name, &list[n], &ignored) == 0)
			n++;
	}
	if (n)
		qsort(list, n, sizeof *list, by_name);
	*ret = STEAL(list);
	*ret_n = n;
	return 0;
}

/* ---- change ---- */

int volume_give(const struct asset_name *name, uid_t uid, struct fcm_error *err)
{
	auto_close int fd = volume_open(name, err);

	if (fd < 0)
		return -1;
	if (fchown(fd, uid, (gid_t)-1) < 0 || fchmod(fd, 0644) < 0)
		return fcm_fail_errno(err, "give the volume '%s' to uid %u", name->s, uid);
	return 0;
}

int volume_remove(const struct asset_name *name, uint64_t *freed, struct fcm_error *err)
{
	struct temp_name temp = temp_name();

	if (renameat(volumes_fd, name->s, volumes_fd, temp.s) < 0)
		return errno == ENOENT ? 0 : fcm_fail_errno(err, "remove the volume '%s'", name->s);
	if (dir_remove(volumes_fd, temp.s, freed, err) < 0)
		return -1;
	return fsync(volumes_fd) < 0 ? fcm_fail_errno(err, "fsync the volumes") : 0;
}
