/* Bytes as the body of each request and as config.json: no crash, and what is taken is taken again after encoding. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/crypt.h"
#include "common/model.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	crypt_init();
	return 0;
}

static void round_trip(
	const struct field *t, size_t size, enum field_mode mode, const uint8_t *data, size_t n)
{
	void *a = xalloc(size), *b = xalloc(size);
	struct fcm_error err = {0};

	if (field_decode(t, (const char *)data, n, mode, a, &err) == 0) {
		field_json *va = field_encode(t, a, true);
		auto_free char *one = fj_print(va, false);
		if (field_decode(t, one, strlen(one), mode, b, &err) < 0)
			abort();
		field_json *vb = field_encode(t, b, true);
		auto_free char *two = fj_print(vb, false);
		if (strcmp(one, two) != 0)
			abort();
		fj_free(va);
		fj_free(vb);
	} else if (err.code == FCM_OK || err.msg[0] == '\0' || strpbrk(err.msg, "\n\t\x1b")) {
		abort();
	}
	field_done(t, a);
	field_done(t, b);
	free(a);
	free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	round_trip(vm_create_fields, sizeof(struct vm_create), FIELD_WIRE, data, n);
	round_trip(expose_request_fields, sizeof(struct expose_request), FIELD_WIRE, data, n);
	round_trip(keys_request_fields, sizeof(struct keys_request), FIELD_WIRE, data, n);
	round_trip(vm_view_fields, sizeof(struct vm_view), FIELD_DISK, data, n);
	return 0;
}
