/*
 * Noticing what others change.
 */
#pragma once

#include "daemon/net/net.h"

/* See net_watch(). */
int watch_start(struct loop *loop, const struct net_events *events, struct fcm_error *err) must_check;

/* The loop of watch_start(), or NULL. */
struct loop *watch_loop(void);

/* Stop; fine when nothing was started. Not from a callback of the loop. */
void watch_stop(void);
