/*
 * Kernel modules of the initramfs.
 */
#pragma once

/* The lists in the initramfs: what every machine needs; what only one with a vsock does (it costs 50 ms); what closes
 * connections in a clone (sockets.h). */
#define MODULES_ALL "order"
#define MODULES_VSOCK "vsock"
#define MODULES_DIAG "diag"

/* Open the directory that they are in, for the others below: it can't be reached by its path once the guest's root is mounted.
 * -1 when there is none. */
int modules_open(void);

/* Load the modules that the file <list> names, in its order, and remove them and the list from the initramfs, whose memory they
 * take. So a second time nothing happens. One that can't be loaded is said on the console; what needed it fails by itself. */
void modules_load(int dir, const char *list);
