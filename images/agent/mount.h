/*
 * The guest's root: the image, read-only and shared by all VMs, below the VM's own disk, joined by overlayfs.
 *
 * The initramfs keeps the two file systems at /image and /disk, and the overlay is moved over its root. What
 * lies beneath can't be reached by a path any more, so a descriptor of /disk is kept for the shutdown.
 */
#pragma once

#include <stdbool.h>

#include "common/core/error.h"
#include "common/core/util.h"

struct guest_root {
	bool mounted;
	int disk_fd;   /* the root of the disk's file system, once mounted */
	int cgroup_fd; /* the root of cgroup v2 then, whatever the guest does to /sys; -1 when there is none */
};

/* Mount proc, sys and dev for the initramfs itself. Errors are ignored: there is nobody to tell yet. */
void mount_early(void);

/* Mount `image` (a device, read-only) and `disk` (a device), join them, move there with proc, sys, dev, and
 * mount run, tmp, pts, shm, mqueue and cgroup2; put the agent's own file at AGENT_PATH. After an error it may
 * be called again. */
int mount_guest(struct guest_root *r, const char *image, const char *disk, struct fcm_error *err) must_check;

/* Which ssh server the guest's root has: "openssh", "dropbear" or "none". */
const char *mount_sshd(void);

/* Make what the guest wrote safe: root and disk read-only, or at least written out. For the end only. */
void mount_finish(const struct guest_root *r);
