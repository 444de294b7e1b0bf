/*
 * The router: which row of the table a method and a path mean. Pure.
 */
#pragma once

#include "common/core/error.h"
#include "daemon/http/guard.h"
#include "daemon/http/http.h"

enum {
	ROUTE_SEGMENTS = 8, /* parts of a path */
	ROUTE_PARAMS = 2,   /* {name}s in a pattern */
	SEGMENT_MAX = 255,  /* bytes of a decoded part */
	QUERY_FIELDS = 16,
};

struct pair {
	const char *name; /* of a pattern: up to the brace */
	const char *value;
};

struct match {
	const struct route *route;
	struct pair params[ROUTE_PARAMS];
	unsigned n;
	char allow[64]; /* when the path is known but not with this method: "GET, PUT" */
};

struct query {
	struct pair fields[QUERY_FIELDS];
	unsigned n;
};

/* Find the row for `method` and `path`, which is decoded in place; params point into it. FCM_BAD_REQUEST for a part that
 * doesn't decode to printable ASCII without a slash, is "." or "..", or is longer than SEGMENT_MAX; FCM_NO_ROUTE;
 * FCM_METHOD with ret->allow filled in. */
int router_match(const struct route *table, const char *method, char *path, struct match *ret,
	struct fcm_error *err) must_check;

/* Decode "a=1&b=x%20y" in place; NULL is empty; a name without '=' has the value "". FCM_BAD_REQUEST for bad escapes, control
 * characters, and, naming the field, for what the route doesn't have, what comes twice and is no list, a flag that is none. */
int router_query(const struct route *route, char *query, struct query *ret, struct fcm_error *err) must_check;

/* May this request have the body that its head announces? FCM_TOO_LARGE, FCM_MEDIA_TYPE. (A chunked body is measured when
 * it comes.) */
int router_body(const struct route *route, const struct head *head, struct fcm_error *err) must_check;

/* Value of a pattern's {name}, or NULL. */
const char *match_param(const struct match *match, const char *name);

/* Value of a query's field, or NULL. */
const char *query_get(const struct query *query, const char *name);
