/*
 * Does something in this guest answer on a port? The network's part of op=probe (docs/AGENT.md).
 *
 * It runs in a child (spawn.h), so it may block, and nothing that a server sends reaches PID 1. Only this machine is asked:
 * loopback, and addresses that are its own.
 */
#pragma once

#include <netinet/in.h>

#include "common/core/localurl.h"

enum {
	PROBE_TIMEOUT_MS = 5000, /* when the host doesn't say */
	PROBE_TIMEOUT_MAX_MS = 600000,
	PROBE_ADDRESSES = 3,
};

enum probe_mode { PROBE_TCP, PROBE_SSH, PROBE_HTTP };

struct probe {
	enum probe_mode mode;
	struct in_addr address; /* of the guest, tried after 127.0.0.1 and ::1; 0: none */
	uint16_t port;
	int64_t timeout_ms; /* of all together */
	struct local_url url;
};

/* Read the arguments of op=probe from a kv list. -1 with FCM_INVALID naming the field. */
int probe_parse(const void *kv, size_t n, struct probe *ret, struct fcm_error *err) must_check;

/* Ask. Returns the exit status: 0 when the port answers (tcp: takes a connection; ssh: sends "SSH-", RFC 4253, section 4.2;
 * http: GET has a status of 200 to 399), else 1 with a line on stdout that says what happened. `probe`: struct probe. */
int probe_run(const void *probe);
