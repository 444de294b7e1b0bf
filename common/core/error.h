/*
 * The one error type of fcm: a value, with nothing to free.
 *
 * A function that can fail takes `struct fcm_error *err` as its last parameter and returns 0, or -1 with *err filled
 * in; success never touches it. The daemon turns the same struct into an HTTP answer, the client turns that answer
 * back into the struct, and both print it the same way: cause first, then what to do.
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>

enum fcm_code {
	FCM_OK = 0,
#define X(name, wire, http, exit_status, hint, meaning) FCM_##name,
#include "common/core/errors.def"
#undef X
	FCM_CODES
};

struct fcm_error {
	enum fcm_code code;
	int sys;	 /* errno where there was one, else 0 */
	char step[24];	 /* step of an operation that failed, or "" */
	char field[64];	 /* field of the request that is wrong ("net.mtu"), or "" */
	char msg[384];	 /* cause, one line, no full stop */
	char hint[192];	 /* what to do, or "" */
	char veiled[96]; /* the cause without another VM's name, or "" when there is none in it */
};

/* What errors.def says of a code. */
struct fcm_code_info {
	const char *wire;
	int http;
	int exit_status;
	const char *hint;
};

/* The row of errors.def for `code`; never NULL. */
const struct fcm_code_info *fcm_code_info(enum fcm_code code);

/* The code whose wire name is `wire`, or FCM_INTERNAL when there is none. */
enum fcm_code fcm_code_from_wire(const char *wire);

/* Fill in *err with `code`, its default hint and a formatted message. Always returns -1, so that callers can
 * `return fcm_fail(...)`. */
int fcm_fail(struct fcm_error *err, enum fcm_code code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Like fcm_fail(), and names the request's field that is wrong. */
int fcm_fail_field(struct fcm_error *err, enum fcm_code code, const char *field, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* Like fcm_fail() for a system call that just failed: appends strerror(errno), keeps errno in err->sys, and chooses
 * the code: ENOSPC, EDQUOT and EROFS are FCM_NO_SPACE, EMFILE, ENFILE, ENOMEM and EAGAIN FCM_UNAVAILABLE, all others
 * FCM_HOST. */
int fcm_fail_errno(struct fcm_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Put context in front of the message of an error that is already there: "start vm 'web': <msg>". Returns -1. */
int fcm_wrap(struct fcm_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The message, and perhaps the hint, name another VM: what is said in their place to who may not see that one. Returns -1. */
int fcm_veil(struct fcm_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The message as anybody may read it. */
const char *fcm_veiled(const struct fcm_error *err);

/* Replace the hint. Returns -1, for use in a return statement after fcm_fail(). */
int fcm_hint(struct fcm_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
