/*
 * systemd as the main process (mainproc.h): PID 1 of its PID namespace, as in a container, with what it needs to be stopped and
 * looked at. Other inits (s6's, busybox's, sysvinit's) need nothing: they take SIGTERM, or what their image says.
 *
 * However an init ends its namespace, by reboot(2), the agent sees it (mainproc.c), so an image needs no hook for that.
 */
#pragma once

#include <signal.h>

#include "images/agent/spawn.h"

/* systemd(1), "Signals": it shuts down. SIGTERM would have it execute itself anew. */
#define INIT_STOP_SIGNAL (SIGRTMIN + 4)

/* Does its first word lead to a file `systemd`, as /sbin/init does where that is the init, and is it root's? */
bool init_is_systemd(const struct spawn *s);

/* In the child, in its mount namespace: /run in memory, with a unit for the serial console, a root shell, as images of ours have
 * it. False with errno. */
bool init_prepare(void);
