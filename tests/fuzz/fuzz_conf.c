/* Bytes as a config file: no crash, and what is taken prints as a file that is taken again. */
#include <stdint.h>
#include <stdlib.h>

#include "common/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	_cleanup_(buf_done) struct buf text = {0};
	struct fcmd_config c, d;
	struct fcm_error err = {0};

	config_init(&c);
	config_init(&d);
	if (config_parse(&c, "f", (const char *)data, n, &err) == 0 && config_check(&c, &err) == 0) {
		config_print(&c, &text);
		if (config_parse(&d, "f", text.p, text.n, &err) < 0 || config_check(&d, &err) < 0)
			abort();
	} else if (err.code == FCM_OK || err.msg[0] == '\0') {
		abort();
	}
	config_done(&c);
	config_done(&d);
	return 0;
}
