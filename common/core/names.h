/*
 * Names and ids, as types: what writes into a Caddyfile, an nft set, a kernel command line or known_hosts takes one of
 * these and never a `char *`, so nothing unchecked can get there.
 */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/core/error.h"
#include "common/core/util.h"

/* A VM's name: 1..63 of [a-z0-9-], no dash at an edge, and nothing that reads as a dashed IPv4 address. It is a DNS
 * label (RFC 1123, section 2.1), so it can stand in front of a domain. */
struct vm_name {
	char s[64];
};

/* A VM's id: 8 of [a-z0-9]; "tap_" and an id fit in IFNAMSIZ. */
struct vm_id {
	char s[9];
};

/* A DNS name: labels of 1..63 of [a-z0-9-], at most 253 in all (RFC 1035, section 2.3.4), at least two labels. */
struct dns_name {
	char s[254];
};

/* The name of an image, a kernel or a volume: 1..63 of [a-z0-9._-], beginning with [a-z0-9], so never "..". */
struct asset_name {
	char s[64];
};

/* Is s such a name? */
bool vm_name_valid(const char *s);
bool vm_id_valid(const char *s);
bool dns_name_valid(const char *s);
bool asset_name_valid(const char *s);

/* Parse. -1 with FCM_INVALID naming `field` and saying what a right one looks like. */
int vm_name_parse(const char *s, const char *field, struct vm_name *ret, struct fcm_error *err) must_check;
int dns_name_parse(const char *s, const char *field, struct dns_name *ret, struct fcm_error *err) must_check;
int asset_name_parse(
	const char *s, const char *field, struct asset_name *ret, struct fcm_error *err) must_check;

/* A random id from getrandom(2). */
struct vm_id vm_id_random(void);

/* A random "adjective-noun" of the seed's word lists for which `taken(name, arg)` is false; after a few tries with a
 * number of 2..4 digits behind it. */
struct vm_name vm_name_random(bool (*taken)(const char *name, void *arg), void *arg);

/* An IPv4 address with dashes, "64-34-93-45". */
struct ip_text {
	char s[INET_ADDRSTRLEN];
};
struct ip_text ip_dotted(struct in_addr ip);
struct ip_text ip_dashed(struct in_addr ip);

/* An IPv4 network, host bits zero. */
struct ip_net {
	struct in_addr addr;
	unsigned prefix;
};
/* Parse "172.16.0.0/24". False when it isn't a network or host bits are set. */
bool ip_net_parse(const char *s, struct ip_net *ret);
bool ip_net_has(const struct ip_net *net, struct in_addr ip);
bool ip_net_overlap(const struct ip_net *a, const struct ip_net *b);
