/*
 * The archive of a release of Firecracker, brought into the state directory and checked: from the project's own site or
 * a mirror of it, or from a file that somebody carried here.
 *
 * A part that came stays as <state>/assets/<archive>.part, and the next run goes on from there, also from another
 * mirror: only the digest decides whether the whole is what was published. Nothing is unpacked before that.
 */
#pragma once

#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

/* The version that fcm was tested with; what is downloaded unless another is named. */
#define FIRECRACKER_VERSION "1.12.1"

#define FIRECRACKER_RELEASES "https://github.com/firecracker-microvm/firecracker/releases"

/* Names as the project publishes them. */
struct release {
	char version[16];   /* "1.12.1" */
	char archive[48];   /* "firecracker-v1.12.1-x86_64.tgz"; <archive>.sha256.txt has its digest */
	char dir[48];	    /* "release-v1.12.1-x86_64", in the archive */
	unsigned number[3]; /* 1, 12, 1 */
};

/* "1.12.1" or "v1.12.1". FCM_USAGE; also when the driver doesn't know it (1.8 and later 1.x). */
int release_parse(const char *version, struct release *ret, struct fcm_error *err) must_check;

/* The release that an archive is named after; false when `path` has another name. */
bool release_of_file(const char *path, struct release *ret);

/* The digest that `text`, as sha256sum(1) writes it or 64 hex digits alone, gives for the file `name`. */
bool digest_parse(const char *text, const char *name, char ret[65]);

/* SHA-256 of the file from its beginning; leaves the offset of fd alone. */
int digest_of(int fd, char ret[65], struct fcm_error *err) must_check;

struct fetch {
	const struct release *release;
	const struct strv *mirrors; /* URLs to which "/v1.12.1/<archive>" is added */
	const char *digest;	    /* 64 hex digits that count instead of the published ones, or NULL */
	int dirfd;		    /* <state>/assets, locked by the caller */
};

/* Return the archive's descriptor, of a file that only root can write and whose digest is right; or -1. The mirrors are
 * tried one after the other, each failure but the last is a line on stderr. FCM_NOT_FOUND: no such version. FCM_HOST:
 * no way there, or the digest is wrong (the part is thrown away). */
int fetch_download(const struct fetch *f, struct fcm_error *err) must_check;

/* The same from a file; its digest is f->digest or in <file>.sha256.txt. */
int fetch_file(const struct fetch *f, const char *file, struct fcm_error *err) must_check;

/* Remove the part, when it has been unpacked. */
void fetch_done(const struct fetch *f);
