/*
 * fcm-agent: PID 1 of a guest, and the daemon's hand in it. docs/AGENT.md is the protocol.
 *
 * Theory of operation. The agent is /init of the initramfs. It loads the modules that lie beside it, finds
 * the channel to the host and then only answers: the host says what to mount, which address to take, which
 * files to write, and when to start what the image runs. After `mount` its root is the guest's root, and it
 * lives on as the guest's PID 1: it reaps orphans, hears the signals of poweroff(8) and friends, and ends the
 * machine in good order; or it gives PID 1 to the image's own init and lives on beside it (yield.h). It has one
 * thread and one loop (main.c); nothing in it blocks on the host or on a process of the guest.
 *
 * The host is trusted, yet everything it sends is bounded, and a host that dies at any byte leaves the agent
 * fit for the next one (channel.h). What goes wrong inside the guest must never end PID 1: that is a kernel
 * panic.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "images/agent/channel.h"
#include "images/agent/exec.h"
#include "images/agent/freeze.h"
#include "images/agent/mount.h"
#include "images/agent/net.h"
#include "images/agent/power.h"
#include "images/agent/volume.h"

/* Where the agent is found in the running guest: images link poweroff, reboot, halt and shutdown to it. */
#define AGENT_PATH "/run/fcm/agent"

struct agent {
	struct channel channel;
	struct power power;
	struct guest_root root;
	struct volumes volumes;
	struct execs execs;
	struct mainproc main;
	struct freezer freezer;
	struct guest_net net; /* what op=net has set */
	int modules;	      /* see modules.h */
	char boot_id[40];     /* of /proc/sys/kernel/random/boot_id */
	bool started;	      /* the image's rc, or its init, was started in this boot */
	char *argv0;	      /* our own, where the kernel keeps it */
	bool yielded;	      /* PID 1 is the image's init (yield.h), */
	bool init_ended;      /* and that has ended everything */
};
