#include "client/vmtext.h"

#include <string.h>

#include "client/out.h"
#include "common/model.h"

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
	return xprintf("  (%s)", *reason ? reason : status);
}

const char *vm_reason(const field_json *vm)
{
	return fj_get_str(fj_get(vm, "reason"), "message");
}

bool vm_up(const field_json *vm)
{
	const char *state = fj_get_str(vm, "state");

	return strcmp(state, "running") == 0 || strcmp(state, "paused") == 0;
}

const char *vm_verb(const field_json *vm)
{
	const char *state = fj_get_str(vm, "state");
	int i = 0;

	while (i < VM_STATES && strcmp(vm_state_names[i], state) != 0)
		i++;
	return vm_state_verb((enum vm_state)i);
}

bool vm_unchanged(const field_json *answer)
{
	return fj_get(answer, "changed") && !fj_get_bool(answer, "changed");
}

char *vm_words(const field_json *vm)
{
	const char *accel = fj_get_str(vm, "accel"), *why = fj_get_str(vm, "vmm_reason");
	size_t n = strcspn(why, ":"); /* its first half; fcm info and fcm doctor say all */

	return xprintf("%s · %s · %s (%s%s%.*s)", fj_get_str(vm, "ip"), fj_get_str(vm, "image"),
		fj_get_str(vm, "vmm"), accel, n ? ": " : "", (int)n, why);
}

void vm_port_words(struct buf *b, const char *text)
{
	const char *colon = strrchr(text, ':');

	if (colon == NULL)
		return;
	auto_free char *guest = xstrdup(colon + 1), *host = xprintf("%.*s", (int)(colon - text), text);
	out_text(b, guest);
	buf_str(b, " -> ");
	out_text(b, host);
}

void vm_snapshot_words(const field_json *snapshot, struct buf *b)
{
	out_bytes(b, fj_get_int(snapshot, "on_disk", 0));
	if (!fj_get_bool(snapshot, "memory"))
		buf_str(b, ", disk only");
	else
		buf_printf(b, ", with memory%s",
			fj_get_bool(snapshot, "frozen") ? "" : " (clones boot: its agent didn't answer)");
}

static bool about_vm(enum fcm_code code)
{
	return code != FCM_NO_DAEMON && code != FCM_NO_TOKEN && code != FCM_UNAUTHORIZED &&
	       code != FCM_NOT_FOUND && code != FCM_USAGE && code != FCM_UNAVAILABLE;
}

int vm_failed(struct fcm_error *err, const char *verb, const char *name)
{
	bool console = err->code == FCM_GUEST || err->code == FCM_TIMEOUT;

	if (!about_vm(err->code))
		return -1;
	/* the default hint can't know the name */
	if (*name && console && strcmp(err->hint, fcm_code_info(err->code)->hint) == 0)
		fcm_hint(err, "fcm logs %.63s shows the guest's console", name);
	return *name ? fcm_wrap(err, "cannot %s '%s'", verb, name) : fcm_wrap(err, "cannot %s a VM", verb);
}
