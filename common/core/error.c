#include "common/core/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct fcm_code_info infos[FCM_CODES] = {
	[FCM_OK] = {"ok", 200, 0, ""},
#define X(name, wire, http, exit_status, hint, meaning) [FCM_##name] = {wire, http, exit_status, hint},
#include "common/core/errors.def"
#undef X
};

const struct fcm_code_info *fcm_code_info(enum fcm_code code)
{
	return &infos[code < FCM_CODES ? code : FCM_INTERNAL];
}

enum fcm_code fcm_code_from_wire(const char *wire)
{
	for (enum fcm_code c = FCM_OK + 1; c < FCM_CODES; c++)
		if (strcmp(infos[c].wire, wire) == 0)
			return c;
	return FCM_INTERNAL;
}

__attribute__((format(printf, 3, 0))) static void fill(
	struct fcm_error *err, enum fcm_code code, const char *fmt, va_list ap)
{
	*err = (struct fcm_error){.code = code};
	vsnprintf(err->msg, sizeof err->msg, fmt, ap);
	snprintf(err->hint, sizeof err->hint, "%s", fcm_code_info(code)->hint);
}

int fcm_fail(struct fcm_error *err, enum fcm_code code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fill(err, code, fmt, ap);
	va_end(ap);
	return -1;
}

int fcm_fail_field(struct fcm_error *err, enum fcm_code code, const char *field, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fill(err, code, fmt, ap);
	va_end(ap);
	snprintf(err->field, sizeof err->field, "%s", field);
	return -1;
}

static enum fcm_code code_of_errno(int e)
{
	switch (e) {
	case ENOSPC:
	case EDQUOT:
	case EROFS:
		return FCM_NO_SPACE;
	case EMFILE:
	case ENFILE:
	case ENOMEM:
	case EAGAIN:
		return FCM_UNAVAILABLE;
	default:
		return FCM_HOST;
	}
}

int fcm_fail_errno(struct fcm_error *err, const char *fmt, ...)
{
	int e = errno;
	va_list ap;

	va_start(ap, fmt);
	fill(err, code_of_errno(e), fmt, ap);
	va_end(ap);
	err->sys = e;
	size_t n = strlen(err->msg);
	snprintf(err->msg + n, sizeof err->msg - n, ": %s", strerror(e));
	errno = e;
	return -1;
}

int fcm_wrap(struct fcm_error *err, const char *fmt, ...)
{
	char cause[sizeof err->msg];
	va_list ap;

	memcpy(cause, err->msg, sizeof cause);
	va_start(ap, fmt);
	vsnprintf(err->msg, sizeof err->msg / 2, fmt,
		ap); /* whatever the context is, half is left for the cause */
	va_end(ap);
	size_t n = strlen(err->msg);
	snprintf(err->msg + n, sizeof err->msg - n, ": %s", cause);
	return -1;
}

int fcm_hint(struct fcm_error *err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err->hint, sizeof err->hint, fmt, ap);
	va_end(ap);
	return -1;
}

int fcm_veil(struct fcm_error *err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err->veiled, sizeof err->veiled, fmt, ap);
	va_end(ap);
	return -1;
}

const char *fcm_veiled(const struct fcm_error *err)
{
	return err->veiled[0] ? err->veiled : err->msg;
}
