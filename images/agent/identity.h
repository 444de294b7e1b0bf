/*
 * What makes a machine another one than that whose memory it has (docs/AGENT.md, "Identity"): random numbers, MAC, machine id, and
 * no connection of the old one. Its address and files are the business of `net` and `file`.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"
#include "images/agent/net.h"

enum { IDENTITY_ENTROPY_MIN = 32, IDENTITY_ENTROPY_MAX = 512, IDENTITY_ID_DIGITS = 32 };

struct identity {
	uint8_t entropy[IDENTITY_ENTROPY_MAX];
	size_t entropy_bytes;
	bool has_mac;
	uint8_t mac[NET_MAC_BYTES];
	char machine_id[IDENTITY_ID_DIGITS + 1]; /* "": it is left alone */
};

/* Read the arguments of `identity` from a kv list. -1 with FCM_INVALID naming the field. */
int identity_parse(const void *kv, size_t n, struct identity *ret, struct fcm_error *err) must_check;

/* Become it; *have is the network of before, which goes. Adds to *results what docs/AGENT.md says. After an error it may be
 * called again. */
int identity_apply(const struct identity *id, struct guest_net *have, struct buf *results,
	struct fcm_error *err) must_check;

/* Write the id into the file `path` where that is one, and nothing where it isn't (machine-id(5)). */
int identity_write_id(const char *path, const char *id, struct fcm_error *err) must_check;
