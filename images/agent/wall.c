#include "images/agent/wall.h"

#include <sys/time.h>
#include <time.h>

#include "common/core/kv.h"

enum { NS_PER_MS = 1000000 };
#define NS_PER_S 1000000000LL

enum wall_way wall_way(int64_t off_ns, bool runs)
{
	int64_t ms = off_ns / NS_PER_MS;

	if (!runs || ms > WALL_STEP_MS || ms < -WALL_STEP_MS)
		return WALL_STEP;
	return ms > WALL_LEAVE_MS || ms < -WALL_LEAVE_MS ? WALL_SLEW : WALL_LEAVE;
}

int wall_parse(const void *kv, size_t n, int64_t uptime_ms, int64_t *ret, struct fcm_error *err)
{
	int64_t ns = kv_i64(kv, n, "ns", WALL_FIRST * NS_PER_S, WALL_LAST * NS_PER_S, -1);
	bool now = kv_get(kv, n, "uptime_ms") == NULL;
	int64_t then = now ? uptime_ms : kv_i64(kv, n, "uptime_ms", 0, uptime_ms, -1);

	if (ns < 0)
		return fcm_fail_field(err, FCM_INVALID, "ns", "ns: not a time between 2020 and 2200");
	if (then < 0)
		return fcm_fail_field(
			err, FCM_INVALID, "uptime_ms", "uptime_ms: not a moment since the boot");
	*ret = ns + (uptime_ms - then) * NS_PER_MS;
	return 0;
}

static int step(int64_t now_ns, struct fcm_error *err)
{
	const struct timespec t = {.tv_sec = now_ns / NS_PER_S, .tv_nsec = now_ns % NS_PER_S};
	const struct timeval none = {0};

	if (clock_settime(CLOCK_REALTIME, &t) < 0)
		return fcm_fail_errno(err, "set the clock");
	return adjtime(&none, NULL) < 0 ? fcm_fail_errno(err, "end the clock's adjustment") : 0;
}

/* Both members have the sign of the whole. */
static int slew(int64_t off_ns, struct fcm_error *err)
{
	const struct timeval t = {.tv_sec = off_ns / NS_PER_S, .tv_usec = off_ns % NS_PER_S / 1000};

	return adjtime(&t, NULL) < 0 ? fcm_fail_errno(err, "adjust the clock") : 0;
}

int wall_set(int64_t now_ns, bool runs, int64_t *ret_off_ms, struct fcm_error *err)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	int64_t off = now_ns - ((int64_t)t.tv_sec * NS_PER_S + t.tv_nsec);
	int rc = 0;
	switch (wall_way(off, runs)) {
	case WALL_LEAVE:
		break;
	case WALL_SLEW:
		rc = slew(off, err);
		break;
	case WALL_STEP:
		rc = step(now_ns, err);
		break;
	}
	if (rc == 0)
		*ret_off_ms = off / NS_PER_MS;
	return rc;
}
