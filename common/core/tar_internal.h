/*
 * What tarwrite.c and tarread.c share.
 */
#pragma once

#include "common/core/tar.h"

enum { TAR_NAME = 100 };

#define TAR_ERROR_KEY "FCM.error"

/* pax(1), "ustar Interchange Format". Numbers are octal digits and a NUL or blank. */
struct tar_header {
	char name[TAR_NAME], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[TAR_NAME];
	char magic[6], version[2], uname[32], gname[32], major[8], minor[8], prefix[155], unused[12];
};
_Static_assert(sizeof(struct tar_header) == TAR_BLOCK, "a header is a block");
