/*
 * What the service manager is told (sd_notify(3)): one datagram to $NOTIFY_SOCKET. Where nobody asked, nothing happens.
 */
#pragma once

#include "daemon/loop.h"

/* Remember who wants to be told, and take the variables out of the environment: what the daemon starts must not speak
 * for it. Call it before there are threads. */
void notify_init(void);

/* "READY=1", "STOPPING=1". */
void notify_send(const char *state);

/* Where the unit has WatchdogSec=, show from the loop that it still goes round: twice in that time, as
 * sd_watchdog_enabled(3) recommends. */
int notify_watchdog(struct loop *loop, struct fcm_error *err) must_check;
