/*
 * Users of the guest, as its own /etc/passwd and /etc/group have them: a static program has no NSS to ask.
 */
#pragma once

#include <limits.h>
#include <sys/types.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum { USER_GROUPS_MAX = 256 }; /* supplementary groups that are looked at */

struct user {
	uid_t uid;
	gid_t gid;
	gid_t groups[USER_GROUPS_MAX];
	size_t group_count;
	char name[64], home[PATH_MAX], shell[PATH_MAX];
};

/* Find `spec`: a name or number, with `:group`, a name or number too; NULL is user 0. A group that is named is the only one;
 * else it is the user's own and all that list them. A number needs no entry: its group is 0 then, its home "/". The files
 * are those in directory `etc`. -1 with FCM_INVALID for field "user" when there is no such user or group. */
int user_find(const char *etc, const char *spec, struct user *ret, struct fcm_error *err) must_check;
