/*
 * The end of the machine.
 *
 * x86 Firecracker has no power-off, and a panic looks like a reboot from outside. So the host is told first
 * what is meant (EVENT power), and then the machine is always reset: the host, which runs the VMM with "don't
 * reboot", starts it again or leaves it.
 *
 * Order: the word to the host; the main process's own signal, and its end; SIGTERM to all; when all are gone or the grace is over SIGKILL; root and disk
 * read-only; reset. It is a small state machine, driven by the loop, so that the channel is served to the
 * end.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/core/error.h"
#include "common/core/util.h"

enum power_intent { POWER_OFF, POWER_REBOOT };

enum {
	POWER_GRACE_MS = 3000,	     /* between SIGTERM and SIGKILL when the guest itself asked */
	POWER_GRACE_MAX_MS = 600000, /* the most that a host may ask for */
	POWER_KILL_MS = 500,  /* for SIGKILL to do its work; what is stuck in the kernel is left there */
	POWER_WORD_MS = 1000, /* for a host that isn't listening to come and hear the intent */
};

enum power_phase { POWER_UP, POWER_MAIN, POWER_TERM, POWER_KILL, POWER_WORD, POWER_END };

struct power {
	enum power_phase phase;
	enum power_intent intent;
	int64_t deadline; /* of the phase, on clock_ms() */
};

/* "poweroff" or "reboot", as they stand in the protocol. */
const char *power_intent_name(enum power_intent intent);

/* False when `s` is NULL or neither of them. */
bool power_intent_parse(const char *s, enum power_intent *ret);

/* First the main process has so long to end by the signal that it was sent. */
void power_hold(struct power *p, enum power_intent intent, int64_t grace_ms);

/* Begin to end the machine: SIGTERM to all processes. The first call decides; a later one only shortens the
 * grace (in ms): an impatient host doesn't wait for a patient guest. The host must have been told before. */
void power_begin(struct power *p, enum power_intent intent, int64_t grace_ms);

/* Go on where it is time to: `alone` says that PID 1 has no child left, `told` that the host has taken all
 * that was queued for it. In POWER_END the caller makes the disks safe and resets the machine. */
void power_tick(struct power *p, bool alone, bool told);

/* When power_tick() must be called at the latest, on clock_ms(); FCM_FOREVER in POWER_UP. */
int64_t power_deadline(const struct power *p);

/* Write "fcm-agent: power poweroff|reboot" on the console: what a host reads that wasn't there to hear it. */
void power_say(enum power_intent intent);

/* What poweroff(8), reboot(8), halt(8) and shutdown(8) mean, by the name they were called with. -1 with
 * FCM_USAGE when argv asks for something that we can't do, such as a shutdown in an hour. */
int power_command_parse(
	int argc, char *const argv[], enum power_intent *ret, struct fcm_error *err) must_check;

/* Ask PID 1 for it (SIGUSR2 or SIGTERM, as busybox init has it), or end the namespace of the main process. Returns the exit status
 * of the command. */
int power_command(int argc, char *const argv[]);

/* Reset the machine. Doesn't return. */
_Noreturn void power_reset(void);
