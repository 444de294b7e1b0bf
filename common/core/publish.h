/*
 * Published ports as text, as docker writes them:
 *
 *	[[HOSTIP:]HOSTPORT:]PORT[/tcp|/udp]
 *
 * HOSTPORT and PORT may be ranges of one length ("8000-8005:80-85"). Without a HOSTPORT, or with one that is 0 or empty
 * ("127.0.0.1::80"), the host chooses a free one.
 */
#pragma once

#include <netinet/in.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum { PUBLISH_MAX = 64 }; /* ports of a VM: each holds a socket */

struct publish {
	struct in_addr host;
	bool host_given;    /* else the daemon's publish_address is meant */
	uint16_t host_port; /* 0: a free one */
	uint16_t port;
	bool udp;
};

/* Owned by whoever made it. */
struct publish_list {
	struct publish v[PUBLISH_MAX];
	size_t n;
};

/* Read one and add it, each port of a range by itself. FCM_INVALID naming `field`; FCM_INVALID, too, beyond PUBLISH_MAX and
 * where two want the same port of the host. */
int publish_add(struct publish_list *l, const char *s, const char *field, struct fcm_error *err) must_check;
int publish_add_all(struct publish_list *l, const struct strv *texts, const char *field,
	struct fcm_error *err) must_check;

struct publish_text {
	char s[48];
};

/* "0.0.0.0:8080:80/tcp", which reads again as the same. */
struct publish_text publish_text(const struct publish *p);

/* Do both want the same port of the host? */
bool publish_clash(const struct publish *a, const struct publish *b);
bool publish_same(const struct publish *a, const struct publish *b);
bool publish_list_has(const struct publish_list *list, const struct publish *p);

/* A text that takes a port away, [HOSTIP:]HOSTPORT[:PORT][/tcp|/udp]: is it one? FCM_INVALID. And which of `l` does it mean? Its
 * place, or l->n with FCM_NOT_FOUND. */
bool publish_names(const char *s, const char *field, struct fcm_error *err) must_check;
size_t publish_find(
	const struct publish_list *l, const char *s, const char *field, struct fcm_error *err) must_check;
