#include "common/core/clock.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "common/core/util.h"

int64_t clock_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int64_t clock_in(int64_t ms)
{
	int64_t now = clock_ms();

	return ms >= FCM_FOREVER - now ? FCM_FOREVER : now + ms;
}

int clock_left(int64_t deadline)
{
	if (deadline == FCM_FOREVER)
		return -1;
	int64_t left = deadline - clock_ms();
	return left < 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left;
}

struct timespec clock_monotonic(int64_t deadline)
{
	int left = deadline == FCM_FOREVER ? 3600000 : clock_left(deadline);
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += left / 1000;
	t.tv_nsec += (long)(left % 1000) * 1000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000;
	}
	return t;
}

void clock_sleep(int64_t ms)
{
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	while (nanosleep(&t, &t) < 0)
		;
}

int64_t clock_wall(void)
{
	return time(NULL);
}

struct clock_text clock_rfc3339(int64_t t)
{
	struct clock_text text;
	time_t tt = (time_t)t;
	struct tm tm;

	if (gmtime_r(&tt, &tm) == NULL || strftime(text.s, sizeof text.s, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		snprintf(text.s, sizeof text.s, "1970-01-01T00:00:00Z");
	return text;
}

int clock_parse(const char *s, int64_t *ret)
{
	struct tm tm = {0};
	const char *end = strptime(s, "%Y-%m-%dT%H:%M:%SZ", &tm);

	if (end == NULL || *end)
		return -1;
	*ret = timegm(&tm);
	return 0;
}

bool clock_parse_span(const char *s, int64_t *ret)
{
	static const struct {
		char unit;
		int seconds;
	} units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
	int64_t sum = 0, n;

	do {
		size_t digits = strspn(s, "0123456789"), u = 0;
		char text[16];
		while (u < ARRAY_SIZE(units) && units[u].unit != s[digits])
			u++;
		if (u == ARRAY_SIZE(units) || !fcm_format(text, sizeof text, "%.*s", (int)digits, s) ||
			!fcm_parse_i64(text, 0, 1000000000, &n))
			return false;
		sum += n * units[u].seconds;
		if (sum > INT32_MAX)
			return false;
		s += digits + 1;
	} while (*s);
	*ret = sum;
	return true;
}

struct clock_text clock_span(int64_t ms)
{
	struct clock_text text;
	int64_t s = ms / 1000;

	if (ms < 1000)
		snprintf(text.s, sizeof text.s, "%" PRId64 " ms", ms);
	else if (ms < 10000)
		snprintf(text.s, sizeof text.s, "%" PRId64 ".%" PRId64 " s", s, ms % 1000 / 100);
	else if (s < 60)
		snprintf(text.s, sizeof text.s, "%" PRId64 " s", s);
	else if (s < 3600)
		snprintf(text.s, sizeof text.s, "%" PRId64 "m", s / 60);
	else if (s < 2 * 86400)
		snprintf(text.s, sizeof text.s, "%" PRId64 "h", s / 3600);
	else
		snprintf(text.s, sizeof text.s, "%" PRId64 "d", s / 86400);
	return text;
}
