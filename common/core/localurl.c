#include "common/core/localurl.h"

#include <arpa/inet.h>
#include <string.h>

static bool parse_host(const char *host, const char *port, struct local_url *u)
{
	int64_t number = 80;

	if (port && !fcm_parse_i64(port, 1, UINT16_MAX, &number))
		return false;
	u->port = (uint16_t)number;
	if (strcmp(host, "localhost") == 0)
		return true;
	return inet_pton(AF_INET, host, &u->address) == 1 && u->address.s_addr != htonl(INADDR_ANY);
}

/* What can stand in a request line: RFC 9112, section 3. */
static bool is_target(const char *s)
{
	for (; *s; s++)
		if (*s <= ' ' || *s > '~' || *s == '#')
			return false;
	return true;
}

int local_url_parse(const char *text, const char *key, struct local_url *ret, struct fcm_error *err)
{
	static const char scheme[] = "http://";
	struct local_url u = {.port = 0};
	char host[sizeof u.host];

	if (strlen(text) > LOCAL_URL_MAX)
		return fcm_fail_field(err, FCM_INVALID, key, "%s: longer than %d bytes", key, LOCAL_URL_MAX);
	if (strncmp(text, scheme, strlen(scheme)) != 0)
		return fcm_fail_field(err, FCM_INVALID, key, "%s: it doesn't begin with %s", key, scheme);
	const char *begin = text + strlen(scheme), *path = begin + strcspn(begin, "/?");
	if (!is_target(path))
		return fcm_fail_field(
			err, FCM_INVALID, key, "%s: the path is plain ASCII without spaces and #", key);
	bool fits = fcm_format(u.host, sizeof u.host, "%.*s", (int)(path - begin), begin);
	fcm_copy(host, sizeof host, u.host);
	char *port = strchr(host, ':');
	if (port)
		*port++ = '\0';
	if (!fits || !parse_host(host, port, &u))
		return fcm_fail_field(err, FCM_INVALID, key,
			"%s: it is asked in the guest, so its host is localhost or an IPv4 address, then "
			"maybe :PORT",
			key);
	(void)fcm_format(u.path, sizeof u.path, "%s%s", *path == '/' ? "" : "/", path);
	*ret = u;
	return 0;
}
