/*
 * Regular expressions of users, for lines of guests: POSIX extended ones (regex(7)), bounded so that neither side can make
 * the matcher run wild. Left out are back references, whose matching takes exponential time, and bounds ("a{3,5}"), whose
 * compilation multiplies the expression; a line is matched in pieces of at most PATTERN_LINE bytes.
 */
#pragma once

#include <regex.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum {
	PATTERN_MAX = 200,   /* bytes of the expression */
	PATTERN_LINE = 4096, /* bytes of a line that are matched together */
};

/* Is it an expression that we take? FCM_INVALID for field `key`. */
int pattern_check(const char *text, const char *key, struct fcm_error *err) must_check;

/* A search through a text that comes in pieces. Zero-initialised apart from `text`, which is the caller's and checked. */
struct pattern {
	const char *text;
	struct buf line; /* the last one, not ended yet */
};

/* The next n bytes: is there a line in them, or one that goes on in them, that matches? A line that isn't ended counts as
 * far as it came: a prompt never ends. */
bool pattern_feed(struct pattern *p, const char *bytes, size_t n);
void pattern_done(struct pattern *p);
