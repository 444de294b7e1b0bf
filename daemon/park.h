/*
 * `fcmd --park`: ask the daemon to park its VMs (POST /v1/park), as fcm-vms.service does when the host goes down.
 */
#pragma once

#include "common/core/error.h"
#include "common/core/util.h"

/* Ask through its unix socket and wait until it is done; *ret is the body of the answer, the caller's. FCM_NO_DAEMON
 * when nobody listens there, FCM_UNAVAILABLE when the daemon said no or went away. */
int park_ask(const char *socket_path, char **ret, struct fcm_error *err) must_check;
