#include "daemon/guest/intake.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "common/core/kv.h"

void intake_done(struct intake *in)
{
	buf_done(&in->bytes);
	in->used = 0;
}

void intake_reset(struct intake *in)
{
	uint64_t random;

	if (getrandom(&random, sizeof random, 0) !=
		sizeof random) /* can't fail: getrandom(2), up to 256 bytes */
		abort();
	intake_done(in);
	in->up = false;
	snprintf(in->nonce, sizeof in->nonce, "%016llx", (unsigned long long)random);
}

static bool is_uuid(const char *s)
{
	return s && strlen(s) == 36 && strspn(s, "0123456789abcdef-") == 36;
}

static bool read_hello(const struct frame *f, struct guest_hello *ret)
{
	const char *boot_id = kv_get(f->payload, f->len, "boot_id");

	*ret = (struct guest_hello){.version = (unsigned)kv_i64(f->payload, f->len, "version", 1, 1000, 0)};
	return ret->version && is_uuid(boot_id) && fcm_copy(ret->boot_id, sizeof ret->boot_id, boot_id);
}

static enum intake_kind await_hello(struct intake *in, struct intake_message *m)
{
	size_t keep, n = frame_find_hello(in->bytes.p, in->bytes.n, in->nonce, &m->frame, &keep);

	if (n == 0) {
		buf_drop(&in->bytes, in->bytes.n - keep);
		return INTAKE_MORE;
	}
	m->size = in->used = n;
	in->up = read_hello(&m->frame, &m->hello);
	return in->up ? INTAKE_HELLO : INTAKE_NOISE;
}

static bool read_power(const struct frame *f, enum guest_power *ret)
{
	const char *event = kv_get(f->payload, f->len, "event"),
		   *intent = kv_get(f->payload, f->len, "intent");

	if (f->type != FRAME_EVENT || event == NULL || strcmp(event, "power") || intent == NULL)
		return false;
	*ret = strcmp(intent, "poweroff") == 0 ? GUEST_POWEROFF : GUEST_REBOOT;
	return *ret == GUEST_POWEROFF || strcmp(intent, "reboot") == 0;
}

static bool read_main(const struct frame *f, int *ret)
{
	const char *event = kv_get(f->payload, f->len, "event");

	*ret = (int)kv_i64(f->payload, f->len, "exit", 0, 255, -1);
	return f->type == FRAME_EVENT && event && strcmp(event, "main") == 0 && *ret >= 0;
}

enum intake_kind intake_next(struct intake *in, struct intake_message *m)
{
	buf_drop(&in->bytes, in->used);
	in->used = 0;
	if (in->bytes.n == 0) {
		buf_done(&in->bytes); /* an idle session keeps no memory */
		return INTAKE_MORE;
	}
	if (!in->up)
		return await_hello(in, m);
	ssize_t n = frame_parse(in->bytes.p, in->bytes.n, &m->frame);
	if (n <= 0)
		return n == 0 ? INTAKE_MORE : INTAKE_BROKEN;
	m->size = in->used = (size_t)n;
	if (m->frame.type == FRAME_RES)
		return INTAKE_ANSWER;
	if (m->frame.type >= FRAME_DATA)
		return INTAKE_STREAM;
	if (read_main(&m->frame, &m->exit))
		return INTAKE_MAIN;
	return read_power(&m->frame, &m->intent) ? INTAKE_POWER : INTAKE_NOISE;
}

static bool begins(const char *s, const char *end, const char *word)
{
	return (size_t)(end - s) >= strlen(word) && memcmp(s, word, strlen(word)) == 0;
}

enum guest_power intake_console(const char *text, size_t n)
{
	static const char mark[] = "fcm-agent: power ";
	enum guest_power intent = GUEST_CRASHED;
	const char *end = text + n;

	for (const char *s = text; (s = memmem(s, (size_t)(end - s), mark, strlen(mark)));) {
		s += strlen(mark);
		if (begins(s, end, "poweroff"))
			intent = GUEST_POWEROFF;
		else if (begins(s, end, "reboot"))
			intent = GUEST_REBOOT;
	}
	return intent;
}

int intake_console_main(const char *text, size_t n)
{
	static const char mark[] = "fcm-agent: main exit ";
	const char *end = text + n;
	int found = -1;

	for (const char *s = text; (s = memmem(s, (size_t)(end - s), mark, strlen(mark)));) {
		int value = 0, digits = 0;
		for (s += strlen(mark); s < end && *s >= '0' && *s <= '9' && digits < 4; s++, digits++)
			value = value * 10 + (*s - '0');
		if (digits && value <= 255)
			found = value;
	}
	return found;
}
