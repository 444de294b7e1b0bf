/* What the host makes of a guest's bytes, in pieces of a size that the first byte chooses. */
#include <stdlib.h>
#include <string.h>

#include "daemon/guest/intake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct intake in = {.nonce = "0123456789abcdef"};
	enum intake_kind kind = INTAKE_MORE;
	size_t piece = n ? (size_t)data[0] * 16 + 1 : 1;

	for (size_t at = MIN(n, (size_t)1); at < n && kind != INTAKE_BROKEN; at += piece) {
		struct intake_message m;
		buf_add(&in.bytes, data + at, MIN(piece, n - at));
		while ((kind = intake_next(&in, &m)) != INTAKE_MORE && kind != INTAKE_BROKEN)
			if (m.size > in.bytes.n || m.size == 0 ||
				(kind == INTAKE_HELLO && strlen(m.hello.boot_id) != 36))
				abort();
		if (kind == INTAKE_MORE && in.bytes.n > FRAME_HEADER + FRAME_MAX)
			abort();
	}
	intake_done(&in);
	(void)intake_console((const char *)data, n);
	return 0;
}
