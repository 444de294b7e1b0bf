/*
 * Tokens: make, list, revoke.
 */
#include <string.h>

#include "common/core/clock.h"
#include "daemon/api/api.h"

static field_json *token_json(const struct token_info *t)
{
	field_json *o = fj_object();

	fj_set_str(o, "id", t->id);
	fj_set_str(o, "name", t->name);
	fj_set_str(o, "scope", token_scope_names[t->scope]);
	fj_set_str(o, "vms", *t->vms ? t->vms : NULL);
	fj_set_str(o, "created", clock_rfc3339(t->created).s);
	fj_set_str(o, "expires", t->expires ? clock_rfc3339(t->expires).s : NULL);
	return o;
}

/* Nobody gets more time than he has by making himself another. */
static int check_end(const struct token_info *own, const struct token_request *rq, struct fcm_error *err)
{
	if (own->expires == 0 || (rq->expires_in && clock_wall() + rq->expires_in <= own->expires))
		return 0;
	return fcm_fail_field(err, FCM_FORBIDDEN, "expires_in",
		"expires_in: your own token ends at %s, and one that it makes no later",
		clock_rfc3339(own->expires).s);
}

int api_token_create(struct request *rq, struct fcm_error *err)
{
	const struct token_request *body = http_body(rq);
	auto_free char *secret = NULL;
	struct token_info info;

	if (check_end(http_token(rq), body, err) < 0 || token_create(body, &info, &secret, err) < 0)
		return -1;
	auto_free char *about = xprintf("%s %s", info.id, info.name);
	http_about(rq, about);
	field_json *o = token_json(&info);
	fj_set_str(o, "token", secret);
	return http_reply(rq, 201, o);
}

int api_tokens_list(struct request *rq, struct fcm_error *err)
{
	auto_free struct token_info *all = NULL;
	size_t n = token_list(&all);
	field_json *o = fj_object(), *list = fj_array();

	(void)err;
	for (size_t i = 0; i < n; i++)
		fj_append(list, token_json(&all[i]));
	fj_set(o, "tokens", list);
	return http_reply(rq, 200, o);
}

int api_token_revoke(struct request *rq, struct fcm_error *err)
{
	struct token_info info;

	if (token_revoke(http_param(rq, "token"), &info, err) < 0)
		return -1;
	http_about(rq, info.name);
	http_revoked(info.id, rq);
	return http_reply(rq, 200, token_json(&info));
}
