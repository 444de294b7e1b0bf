/*
 * Kernel modules of the initramfs.
 */
#pragma once

/* Load the modules that /modules/order lists, in its order, and remove them from the initramfs, whose memory
 * they take. One that can't be loaded is said on the console; what needed it fails by itself. */
void modules_load(void);
