/*
 * An image with an init of its own, such as systemd's: the agent gives PID 1 to it and lives on beside it.
 *
 * Theory of operation. At `start` the agent forks. The parent, PID 1, executes the image's init; the child is the agent from
 * then on, with the channel and all that it knows, so the host notices nothing. It is no service of that init: it was there
 * before it and is there after it, so that commands run in the guest, and the host hears what is meant, to the last moment.
 * The '@' in front of its name keeps systemd's killing at the end away from it (systemd.io/ROOT_STORAGE_DAEMONS).
 *
 * The end: a host that wants it makes us ask PID 1 by signal (systemd(1), "Signals"). Whoever asked, when that init has ended
 * everything it tells us (SIGUSR1: for a reboot, SIGUSR2: for a poweroff; an image has a hook for that), and we do what we do as
 * PID 1, too: say what is meant, make the disks safe, reset the machine. An init that doesn't come to that in the time that the
 * host gave is overtaken.
 */
#pragma once

#include <stdbool.h>

#include "common/core/error.h"
#include "common/core/util.h"
#include "images/agent/power.h"

/* An executable, or a link to one: what the image wants as PID 1. */
#define YIELD_INIT "/etc/fcm/init"

/* Where the init finds our pid, to tell us that it has ended everything. */
#define YIELD_PID "/run/fcm/agent.pid"

/* Has the image an init of its own? */
bool yield_wanted(void);

/* Give PID 1 to it. Returns 0 in the new process, when the init runs; -1 in the old one when it can't be executed. `argv0` is
 * our argv[0], where the kernel keeps it. */
int yield_pid1(char *argv0, struct fcm_error *err) must_check;

/* Ask PID 1 to end the machine. */
void yield_ask(enum power_intent intent);
