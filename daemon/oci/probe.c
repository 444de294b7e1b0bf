#include "daemon/oci/probe.h"

#include <string.h>

/* The superblock and its fields: Linux, Documentation/filesystems/ext4/super.rst. */
enum {
	SUPER = 1024,
	BLOCKS_LOW = SUPER + 0x4,
	LOG_BLOCK = SUPER + 0x18,
	MAGIC = SUPER + 0x38,
	INCOMPAT = SUPER + 0x60,
	BLOCKS_HIGH = SUPER + 0x150,
	EXT4_MAGIC = 0xef53,
	NEEDS_RECOVERY = 0x4,
	IS_JOURNAL = 0x8,
	HAS_64BIT = 0x80,
	LOG_PAGE = 2, /* blocks of 1 KiB << 2, a page of x86: the most that its kernels mount */
};

/* A header of tar (POSIX.1-2001, ustar): its sum, in octal digits. */
enum { TAR_HEADER = 512, TAR_SUM = 148, TAR_SUM_SIZE = 8 };

static uint32_t little(const unsigned char *p, size_t at, size_t n)
{
	uint32_t v = 0;

	while (n-- > 0)
		v = v << 8 | p[at + n];
	return v;
}

/* The sum counts its own field as blanks. Old tars sum signed bytes, which is the same for names in ASCII. */
static bool is_tar(const unsigned char *p)
{
	unsigned sum = TAR_SUM_SIZE * ' ', said = 0;
	size_t i = TAR_SUM;

	for (size_t k = 0; k < TAR_HEADER; k++)
		sum += k < TAR_SUM || k >= TAR_SUM + TAR_SUM_SIZE ? p[k] : 0;
	while (i < TAR_SUM + TAR_SUM_SIZE && p[i] == ' ')
		i++;
	for (; i < TAR_SUM + TAR_SUM_SIZE && p[i] >= '0' && p[i] <= '7'; i++)
		said = said << 3 | (unsigned)(p[i] - '0');
	return sum == said;
}

enum probe_kind probe_kind(const void *bytes, size_t n)
{
	const unsigned char *p = bytes;

	if (n >= PROBE_BYTES && little(p, MAGIC, 2) == EXT4_MAGIC)
		return PROBE_EXT4;
	return n >= TAR_HEADER && is_tar(p) ? PROBE_TAR : PROBE_OTHER;
}

int probe_ext4(const void *bytes, size_t n, uint64_t size, struct fcm_error *err)
{
	const unsigned char *p = bytes;

	if (probe_kind(p, n) != PROBE_EXT4)
		return fcm_fail(err, FCM_INVALID, "it is no ext4 file system");
	uint32_t log = little(p, LOG_BLOCK, 4), incompat = little(p, INCOMPAT, 4);
	uint64_t blocks = little(p, BLOCKS_LOW, 4);
	if (incompat & HAS_64BIT)
		blocks |= (uint64_t)little(p, BLOCKS_HIGH, 4) << 32;
	if (log > LOG_PAGE || incompat & IS_JOURNAL)
		return fcm_fail(err, FCM_INVALID, "the file system isn't one that a guest could mount");
	if (blocks != size >> (10 + log)) {
		fcm_fail(err, FCM_INVALID, "the file system has %llu KiB, and the file %llu",
			(unsigned long long)blocks << log, (unsigned long long)(size >> 10));
		return fcm_hint(err, "is the file whole? resize2fs makes both as small as can be");
	}
	if (incompat & NEEDS_RECOVERY) {
		fcm_fail(err, FCM_INVALID, "the file system wasn't unmounted");
		return fcm_hint(err, "e2fsck -fp FILE mends it");
	}
	return 0;
}
