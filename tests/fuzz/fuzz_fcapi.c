/* What a Firecracker that a guest has taken over may answer: any bytes, then the end of the stream. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/vmm/fcapi.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct fcapi_answer whole = {0}, part;
	int rc = fcapi_parse((const char *)data, n, &whole);

	if (rc > 0 &&
		(whole.body < (const char *)data || whole.body + whole.body_n > (const char *)data + n ||
			whole.status < 200 || whole.status > 599))
		abort();
	/* What is whole stays so when more comes, and half of it doesn't become something else. */
	if (rc > 0) {
		size_t used = (size_t)(whole.body + whole.body_n - (const char *)data);
		if (fcapi_parse((const char *)data, used, &part) != 1 || part.body_n != whole.body_n ||
			(used > 1 && fcapi_parse((const char *)data, used - 1, &part) > 0))
			abort();
	}
	return 0;
}
