#include "images/agent/user.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { LINE_MAX_BYTES = 65536 }; /* of an entry; a longer one ends the search */

static void closep(FILE **f)
{
	if (*f)
		fclose(*f);
}

/* The file is the guest's: neither a FIFO nor a device may hold PID 1. */
static FILE *open_in(const char *etc, const char *name)
{
	char path[PATH_MAX];
	struct stat st;

	if (!fcm_format(path, sizeof path, "%s/%s", etc, name))
		return NULL;
	auto_close int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return NULL;
	return fdopen(STEAL_FD(fd), "r");
}

static bool parse_id(const char *s, uint32_t *ret)
{
	int64_t n;

	/* All ones mean "don't change" to setuid(2) and friends. */
	if (!fcm_parse_i64(s, 0, UINT32_MAX - 1, &n))
		return false;
	*ret = (uint32_t)n;
	return true;
}

static bool take_passwd(struct user *u, const struct passwd *pw)
{
	u->uid = pw->pw_uid;
	u->gid = pw->pw_gid;
	return fcm_copy(u->name, sizeof u->name, pw->pw_name) &&
	       fcm_copy(u->home, sizeof u->home, pw->pw_dir[0] ? pw->pw_dir : "/") &&
	       fcm_copy(u->shell, sizeof u->shell, pw->pw_shell[0] ? pw->pw_shell : "/bin/sh");
}

/* By name, or by number where `spec` is one that is nobody's name. */
static bool find_passwd(const char *etc, const char *spec, struct user *u)
{
	_cleanup_(closep) FILE *f = open_in(etc, "passwd");
	auto_free char *line = xalloc(LINE_MAX_BYTES);
	struct passwd entry, *pw;
	uint32_t id = 0;
	bool is_number = parse_id(spec, &id), found = false;

	while (f && fgetpwent_r(f, &entry, line, LINE_MAX_BYTES, &pw) == 0) {
		if (strcmp(pw->pw_name, spec) == 0)
			return take_passwd(u, pw);
		if (is_number && !found && pw->pw_uid == id)
			found = take_passwd(u, pw);
	}
	if (found || !is_number)
		return found;
	u->uid = id;
	return fcm_copy(u->name, sizeof u->name, spec) && fcm_copy(u->home, sizeof u->home, "/") &&
	       fcm_copy(u->shell, sizeof u->shell, "/bin/sh");
}

static bool find_group(const char *etc, const char *spec, gid_t *ret)
{
	_cleanup_(closep) FILE *f = open_in(etc, "group");
	auto_free char *line = xalloc(LINE_MAX_BYTES);
	struct group entry, *gr;

	while (f && fgetgrent_r(f, &entry, line, LINE_MAX_BYTES, &gr) == 0) {
		if (strcmp(gr->gr_name, spec) == 0) {
			*ret = gr->gr_gid;
			return true;
		}
	}
	return parse_id(spec, ret);
}

static bool lists(char *const *members, const char *name)
{
	for (; *members; members++)
		if (strcmp(*members, name) == 0)
			return true;
	return false;
}

static void find_groups(const char *etc, struct user *u)
{
	_cleanup_(closep) FILE *f = open_in(etc, "group");
	auto_free char *line = xalloc(LINE_MAX_BYTES);
	struct group entry, *gr;

	u->groups[u->group_count++] = u->gid;
	while (f && u->group_count < USER_GROUPS_MAX &&
		fgetgrent_r(f, &entry, line, LINE_MAX_BYTES, &gr) == 0)
		if (gr->gr_gid != u->gid && lists(gr->gr_mem, u->name))
			u->groups[u->group_count++] = gr->gr_gid;
}

int user_find(const char *etc, const char *spec, struct user *ret, struct fcm_error *err)
{
	auto_free char *name = xstrdup(spec ? spec : "0");
	char *group = strchr(name, ':');
	struct user u = {0};

	if (group)
		*group++ = 0;
	if (!find_passwd(etc, name, &u))
		return fcm_fail_field(err, FCM_INVALID, "user", "user: there is no '%.64s'", name);
	if (group == NULL)
		find_groups(etc, &u);
	else if (find_group(etc, group, &u.gid))
		u.groups[u.group_count++] = u.gid;
	else
		return fcm_fail_field(err, FCM_INVALID, "user", "user: there is no group '%.64s'", group);
	*ret = u;
	return 0;
}
