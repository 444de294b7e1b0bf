#include "daemon/http/auth.h"

#include <string.h>
#include <strings.h>

#include "common/core/clock.h"

enum { TOKEN_MAX = 256 };

struct peer peer_of(const struct sockaddr *address)
{
	struct peer peer = {.family = (uint8_t)address->sa_family};

	if (address->sa_family == AF_INET)
		memcpy(peer.address, &((const struct sockaddr_in *)(const void *)address)->sin_addr, 4);
	else if (address->sa_family == AF_INET6)
		memcpy(peer.address, &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr, 8);
	return peer;
}

bool throttle_failure(struct throttle *t, const struct peer *peer, int64_t now)
{
	unsigned slot = 0;

	for (unsigned i = 0; i < THROTTLE_PEERS; i++) {
		if (t->slots[i].last && memcmp(&t->slots[i].peer, peer, sizeof *peer) == 0) {
			slot = i;
			break;
		}
		if (t->slots[i].last < t->slots[slot].last)
			slot = i;
	}
	bool known = t->slots[slot].last && memcmp(&t->slots[slot].peer, peer, sizeof *peer) == 0;
	if (!known || now - t->slots[slot].since >= THROTTLE_WINDOW_MS) {
		t->slots[slot].peer = *peer;
		t->slots[slot].since = now;
		t->slots[slot].failures = 0;
	}
	t->slots[slot].last = MAX(now, 1);
	if (t->slots[slot].failures < THROTTLE_FAILURES)
		t->slots[slot].failures++;
	else
		return true;
	return false;
}

const char *auth_bearer(const char *field, size_t *ret_n)
{
	/* token68 of RFC 9110, section 11.2 */
	static const char chars[] = "-._~+/0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

	if (strncasecmp(field, "Bearer ", 7) != 0)
		return NULL;
	field += 7;
	field += strspn(field, " ");
	size_t n = strspn(field, chars);
	if (n == 0 || n > TOKEN_MAX || field[n + strspn(field + n, "=")])
		return NULL;
	*ret_n = strlen(field);
	return *ret_n <= TOKEN_MAX ? field : NULL;
}

static int fail_expired(const struct token_info *token, struct fcm_error *err)
{
	return fcm_fail(err, FCM_UNAUTHORIZED, "the token ended at %s", clock_rfc3339(token->expires).s);
}

int auth_check(const struct head *head, const struct peer *peer, struct throttle *t, struct token_info *ret,
	struct fcm_error *err)
{
	const char *field = head_get(head, "authorization"), *token;
	struct token_info info;
	size_t n = 0;

	if (!field)
		return fcm_fail(err, FCM_UNAUTHORIZED, "the request carries no token");
	token = auth_bearer(field, &n);
	bool known = token && token_check(token, n, &info);
	if (known && !token_expired(&info, clock_wall())) {
		*ret = info;
		return 0;
	}
	if (throttle_failure(t, peer, clock_ms()))
		return fcm_fail(err, FCM_THROTTLED, "too many wrong tokens");
	return known ? fail_expired(&info, err)
		     : fcm_fail(err, FCM_UNAUTHORIZED, "the token isn't known here");
}

int auth_still(const struct token_info *token, struct fcm_error *err)
{
	if (token_expired(token, clock_wall()))
		return fail_expired(token, err);
	if (*token->id && !token_known(token->id))
		return fcm_fail(err, FCM_UNAUTHORIZED, "the token has been revoked");
	return 0;
}

int auth_permit(const struct route *route, const struct token_info *token, struct fcm_error *err)
{
	if (route->need == NEED_FULL && token->scope != SCOPE_FULL) {
		fcm_fail(err, FCM_FORBIDDEN, "this token may only read");
		return fcm_hint(err, "ask root for another: sudo fcm token create --scope full");
	}
	if (route->need != NEED_NONE && route->subject == SUBJECT_HOST && *token->vms) {
		fcm_fail(err, FCM_FORBIDDEN,
			"this token is for the VMs with the label %s, not for the whole host", token->vms);
		return fcm_hint(err, "ask root for another: sudo fcm token create, without --vms");
	}
	return 0;
}
