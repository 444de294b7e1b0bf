/*
 * The guest's clock.
 *
 * The host tells the time when it sets the guest up, and looks at its clock again now and then, for a machine that was paused,
 * restored, or whose host slept is late. A clock that is a little wrong is made to run faster or slower for a while (adjtime(3)),
 * one that is more so is set; and below WALL_LEAVE_MS it is left alone, so whoever runs an NTP client in the guest keeps a
 * better time than ours.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum {
	WALL_LEAVE_MS = 100,
	WALL_STEP_MS = 500, /* more is set; at 500 ppm adjtime(3) would take a quarter of an hour for this */
};

/* Seconds since the epoch of 2020 and 2200: no host that knows the time says another one. */
#define WALL_FIRST 1577836800LL
#define WALL_LAST 7258118400LL

enum wall_way { WALL_LEAVE, WALL_SLEW, WALL_STEP };

/* What to do about a clock that is wrong by `off_ns`. Before anything `runs` in the guest, it is set in any case. */
enum wall_way wall_way(int64_t off_ns, bool runs);

/* Read the arguments of `clock` (docs/AGENT.md) from a kv list: *ret becomes the time now, in ns since the epoch. `uptime_ms`
 * is clock_ms(). -1 with FCM_INVALID naming the field. */
int wall_parse(const void *kv, size_t n, int64_t uptime_ms, int64_t *ret, struct fcm_error *err) must_check;

/* Make the clock right. *ret_off_ms is by how much it was wrong: positive when it was late. */
int wall_set(int64_t now_ns, bool runs, int64_t *ret_off_ms, struct fcm_error *err) must_check;
