#include <string.h>

#include "common/core/clock.h"
#include "common/core/fileio.h"
#include "common/queries.h"
#include "daemon/api/api.h"

#define SUBJECT(s) SUBJECT_##s
#define NEED(s) NEED_##s
const struct route routes[] = {
#define X(method_, pattern_, handler_, need_, subject_, query_, body_, size_, max_, flags_)                  \
	{.method = method_,                                                                                  \
		.pattern = pattern_,                                                                         \
		.need = NEED(need_),                                                                         \
		.subject = SUBJECT(subject_),                                                                \
		.query = query_,                                                                             \
		.body = body_,                                                                               \
		.body_size = size_,                                                                          \
		.body_max = max_,                                                                            \
		.flags = flags_,                                                                             \
		.handle = api_##handler_},
#include "common/routes.def"
#undef X
	{.method = NULL},
};

/* What a body holds before it is decoded: the defaults of the config. */
void route_body_init(const struct route *route, void *body)
{
	if (route->body == vm_create_fields)
		vm_spec_defaults(&((struct vm_create *)body)->spec, &engine()->config->defaults);
	if (route->body == image_build_fields)
		vm_spec_defaults(&((struct image_build *)body)->spec, &engine()->config->defaults);
	if (route->body == stop_request_fields)
		((struct stop_request *)body)->time = engine()->config->stop_seconds;
	if (route->body == token_request_fields)
		((struct token_request *)body)->scope = SCOPE_FULL;
}

bool api_flag(const struct request *rq, const char *name)
{
	const char *s = http_query(rq, name);

	return s && (strcmp(s, "1") == 0 || strcmp(s, "true") == 0 || strcmp(s, "yes") == 0);
}

int api_number(const struct request *rq, const char *name, int64_t min, int64_t max, int64_t otherwise,
	int64_t *ret, struct fcm_error *err)
{
	const char *s = http_query(rq, name);

	*ret = otherwise;
	if (s && !fcm_parse_i64(s, min, max, ret))
		return fcm_fail_field(err, FCM_INVALID, name, "%s: not a number in %lld..%lld", name,
			(long long)min, (long long)max);
	return 0;
}

int api_time(const struct request *rq, const char *name, int64_t *ret, struct fcm_error *err)
{
	const char *s = http_query(rq, name);
	int64_t span;

	*ret = 0;
	if (s == NULL || clock_parse(s, ret) == 0)
		return 0;
	if (!clock_parse_span(s, &span))
		return fcm_fail_field(err, FCM_INVALID, name,
			"%s: neither a time (2026-11-25T16:48:13Z) nor a span (90s, 5m, 2h, 3d)", name);
	*ret = clock_wall() - span;
	return 0;
}
