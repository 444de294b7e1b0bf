/*
 * The members of an archive that holds an image, a plain tar in a file. What a name means is looked for in the archive and
 * nowhere else; none becomes the name of a file of ours.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"

enum {
	MEMBERS_MAX = 16384, /* that are looked at: an image has 128 layers */
	MEMBERS_LINKS = 4,   /* links from one member to another */
	MEMBERS_PATH = 1024, /* bytes of a name, with its NUL */
};

/* OCI: oci-layout and index.json at its top (image-layout.md of image-spec 1.1). Docker: manifest.json ("docker save"). Else the
 * members are a file system's. */
enum members_kind { MEMBERS_TREE, MEMBERS_OCI, MEMBERS_DOCKER };
int members_kind(int fd, enum members_kind *ret, struct fcm_error *err) must_check;

/* The contents of a member, which is a regular file of at most `max` bytes or a link to one: into *ret; into out_fd, with their
 * number and sha256. Of members of one name the first counts. FCM_INVALID naming it, FCM_TOO_LARGE. */
int member_text(int fd, const char *name, size_t max, struct buf *ret, struct fcm_error *err) must_check;
int member_copy(int fd, const char *name, uint64_t max, int out_fd, uint64_t *ret_n, char ret_sum[65],
	struct fcm_error *err) must_check;

/* `path`, seen from the directory that the member `from` is in ("": from the top), without ".", ".." and empty parts. False when it
 * leads out of the archive, or is too long. Pure. */
bool member_path(const char *from, const char *path, char ret[MEMBERS_PATH]) must_check;
