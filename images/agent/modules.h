/*
 * Kernel modules of the initramfs.
 */
#pragma once

/* The lists in the initramfs: what every machine needs, and what only one with a vsock does (it costs 50 ms). */
#define MODULES_ALL "order"
#define MODULES_VSOCK "vsock"

/* Load the modules that /modules/<list> names, in its order, and remove them from the initramfs, whose memory they take. One
 * that can't be loaded is said on the console; what needed it fails by itself. */
void modules_load(const char *list);
