#include "client/vmtext.h"

#include <string.h>

const char *vm_url(const field_json *vm)
{
	return fj_get_str(fj_get(vm, "expose"), "url");
}

char *vm_url_note(const field_json *vm)
{
	const field_json *expose = fj_get(vm, "expose");
	const char *status = fj_get_str(expose, "status"), *reason = fj_get_str(expose, "reason");

	if (*status == '\0' || strcmp(status, "active") == 0)
		return xstrdup("");
	return xprintf("  (%s%s%s)", status, *reason ? ": " : "", reason);
}

const char *vm_reason(const field_json *vm)
{
	return fj_get_str(fj_get(vm, "reason"), "message");
}

char *vm_words(const field_json *vm)
{
	const char *accel = fj_get_str(vm, "accel"), *why = fj_get_str(vm, "vmm_reason");

	return xprintf("%s · %s · %s (%s%s%s)", fj_get_str(vm, "ip"), fj_get_str(vm, "image"),
		fj_get_str(vm, "vmm"), accel, *why ? ": " : "", why);
}
