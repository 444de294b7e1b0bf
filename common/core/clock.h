/*
 * Time. Deadlines are on CLOCK_BOOTTIME in milliseconds, so that a jump of the wall clock moves none of them; the wall
 * clock is only for what people read.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define FCM_FOREVER INT64_MAX

/* Milliseconds since boot. */
int64_t clock_ms(void);

/* The moment `ms` from now, for a deadline; FCM_FOREVER stays for ever. */
int64_t clock_in(int64_t ms);

/* What is left until `deadline`, for poll(2): 0 when past, -1 for FCM_FOREVER, at most INT_MAX. */
int clock_left(int64_t deadline);

/* The same moment on CLOCK_MONOTONIC, for pthread_cond_timedwait(3); of FCM_FOREVER one in an hour. */
struct timespec clock_monotonic(int64_t deadline);

/* Sleep for `ms` milliseconds. */
void clock_sleep(int64_t ms);

/* Seconds since the epoch. */
int64_t clock_wall(void);

/* `t` as RFC 3339 in UTC, "2026-11-25T16:48:13Z". */
struct clock_text {
	char s[24];
};
struct clock_text clock_rfc3339(int64_t t);

/* Parse what clock_rfc3339() prints. Returns 0, or -1 when it is anything else. */
int clock_parse(const char *s, int64_t *ret);

/* Parse "90s", "5m", "2h", "3d" or several of them, "1m30s", as seconds; at most 68 years. */
bool clock_parse_span(const char *s, int64_t *ret);

/* A span as people read it: "350 ms", "2.4 s", "41 s", "2m", "3h", "5d". */
struct clock_text clock_span(int64_t ms);
