/*
 * The directory of snapshots.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/core/fileio.h"
#include "daemon/store/snapshot.h"

#define FOLDER "snapshots"

static int folder_fd = -1;

struct temp_name {
	char s[sizeof(struct vm_id) + 1];
};

static struct temp_name temp_name(const struct vm_id *id)
{
	struct temp_name t = {""};

	(void)fcm_format(t.s, sizeof t.s, ".%s", id->s);
	return t;
}

static int sync_folder(struct fcm_error *err)
{
	return fsync(folder_fd) < 0 ? fcm_fail_errno(err, "fsync the directory of snapshots") : 0;
}

static int sweep(struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv names = {0};

	if (dir_names(folder_fd, &names, err) < 0)
		return -1;
	for (size_t i = 0; i < names.n; i++)
		if (names.v[i][0] == '.' && dir_remove(folder_fd, names.v[i], NULL, err) < 0)
			return -1;
	return 0;
}

int snapshots_init(int state_dirfd, struct fcm_error *err)
{
	fcm_closep(&folder_fd);
	if (mkdirat(state_dirfd, FOLDER, 0700) < 0 && errno != EEXIST && errno != EROFS)
		return fcm_fail_errno(err, "make the directory of snapshots");
	folder_fd = dir_open(state_dirfd, FOLDER, err);
	if (folder_fd >= 0 && sweep(err) == 0)
		return 0;
	return err->code == FCM_NOT_FOUND || err->sys == EROFS
		       ? 0
		       : -1; /* a disk that is read-only: there are none */
}

int snapshots_begin(const struct vm_id *id, struct fcm_error *err)
{
	struct temp_name temp = temp_name(id);

	if (dir_remove(folder_fd, temp.s, NULL, err) < 0)
		return -1;
	if (mkdirat(folder_fd, temp.s, 0700) < 0)
		return fcm_fail_errno(err, "make a directory for the snapshot");
	return dir_open(folder_fd, temp.s, err);
}

int snapshots_publish(const struct vm_id *id, struct fcm_error *err)
{
	if (renameat2(folder_fd, temp_name(id).s, folder_fd, id->s, RENAME_NOREPLACE) < 0)
		return fcm_fail_errno(err, "enter the snapshot %s", id->s);
	return sync_folder(err);
}

/* First out of sight, as a whole. */
int snapshots_remove(const struct vm_id *id, uint64_t *freed, struct fcm_error *err)
{
	struct temp_name temp = temp_name(id);

	if (renameat2(folder_fd, id->s, folder_fd, temp.s, RENAME_NOREPLACE) < 0 && errno != ENOENT &&
		errno != EEXIST)
		return fcm_fail_errno(err, "remove the snapshot %s", id->s);
	if (dir_remove(folder_fd, temp.s, freed, err) < 0 || dir_remove(folder_fd, id->s, freed, err) < 0)
		return -1;
	return sync_folder(err);
}

int snapshots_open(const struct vm_id *id, struct fcm_error *err)
{
	return dir_open(folder_fd, id->s, err);
}

int snapshots_list(struct strv *ret, struct fcm_error *err)
{
	_cleanup_(strv_done) struct strv names = {0};

	if (dir_names(folder_fd, &names, err) < 0)
		return -1;
	for (size_t i = 0; i < names.n; i++)
		if (vm_id_valid(names.v[i]))
			strv_add(ret, names.v[i]);
	return 0;
}
