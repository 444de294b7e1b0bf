/*
 * Archives of a fuzzer: sums of headers are mended, or few inputs would come further than the first.
 */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "common/core/tar.h"

enum { SUM_AT = 148, SUM_BYTES = 8, MAGIC_AT = 257 };

static inline void mend_sums(uint8_t *p, size_t n)
{
	for (; n >= TAR_BLOCK; p += TAR_BLOCK, n -= TAR_BLOCK) {
		unsigned sum = 0;
		if (memcmp(p + MAGIC_AT, "ustar", 5) != 0)
			continue;
		memset(p + SUM_AT, ' ', SUM_BYTES);
		for (size_t i = 0; i < TAR_BLOCK; i++)
			sum += p[i];
		snprintf((char *)p + SUM_AT, SUM_BYTES, "%06o", sum);
	}
}
